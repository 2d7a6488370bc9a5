"""Whole programs against dense arithmetic on unpacked matrices: every mode, ratio and format, ragged shapes."""

import numpy as np
import pytest

from hwgen.arch import load
from hwgen.arch.commands import command
from hwgen.arch.isa import Dataflow, Format, Opcode, Operation, Target
from models.formats import encode, fp32_bits, fp32_values, narrow
from models.machine import Machine
from models.matmul import chain
from models.packing import (
    fp32_bytes,
    fp32_from_bytes,
    matrix_bytes,
    matrix_from_bytes,
    pack_weights,
)
from models.sparsity import nm_mask
from tests.models.support import ARCHES, SEED, assert_bits, normal_operands, run

ACT, WGT, IDX, BIAS, OUT = 0x10000, 0x20000, 0x30000, 0x40000, 0x50000
RATIOS = [None, (1, 4), (2, 4), (2, 8), (4, 8), (2, 16), (3, 5)]


def random_case(chosen, ratio, seed, max_rows):
    """Activations `[P, K]`, weights `[K, S]` (pruned ones +0) and their mask, with shapes that divide nothing."""
    rng = np.random.default_rng(seed)
    rows, depth = int(rng.integers(1, max_rows + 1)), int(rng.integers(1, 50))
    columns = int(rng.integers(1, 3 * chosen.array.cols + 1))
    values = rng.standard_normal((depth, columns), dtype=np.float32)
    mask = np.ones(values.shape, bool) if ratio is None else nm_mask(values, *ratio, axis=0)
    weights = np.where(mask, encode(values, chosen.array.operand), np.uint16(0))
    return normal_operands(rng, (rows, depth), chosen.array.operand), weights, mask


def packed(weights, chosen, ratio, mask):
    tile_cols = -(-weights.shape[1] // chosen.array.cols)
    if ratio is None:
        return pack_weights(weights, chosen, tile_cols=tile_cols)
    return pack_weights(weights, chosen, tile_cols=tile_cols, n=ratio[0], m=ratio[1], mask=mask)


def load_weights(machine, tile):
    """Put a packed tile into memory; the commands that load it to word 0."""
    machine.memory.write(WGT, tile.value_bytes())
    beats = len(tile.value_bytes()) // machine.arch.beat_bytes
    items = [command(Opcode.LOAD, target=Target.WGT, rows=1, beats=beats, dram_addr=WGT)]
    if tile.indices is not None:
        machine.memory.write(IDX, tile.index_bytes())
        beats = len(tile.index_bytes()) // machine.arch.beat_bytes
        items.append(command(Opcode.LOAD, target=Target.IDX, rows=1, beats=beats, dram_addr=IDX))
    return items


def ratio_fields(ratio) -> dict:
    return {} if ratio is None else {"sparse": 1, "n": ratio[0], "m": ratio[1]}


def load_rows(machine, activations, words):
    """Put activations into memory; the command that loads row blocks `words` words apart, zeros behind each row."""
    image = matrix_bytes(activations, machine.arch)
    machine.memory.write(ACT, image)
    beats = len(image) // machine.arch.beat_bytes // len(activations)
    place = {"dram_addr": ACT, "row_stride": beats * machine.arch.beat_bytes, "stride": words}
    return command(Opcode.LOAD, target=Target.ACT_ROWS, rows=len(activations), beats=beats, pad=words - beats, **place)


def store(machine, rows, columns, form=Format.FP32):
    """The command that stores `[rows, columns]` from word 0 with rows packed, and the bytes that it writes."""
    words = -(-columns // machine.arch.array.cols)
    size = words * machine.arch.beat_bytes * (2 if form == Format.FP32 else 1)
    place = {"dram_addr": OUT, "row_stride": size, "stride": words, "words": words, "rows": rows}
    lanes = columns - (words - 1) * machine.arch.array.cols
    return command(Opcode.STORE, format=form, lanes=lanes, **place), size * rows


def output_stationary(chosen, activations, weights, mask, ratio, split=False):
    """FP32 bits `[P, S]` that an output-stationary program stores; `split` cuts the reduction into two instructions."""
    machine = Machine(chosen, 1 << 20)
    tile = packed(weights, chosen, ratio, mask)
    words = -(-tile.groups * tile.group_size // chosen.array.cols)
    tile_rows = -(-len(activations) // chosen.array.rows)
    common = {**ratio_fields(ratio), "tile_cols": tile.tile_cols, "tile_rows": tile_rows, "rows": len(activations)}
    common |= {"act_stride": words, "acc_stride": tile.tile_cols}
    parts = [(0, tile.groups)]
    if split:
        # The second part must begin on an activation word.
        step = chosen.array.cols // np.gcd(chosen.array.cols, tile.group_size)
        cut = tile.groups // 2 // step * step
        parts = [(0, cut), (cut, tile.groups)] if cut else parts
    tensors = [
        command(
            Opcode.TENSOR,
            groups=end - begin,
            act_addr=begin * tile.group_size // chosen.array.cols,
            wgt_addr=begin * tile.words_per_group * tile.tile_cols,
            first=int(begin == 0),
            last=int(end == tile.groups),
            **common,
        )
        for begin, end in parts
    ]
    save, size = store(machine, len(activations), weights.shape[1])
    run(machine, *load_weights(machine, tile), load_rows(machine, activations, words), *tensors, save)
    image = machine.memory.read(OUT, size)
    return fp32_from_bytes(image, chosen, len(activations), weights.shape[1])


def weight_stationary(chosen, activations, weights, mask, ratio):
    """FP32 bits `[P, S]` of a weight-stationary program in passes of R groups.

    Activations are spread by ACT_CHUNKS if the group is a power of two, else by hand.
    """
    machine = Machine(chosen, 1 << 20)
    tile = packed(weights, chosen, ratio, mask)
    banks, cols, size = chosen.array.rows, chosen.array.cols, tile.group_size
    rows, depth = len(activations), tile.groups * size
    words = -(-rows * size // cols)
    wide = np.pad(activations, [(0, 0), (0, depth - activations.shape[1])])
    run(machine, *load_weights(machine, tile))
    for number, begin in enumerate(range(0, tile.groups, banks)):
        groups = min(banks, tile.groups - begin)
        part = wide[:, begin * size : (begin + groups) * size]
        addr = number % 2 * words
        if size & (size - 1):
            spread = np.zeros((banks, words * cols), np.uint16)
            spread[:groups, : rows * size] = part.reshape(rows, groups, size).transpose(1, 0, 2).reshape(groups, -1)
            machine.state.act[:, addr * cols : (addr + words) * cols] = spread
        else:
            image = matrix_bytes(part, chosen, -(-groups * size // cols))
            machine.memory.write(ACT, image)
            place = {"dram_addr": ACT, "row_stride": len(image) // rows, "rows": rows, "addr": addr}
            beats = len(image) // rows // chosen.beat_bytes
            pad = max(0, banks * size // cols - beats)
            chunk_log2 = size.bit_length() - 1
            run(
                machine,
                command(Opcode.LOAD, target=Target.ACT_CHUNKS, chunk_log2=chunk_log2, beats=beats, pad=pad, **place),
            )
        common = {**ratio_fields(ratio), "tile_cols": tile.tile_cols, "rows": rows, "acc_stride": tile.tile_cols}
        wgt_addr = begin * tile.words_per_group * tile.tile_cols
        common |= {"dataflow": Dataflow.WEIGHT_STATIONARY, "act_addr": addr, "wgt_addr": wgt_addr, "groups": groups}
        run(machine, command(Opcode.TENSOR, first=int(begin == 0), last=1, **common))
    save, length = store(machine, rows, weights.shape[1])
    run(machine, save)
    return fp32_from_bytes(machine.memory.read(OUT, length), chosen, rows, weights.shape[1])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("name", ARCHES)
def test_both_dataflows_give_the_masked_dense_product(name, ratio, seed):
    chosen = ARCHES[name]
    space = 2 * chosen.array.rows if chosen.array.act_buffer // 2 >= 24 or ratio != (2, 16) else chosen.array.rows
    activations, weights, mask = random_case(chosen, ratio, [SEED, seed], max_rows=space)
    expected = chain(activations, weights, chosen.array.operand)
    assert np.isfinite(fp32_values(expected)).all()
    for split in (False, True):
        actual = output_stationary(chosen, activations, weights, mask, ratio, split)
        assert_bits(actual, expected, f"OS split={split} of {activations.shape} x {weights.shape}, seed {seed}")
    actual = weight_stationary(chosen, activations, weights, mask, ratio)
    assert_bits(actual, expected, f"WS of {activations.shape} x {weights.shape}, seed {seed}")


def test_layer_with_bias_relu_and_residual():
    chosen = ARCHES["tiny"]
    machine = Machine(chosen, 1 << 20)
    rng = np.random.default_rng(SEED)
    activations, weights = normal_operands(rng, (7, 20), "fp16"), normal_operands(rng, (20, 9), "fp16")
    bias = rng.standard_normal((1, 9), dtype=np.float32)
    residual = normal_operands(rng, (7, 9), "fp16")
    tile = pack_weights(weights, chosen, tile_cols=3)
    machine.memory.write(BIAS, fp32_bytes(bias.view(np.uint32), chosen))
    machine.memory.write(BIAS + 0x1000, matrix_bytes(residual, chosen))
    rows = {"rows": 7, "words": 3}
    save, size = store(machine, 7, 9, Format.OPERAND)
    run(
        machine,
        *load_weights(machine, tile),
        load_rows(machine, activations, 5),
        command(Opcode.LOAD, target=Target.ACC32, rows=1, beats=6, addr=100, dram_addr=BIAS),
        command(
            Opcode.LOAD,
            target=Target.ACC16,
            rows=7,
            beats=3,
            addr=200,
            stride=3,
            dram_addr=BIAS + 0x1000,
            row_stride=24,
        ),
        command(
            Opcode.TENSOR, first=1, last=1, tile_cols=3, tile_rows=2, groups=20, rows=7, act_stride=5, acc_stride=3
        ),
        command(Opcode.VECTOR, operation=Operation.ADD, x_stride=3, y_addr=100, y_stride=0, d_stride=3, **rows),
        command(Opcode.VECTOR, operation=Operation.ADD, relu=1, x_stride=3, y_addr=200, y_stride=3, d_stride=3, **rows),
        save,
    )
    total = fp32_values(chain(activations, weights, "fp16")) + bias + residual.view(np.float16).astype(np.float32)
    expected = narrow(fp32_bits(np.maximum(total, np.float32(0))), "fp16")
    assert_bits(matrix_from_bytes(machine.memory.read(OUT, size), chosen, 7, 9), expected, "layer")


def test_scratchpads_keep_their_contents_between_runs():
    machine = Machine(ARCHES["tiny"], {0: bytes(range(64))})
    run(machine, command(Opcode.LOAD, target=Target.ACC32, rows=1, beats=2))
    machine.memory.write(0, bytes(64))
    result = run(machine, command(Opcode.STORE, rows=1, words=1, lanes=4))
    assert machine.memory.read(0, 16) == bytes(range(16))
    assert (result.instructions, result.tensor, result.beats, result.useful_macs) == (1, (), 0, 0)


def test_empty_program_does_nothing():
    assert Machine(ARCHES["tiny"], 64).run(b"").instructions == 0


@pytest.mark.parametrize("name", ["tiny", "tiny2", "sat16", "sat32", "vcu1525"])
def test_every_preset_multiplies(name):
    chosen = load(name)
    activations, weights, mask = random_case(chosen, (2, 8), [SEED, 9], max_rows=2 * chosen.array.rows)
    expected = chain(activations, weights, chosen.array.operand)
    assert_bits(output_stationary(chosen, activations, weights, mask, (2, 8)), expected, name)

"""Weights column by column: images against STORE, inverses, and products of what LOAD brings into the scratchpad."""

import numpy as np
import pytest

from hwgen.arch import UserError
from hwgen.arch.commands import command
from hwgen.arch.isa import Format, Opcode, Target
from models.formats import decode, fp32_bits
from models.machine import Machine
from models.matmul import chain
from models.packing import column_beats, dense_columns, from_dense_columns, from_packed_columns, packed_columns
from models.sparsity import nm_mask
from tests.models.support import ARCHES, SEED, assert_bits, normal_operands, run

RATIOS = [(1, 4), (2, 4), (2, 8), (4, 8), (2, 16), (3, 5), (1, 1), (7, 7)]
OUT = 0x4000


def with_ties(rng, shape, operand) -> np.ndarray:
    """Operands of which many have equal magnitudes, zeros of both signs among them."""
    few = np.array([0x0000, 0x8000, 0x3C00, 0xBC00, 0x4000], dtype=np.uint16)
    return np.where(rng.random(shape) < 0.5, rng.choice(few, shape), normal_operands(rng, shape, operand))


def masked(bits, operand, n, m) -> np.ndarray:
    """Weights with those that n:m prunes as +0; the last group may be short."""
    return np.where(nm_mask(decode(bits, operand), n, m, axis=0), bits, np.uint16(0))


@pytest.mark.parametrize("shape", [(1, 1), (16, 4), (37, 11)])
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("name", ARCHES)
def test_images_and_their_inverses(name, ratio, shape):
    chosen = ARCHES[name]
    bits = with_ties(np.random.default_rng(SEED), shape, chosen.array.operand)
    blocks = -(-shape[1] // chosen.array.cols)
    image = dense_columns(bits, chosen)
    assert len(image) == blocks * column_beats(chosen, shape[0]) * chosen.beat_bytes
    assert_bits(from_dense_columns(image, chosen, *shape), bits, "dense")
    image = packed_columns(bits, chosen, *ratio)
    assert len(image) == blocks * column_beats(chosen, shape[0], *ratio) * chosen.beat_bytes
    assert_bits(
        from_packed_columns(image, chosen, *shape, *ratio), masked(bits, chosen.array.operand, *ratio), "packed"
    )


def test_packed_layout_by_hand():
    # Two lanes, 3:4: a group takes two words, so four slots of which the last is free; 8 weights are two quads.
    column = np.array([0x3C00, 0, 0xC000, 0x3C00, 0x8000, 0x8000, 0, 0x4200], dtype=np.uint16)[:, None]
    beats = packed_columns(column, ARCHES["tiny2"], 3, 4).hex(" ", 8).split()
    assert " ".join(beat[:4] for beat in beats[:4] + beats[5:9]) == "003c 00c0 003c 0000 0080 0080 0042 0000"
    assert not any(int(beat[4:], 16) for beat in beats[:4] + beats[5:9])
    # The other columns are zeros, of which the first three stay.
    assert [beats[4], beats[9]] == ["0000" + "1211" + "2322" + "0000", "0000" + "1111" + "2322" + "0000"]


def test_image_of_another_size_is_refused():
    with pytest.raises(UserError, match=r"^an image of 2 blocks of 3 beats must have 48 bytes, not 40$"):
        from_dense_columns(bytes(40), ARCHES["tiny"], 3, 5)
    with pytest.raises(UserError, match=r"^an image of 1 blocks of 5 beats must have 40 bytes, not 48$"):
        from_packed_columns(bytes(48), ARCHES["tiny"], 8, 4, 2, 4)


def test_not_a_number_is_refused():
    with pytest.raises(UserError, match=r"^weights must be finite: element \[2, 0\] is nan$"):
        packed_columns(np.array([[0], [0], [0x7E00], [0]], np.uint16), ARCHES["tiny"], 2, 4)


def store(chosen, values, form, transpose, ratio=(0, 0)) -> bytes:
    """What STORE writes of FP32 `values` `[rows, columns]`."""
    rows, cols = values.shape[0], chosen.array.cols
    words = -(-values.shape[1] // cols)
    machine = Machine(chosen, 1 << 16)
    wide = np.pad(values, [(0, 0), (0, words * cols - values.shape[1])])
    machine.state.acc[: rows * words] = fp32_bits(wide).reshape(-1, cols)
    blocks, depth = (rows // cols, words * cols) if transpose else (words, rows)
    beats = column_beats(chosen, depth, *ratio) if form == Format.PACKED else depth
    place = {"rows": rows, "words": words, "stride": words, "lanes": values.shape[1] - (words - 1) * cols}
    shape = {"transpose": transpose, "n": ratio[0], "m": ratio[1], "row_stride": beats * chosen.beat_bytes}
    run(machine, command(Opcode.STORE, format=form, **place, **shape))
    return machine.memory.read(0, blocks * beats * chosen.beat_bytes)


@pytest.mark.parametrize("transpose", [0, 1])
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("name", ARCHES)
def test_images_are_what_store_writes(name, ratio, transpose):
    chosen = ARCHES[name]
    depth, columns = 4 * ratio[1], 12
    bits = with_ties(np.random.default_rng(SEED), (depth, columns), chosen.array.operand)
    values = decode(bits, chosen.array.operand)
    values = values.T if transpose else values[:, :10]
    bits = bits if transpose else bits[:, :10]
    assert store(chosen, values, Format.DENSE, transpose) == dense_columns(bits, chosen)
    assert store(chosen, values, Format.PACKED, transpose, ratio) == packed_columns(bits, chosen, *ratio)


@pytest.mark.parametrize("ratio", [None, *RATIOS])
@pytest.mark.parametrize("name", ARCHES)
def test_product_of_loaded_columns(name, ratio):
    # Weights [depth, 11] as STORE leaves them, by LOAD COLS or PACKED to a tile of three column blocks.
    chosen, rng = ARCHES[name], np.random.default_rng(SEED)
    group = ratio[1] if ratio else chosen.array.lanes
    depth, rows, cols = 3 * group, chosen.array.rows, chosen.array.cols
    bits = with_ties(rng, (depth, 11), chosen.array.operand)
    activations = normal_operands(rng, (rows, depth), chosen.array.operand)
    image = packed_columns(bits, chosen, *ratio) if ratio else dense_columns(bits, chosen)
    beats = column_beats(chosen, depth, *(ratio or ()))
    machine = Machine(chosen, {0: image})
    machine.state.act[:, 4 * cols : 4 * cols + depth] = activations
    target = Target.PACKED if ratio else Target.COLS
    place = {"addr": 9, "stride": 3, "rows": 3, "beats": beats, "row_stride": beats * chosen.beat_bytes}
    sparse = {"sparse": 1, "n": ratio[0], "m": ratio[1]} if ratio else {}
    shape = {"tile_cols": 3, "tile_rows": 1, "groups": 3, "rows": rows, "act_addr": 4, "wgt_addr": 9, "acc_stride": 3}
    run(
        machine,
        command(Opcode.LOAD, target=target, **place),
        command(Opcode.TENSOR, first=1, last=1, **shape, **sparse),
    )
    kept = masked(bits, chosen.array.operand, *ratio) if ratio else bits
    result = machine.state.acc[: 3 * rows].reshape(rows, -1)[:, :11]
    assert_bits(result, chain(activations, kept, chosen.array.operand), f"{name} {ratio}")

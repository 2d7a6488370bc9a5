"""LOAD against the table of ISA.md, written as a loop over single operands."""

import numpy as np
import pytest

from hwgen.arch.commands import command
from hwgen.arch.isa import Opcode, Target, load_opcode
from models.formats import decode, fp32_bits
from models.machine import Machine
from tests.models.support import SEED, arch, assert_bits, run

ARCHES = {"tiny": arch("tiny"), "tiny2": arch("tiny2"), "four lanes": arch("tiny", lanes=4, operand="bf16")}
SIZE = 1 << 14
PADS = ("act", "wgt", "idx", "acc", "curve")


def loaded_by_hand(machine, memory: bytes, item) -> dict[str, np.ndarray]:
    """Scratchpads after the instruction, operand by operand."""
    chosen, state = machine.arch, machine.state
    cols, lanes, banks = chosen.array.cols, chosen.array.lanes, chosen.array.rows
    pads = {name: getattr(state, name).copy() for name in PADS}
    for y in range(item.rows):
        for x in range(item.planes * item.beats + item.pad):
            beat = bytes(chosen.beat_bytes)
            if x < item.planes * item.beats:
                z, b = divmod(x, item.beats)
                start = item.dram_addr + y * item.row_stride + z * item.plane_stride + b * chosen.beat_bytes
                beat = memory[start : start + chosen.beat_bytes]
            number = int.from_bytes(beat, "little")
            operands = [number >> (16 * i) & 0xFFFF for i in range(cols)]
            match Target(item.target):
                case Target.ACT_ROWS:
                    word = item.addr + y // banks * item.stride + x
                    pads["act"][y % banks, word * cols : word * cols + cols] = operands
                case Target.ACT_CHUNKS:
                    chunk = 2**item.chunk_log2
                    for i, value in enumerate(operands):
                        unit, offset = divmod(x * cols + i, chunk)
                        if unit < banks or item.stride:
                            word = item.addr + unit // banks * item.stride
                            pads["act"][unit % banks, word * cols + y * chunk + offset] = value
                case Target.WGT:
                    pads["wgt"][item.addr + y * item.stride + x // lanes, x % lanes] = operands
                case Target.IDX:
                    for i in range(4 // lanes):
                        for lane, c in np.ndindex(lanes, cols):
                            index = number >> (i * 4 * lanes * cols + 4 * (lane * cols + c)) & 15
                            pads["idx"][item.addr + y * item.stride + x * (4 // lanes) + i, lane, c] = index
                case Target.ACC32:
                    half = [number >> (32 * i) & 0xFFFFFFFF for i in range(cols // 2)]
                    first = x % 2 * (cols // 2)
                    pads["acc"][item.addr + y * item.stride + x // 2, first : first + cols // 2] = half
                case Target.ACC16:
                    wide = fp32_bits(decode(np.array(operands, np.uint16), chosen.array.operand))
                    pads["acc"][item.addr + y * item.stride + x] = wide
                case Target.CURVE:
                    line = [int.from_bytes(beat[place : place + 4], "little") for place in (0, 4)]
                    pads["curve"][item.addr + y * item.stride + x] = line
                case Target.COLS:
                    pads["wgt"][item.addr + y + x // lanes * item.stride, x % lanes] = operands
                case Target.PACKED:
                    quad, i = divmod(x, 5)
                    slots = range(4 * quad, 4 * quad + 4) if i == 4 else [4 * quad + i]
                    for s in slots:
                        place = (item.addr + y + s // lanes * item.stride, s % lanes)
                        indices = [number >> 4 * (s % 4 * cols + c) & 15 for c in range(cols)]
                        pads["idx" if i == 4 else "wgt"][place] = indices if i == 4 else operands
    return pads


def machine_with_noise(chosen) -> tuple[Machine, bytes]:
    rng = np.random.default_rng(SEED)
    memory = rng.integers(0, 256, SIZE, dtype=np.uint8).tobytes()
    machine = Machine(chosen, {0: memory})
    for name in PADS:
        pad = getattr(machine.state, name)
        pad[:] = rng.integers(0, 16, pad.shape)
    return machine, memory


CASES = [
    {"target": Target.ACT_ROWS, "rows": 11, "beats": 3, "pad": 2, "stride": 7, "addr": 5},
    {"target": Target.ACT_ROWS, "rows": 9, "beats": 4, "stride": 2, "addr": 1},  # blocks overlap: the later one stays
    {"target": Target.ACT_ROWS, "rows": 3, "pad": 2, "addr": 1},
    *(
        {"target": Target.ACT_CHUNKS, "chunk_log2": log2, "rows": 6, "beats": beats, "pad": pad, "addr": 3}
        for log2 in range(7)
        for beats, pad in ((1, 0), (5, 1), (17, 0))
    ),
    {"target": Target.WGT, "rows": 1, "beats": 20, "addr": 4},
    {"target": Target.WGT, "rows": 3, "beats": 7, "pad": 2, "stride": 11, "addr": 4},
    {"target": Target.IDX, "rows": 1, "beats": 5, "addr": 8},
    {"target": Target.IDX, "rows": 3, "beats": 2, "pad": 1, "stride": 16, "addr": 8},
    {"target": Target.ACC32, "rows": 4, "beats": 6, "stride": 5, "addr": 9},
    {"target": Target.ACC32, "rows": 4, "beats": 3, "pad": 1, "stride": 5, "addr": 9},
    {"target": Target.ACC32, "rows": 3, "beats": 4, "stride": 0, "addr": 9},  # every row lands on the same words
    {"target": Target.ACC16, "rows": 4, "beats": 3, "pad": 1, "stride": 5, "addr": 9},
    *(
        # Values wrap around the banks, into other words or over those of an earlier wrap.
        {"target": Target.ACT_CHUNKS, "chunk_log2": log2, "rows": 6, "beats": 13, "pad": 1, "addr": 3, "stride": stride}
        for log2 in range(5)
        for stride in (1, 18)
    ),
    {"target": Target.CURVE, "rows": 3, "beats": 7, "pad": 2, "stride": 20, "addr": 5},
    {"target": Target.CURVE, "rows": 5, "beats": 4, "stride": 3, "addr": 4},  # later rows over earlier ones
    {"target": Target.COLS, "rows": 3, "beats": 7, "pad": 2, "stride": 5, "addr": 4},
    {"target": Target.COLS, "rows": 5, "beats": 7, "stride": 3, "addr": 4},  # later blocks overwrite earlier ones
    {"target": Target.PACKED, "rows": 3, "beats": 10, "stride": 4, "addr": 4},
    {"target": Target.PACKED, "rows": 2, "beats": 13, "pad": 7, "stride": 1, "addr": 4},
]
PLANES = [
    {"target": Target.ACT_ROWS, "rows": 11, "beats": 3, "stride": 11, "planes": 3, "pad": 1},
    {"target": Target.ACT_CHUNKS, "chunk_log2": 1, "rows": 5, "beats": 1, "planes": 6, "pad": 1},
    {"target": Target.WGT, "rows": 6, "beats": 1, "planes": 4, "pad": 3, "stride": 7, "addr": 2},
    {"target": Target.IDX, "rows": 2, "beats": 2, "planes": 3, "stride": 24, "addr": 8},
    {"target": Target.ACC32, "rows": 3, "beats": 3, "planes": 2, "stride": 3, "addr": 9},
    {"target": Target.ACC32, "rows": 3, "beats": 1, "planes": 5, "pad": 3, "stride": 4, "addr": 9},
    {"target": Target.ACC16, "rows": 4, "beats": 2, "planes": 3, "stride": 6},
    {"target": Target.COLS, "rows": 3, "beats": 4, "planes": 3, "pad": 1, "stride": 3, "addr": 1},
    {"target": Target.PACKED, "rows": 2, "beats": 3, "planes": 3, "pad": 1, "stride": 2, "addr": 1},
    {"target": Target.ACT_ROWS, "rows": 2, "beats": 0, "planes": 3, "pad": 2},
]


def test_transposing_load():
    # 8 rows of 8 columns by chunks of one value: bank r holds columns r and, a stride of words on, r + 4.
    matrix = np.arange(64, dtype=np.uint16).reshape(8, 8)
    machine = Machine(ARCHES["tiny"], {0: matrix.tobytes()})
    run(machine, command(Opcode.LOAD, target=Target.ACT_CHUNKS, rows=8, beats=2, row_stride=16, addr=1, stride=3))
    assert (machine.state.act[:, 4:12] == matrix[:, :4].T).all()
    assert (machine.state.act[:, 16:24] == matrix[:, 4:].T).all()


@pytest.mark.parametrize("plane_beats", [0, 1, 11])
@pytest.mark.parametrize("case", PLANES, ids=lambda case: f"{case['target'].name}-{case['planes']}")
@pytest.mark.parametrize("name", ARCHES)
def test_planes_are_runs_of_one_row(name, case, plane_beats):
    chosen = ARCHES[name]
    machine, memory = machine_with_noise(chosen)
    strides = {"row_stride": 23 * chosen.beat_bytes, "plane_stride": plane_beats * chosen.beat_bytes}
    item = command(load_opcode(chosen, case["target"]), dram_addr=6 * chosen.beat_bytes, **strides, **case)
    expected = loaded_by_hand(machine, memory, item)
    run(machine, item)
    for pad, words in expected.items():
        assert_bits(getattr(machine.state, pad), words, pad)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['target'].name}-{case.get('chunk_log2', '')}")
@pytest.mark.parametrize("name", ARCHES)
def test_every_beat_goes_where_the_table_says(name, case):
    chosen = ARCHES[name]
    machine, memory = machine_with_noise(chosen)
    place = {"dram_addr": 6 * chosen.beat_bytes, "row_stride": 19 * chosen.beat_bytes}
    item = command(load_opcode(chosen, case["target"]), **place, **case)
    expected = loaded_by_hand(machine, memory, item)
    run(machine, item)
    for pad, words in expected.items():
        assert_bits(getattr(machine.state, pad), words, pad)


def test_rows_may_come_from_different_segments():
    machine = Machine(ARCHES["tiny"], {0x100: bytes([1] * 8), 0x140: bytes([2] * 8), 0x148: bytes([3] * 8)})
    item = {"target": Target.ACT_ROWS, "dram_addr": 0x100, "row_stride": 0x40, "rows": 2, "beats": 1}
    run(
        machine,
        command(Opcode.LOAD, **item),
        command(Opcode.LOAD, **{**item, "dram_addr": 0x140, "addr": 1, "rows": 1}),
    )
    assert machine.state.act[0, :8].tolist() == [0x0101] * 4 + [0x0202] * 4
    assert machine.state.act[1, :4].tolist() == [0x0202] * 4
    run(machine, command(Opcode.LOAD, **{**item, "dram_addr": 0x140, "beats": 2, "rows": 1}))
    assert machine.state.act[0, :8].tolist() == [0x0202] * 4 + [0x0303] * 4


def test_acc16_widens_nan_to_the_one_nan():
    machine = Machine(ARCHES["tiny"], {0: bytes.fromhex("017c 01fc 007e 00fc")})
    run(machine, command(Opcode.LOAD, target=Target.ACC16, beats=1, rows=1))
    assert machine.state.acc[0].tolist() == [0x7FC00000, 0x7FC00000, 0x7FC00000, 0xFF800000]

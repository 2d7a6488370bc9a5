"""LOAD against the table of ISA.md, written as a loop over single operands."""

import numpy as np
import pytest

from hwgen.arch.isa import Opcode, Target, command
from models.formats import decode, fp32_bits
from models.machine import Machine
from tests.models.support import SEED, arch, assert_bits, run

ARCHES = {"tiny": arch("tiny"), "tiny2": arch("tiny2"), "four lanes": arch("tiny", lanes=4, operand="bf16")}
SIZE = 1 << 14


def loaded_by_hand(machine, memory: bytes, item) -> dict[str, np.ndarray]:
    """Scratchpads after the instruction, operand by operand."""
    chosen, state = machine.arch, machine.state
    cols, lanes, banks = chosen.array.cols, chosen.array.lanes, chosen.array.rows
    pads = {name: getattr(state, name).copy() for name in ("act", "wgt", "idx", "acc")}
    for y in range(item.rows):
        for x in range(item.beats + item.pad):
            start = item.dram_addr + y * item.row_stride + x * chosen.beat_bytes
            beat = memory[start : start + chosen.beat_bytes] if x < item.beats else bytes(chosen.beat_bytes)
            number = int.from_bytes(beat, "little")
            operands = [number >> (16 * i) & 0xFFFF for i in range(cols)]
            match Target(item.target):
                case Target.ACT_ROWS:
                    word = item.addr + y // banks * item.stride + x
                    pads["act"][y % banks, word * cols : word * cols + cols] = operands
                case Target.ACT_CHUNKS:
                    chunk = 2**item.chunk_log2
                    for i, value in enumerate(operands):
                        v = x * cols + i
                        if v // chunk < banks:
                            pads["act"][v // chunk, item.addr * cols + y * chunk + v % chunk] = value
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
    return pads


def machine_with_noise(chosen) -> tuple[Machine, bytes]:
    rng = np.random.default_rng(SEED)
    memory = rng.integers(0, 256, SIZE, dtype=np.uint8).tobytes()
    machine = Machine(chosen, {0: memory})
    for name in ("act", "wgt", "idx", "acc"):
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
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['target'].name}-{case.get('chunk_log2', '')}")
@pytest.mark.parametrize("name", ARCHES)
def test_every_beat_goes_where_the_table_says(name, case):
    chosen = ARCHES[name]
    machine, memory = machine_with_noise(chosen)
    item = command(Opcode.LOAD, dram_addr=6 * chosen.beat_bytes, row_stride=19 * chosen.beat_bytes, **case)
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

"""STORE against numpy on single values, and against the tables of ISA.md as loops over beats."""

import ml_dtypes
import numpy as np
import pytest

from hwgen.arch.commands import command
from hwgen.arch.isa import Format, Opcode
from models.machine import Machine
from models.machine_state import MachineError
from tests.models.support import SEED, arch, assert_bits, noisy_machine, run

TINY = arch("tiny")


@pytest.mark.parametrize("lanes", [1, 3, 4])
@pytest.mark.parametrize("operand", ["fp16", "bf16"])
@pytest.mark.parametrize("form", [Format.FP32, Format.OPERAND])
def test_store(form, operand, lanes):
    chosen = arch("tiny", operand=operand)
    machine = noisy_machine(chosen)
    machine.memory.write(0, bytes([0xAA]) * (1 << 12))
    fields = {"addr": 13, "stride": 5, "rows": 4, "words": 3, "dram_addr": 64, "row_stride": 80, "lanes": lanes}
    run(machine, command(Opcode.STORE, format=form, **fields))
    expected = np.full(1 << 12, 0xAA, dtype=np.uint8)
    dtype = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}[operand] if form == Format.OPERAND else np.float32
    for y in range(4):
        row = machine.state.acc[13 + 5 * y : 16 + 5 * y].view(np.float32).astype(dtype)
        row[-1, lanes:] = 0
        image = np.frombuffer(row.tobytes(), dtype=np.uint8)
        expected[64 + 80 * y : 64 + 80 * y + len(image)] = image
    actual = np.frombuffer(machine.memory.read(0, 1 << 12), dtype=np.uint8)
    assert_bits(actual, expected, f"{form.name} {operand} {lanes}")


def test_store_leaves_the_accumulators_alone():
    machine = noisy_machine()
    before = machine.state.acc.copy()
    run(machine, command(Opcode.STORE, lanes=1, rows=2, words=2, stride=2, row_stride=32))
    assert_bits(machine.state.acc, before, "acc")


def test_store_rounds_overflow_and_nan():
    machine = Machine(TINY, 64)
    machine.state.acc[0] = [0x477FF000, 0xFFC00001, 0x33000000, 0x80000001]
    run(machine, command(Opcode.STORE, format=Format.OPERAND, lanes=4, rows=1, words=1))
    assert machine.memory.read(0, 8).hex() == "007c007e00000080"


def test_later_rows_win_when_stored_rows_overlap():
    machine = noisy_machine()
    run(machine, command(Opcode.STORE, lanes=4, rows=3, words=2, stride=2, row_stride=16))
    words = np.concatenate([machine.state.acc[[0, 2, 4]].ravel(), machine.state.acc[5]])
    assert machine.memory.read(0, 64) == words.tobytes()


BLOCKS = [
    (Format.OPERAND, {"rows": 4, "transpose": 1}),
    (Format.DENSE, {"rows": 7}),
    (Format.DENSE, {"rows": 4, "transpose": 1}),
    (Format.DENSE, {"rows": 12, "transpose": 1}),
    *((Format.PACKED, {"rows": 2 * m, "n": n, "m": m}) for n, m in ((2, 4), (2, 8), (1, 2), (3, 5), (4, 4), (7, 16))),
    (Format.PACKED, {"rows": 3, "n": 1, "m": 3}),
    *((Format.PACKED, {"rows": 8, "transpose": 1, "n": n, "m": m}) for n, m in ((2, 4), (1, 3), (5, 6), (3, 12))),
]
DTYPES = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}


def columns_by_hand(matrix, item, cols) -> list[list[list[int]]]:
    """Sequences of beats that DENSE stores, of a matrix of operand bits."""
    if item.transpose:
        blocks = [matrix[start : start + cols] for start in range(0, item.rows, cols)]
        return [[[row[q] for row in block] for q in range(item.words * cols)] for block in blocks]
    return [[row[x * cols : (x + 1) * cols] for row in matrix] for x in range(item.words)]


def rank(bits: int, dtype) -> tuple[bool, float]:
    value = abs(float(np.uint16(bits).view(dtype)))
    return (True, 0.0) if np.isnan(value) else (False, value)


def packed_by_hand(beats, item, lanes, dtype) -> list[list[int]]:
    """Beats of one sequence reduced to N:M: quads of slots, and indices as beats of operands."""
    cols, slots = len(beats[0]), []
    for start in range(0, len(beats), item.m):
        group = beats[start : start + item.m]
        kept = []
        for c in range(cols):
            order = sorted(range(item.m), key=lambda i: rank(group[i][c], dtype), reverse=True)
            kept.append(sorted(order[: item.n]))
        for s in range(-(-item.n // lanes) * lanes):
            free = s >= item.n
            slots.append([(0, 0) if free else (group[kept[c][s]][c], kept[c][s]) for c in range(cols)])
    slots += [[(0, 0)] * cols] * (-len(slots) % 4)
    image = []
    for start in range(0, len(slots), 4):
        quad = slots[start : start + 4]
        image += [[value for value, _ in slot] for slot in quad]
        number = sum(index << 4 * (i * cols + c) for i, slot in enumerate(quad) for c, (_, index) in enumerate(slot))
        image.append([number >> 16 * i & 0xFFFF for i in range(cols)])
    return image


def stored_by_hand(machine, item) -> dict[int, list[int]]:
    """Operands of every beat that the instruction writes, by address, in the order of writing."""
    beats = {}
    for plane in range(item.planes):
        beats |= plane_by_hand(
            machine, item, item.addr + plane * item.words, item.dram_addr + plane * item.plane_stride
        )
    return beats


def plane_by_hand(machine, item, addr, dram_addr) -> dict[int, list[int]]:
    """The same of one plane."""
    array, acc = machine.arch.array, machine.state.acc
    dtype, beat = DTYPES[array.operand], machine.arch.beat_bytes
    matrix = []
    for y in range(item.rows):
        words = acc[addr + y * item.stride :][: item.words].copy()
        words[-1, item.lanes :] = 0
        with np.errstate(over="ignore"):
            matrix.append([int(v) for v in words.view(np.float32).astype(dtype).view(np.uint16).ravel()])
    sequences = columns_by_hand(matrix, item, array.cols)
    if item.format == Format.OPERAND:
        sequences = [[row] for row in sequences[0]]
    if item.format == Format.PACKED:
        sequences = [packed_by_hand(beats, item, array.lanes, dtype) for beats in sequences]
    addresses = [dram_addr + y * item.row_stride for y in range(len(sequences))]
    return {start + x * beat: row for start, beats in zip(addresses, sequences) for x, row in enumerate(beats)}


PLANES = ((1, 0), (3, 20), (3, -20))
"""Planes, and the beats from one to the next."""


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("form", "fields"), BLOCKS)
@pytest.mark.parametrize("name", ["tiny", "tiny2", "four lanes"])
def test_every_beat_of_a_stored_block(name, form, fields, seed):
    chosen = arch("tiny", lanes=4, operand="bf16") if name == "four lanes" else arch(name)
    machine, rng = Machine(chosen, 1 << 14), np.random.default_rng([SEED, seed])
    # Small whole numbers: many magnitudes are equal, of either sign.
    machine.state.acc[:] = rng.integers(-4, 5, machine.state.acc.shape).astype(np.float32).view(np.uint32)
    special = np.array([0x80000000, 0x7F800000, 0xFF800000, 0x7F000000, 0x3F800001, 0x33000001, 0x7FC00000], np.uint32)
    wild = rng.random(machine.state.acc.shape) < [0, 0.1, 0.4][seed]
    machine.state.acc[wild] = rng.choice(special, wild.sum())
    machine.memory.write(0, bytes([0xAA]) * (1 << 14))
    beat, (planes, step) = chosen.beat_bytes, PLANES[seed]
    place = {"addr": 13, "stride": 5, "words": 3, "dram_addr": 64 * beat, "row_stride": 125 * beat, "lanes": 3}
    place |= {"planes": planes, "plane_stride": step * beat}
    item = command(Opcode.STORE, format=form, **place, **fields)
    expected = np.full(1 << 14, 0xAA, dtype=np.uint8)
    for address, operands in stored_by_hand(machine, item).items():
        expected[address : address + chosen.beat_bytes] = np.array(operands, "<u2").view(np.uint8)
    run(machine, item)
    assert_bits(np.frombuffer(machine.memory.read(0, 1 << 14), dtype=np.uint8), expected, f"{form.name} {fields}")


def test_packed_example():
    # A column of 8 on one lane, 2:4; the other columns are zeros, of which the first two of a group stay.
    machine = Machine(TINY, 64)
    column = np.array([0.5, -2, 2, 1, 0, 3, 0, 0], dtype=np.float32)
    machine.state.acc[:8, 0] = column.view(np.uint32)
    run(machine, command(Opcode.STORE, format=Format.PACKED, lanes=4, rows=8, words=1, stride=1, n=2, m=4))
    kept = "00c0 0000 0000 0000  0040 0000 0000 0000  0000 0000 0000 0000  0042 0000 0000 0000"
    indices = "0100 1211 0000 1111"
    assert machine.memory.read(0, 40) == bytes.fromhex(kept + indices)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"words": 4, "planes": 300}, "word 1199 of acc, which has 1024"),
        ({"planes": 3, "plane_stride": -64, "dram_addr": 64}, "address -64 is below 0"),
        (
            {"planes": 3, "plane_stride": 1 << 30, "dram_addr": (1 << 40) - (1 << 31)},
            "address 0x1000000000f is beyond 40",
        ),
        ({"planes": 2, "plane_stride": -4}, "plane_stride -0x4 is not a multiple of 8 bytes"),
    ],
)
def test_planes_out_of_reach(fields, message):
    with pytest.raises(MachineError, match=message):
        run(Machine(TINY, 64), command(Opcode.STORE, lanes=4, **fields))

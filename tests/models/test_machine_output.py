"""VECTOR and STORE against numpy on single values."""

import ml_dtypes
import numpy as np
import pytest

from hwgen.arch.isa import Format, Opcode, command
from models.formats import CORNERS_FP32
from models.machine import Machine
from models.machine_state import UndefinedResultError
from tests.models.support import SEED, arch, assert_bits, run

TINY = arch("tiny")


def noisy_machine(chosen=TINY, size: int = 1 << 12) -> Machine:
    rng = np.random.default_rng(SEED)
    machine = Machine(chosen, size)
    acc = machine.state.acc
    acc[:] = rng.standard_normal(acc.shape, dtype=np.float32).view(np.uint32)
    return machine


@pytest.mark.parametrize("relu", [0, 1])
@pytest.mark.parametrize("add", [0, 1])
def test_vector_on_all_pairs_of_corners(add, relu):
    corners = np.array(CORNERS_FP32, dtype=np.uint32)
    left, right = (side.ravel() for side in np.meshgrid(corners, corners))
    machine = Machine(arch("sat16", cols=16), 64)
    rows = -(-len(left) // 16)
    left, right = (np.resize(side, (rows, 16)) for side in (left, right))
    machine.state.acc[:rows], machine.state.acc[rows : 2 * rows] = left, right
    fields = {"x_stride": 1, "y_addr": rows, "y_stride": 1, "d_addr": 2 * rows, "d_stride": 1}
    run(machine, command(Opcode.VECTOR, add=add, relu=relu, rows=rows, words=1, **fields))
    with np.errstate(all="ignore"):
        value = left.view(np.float32) + right.view(np.float32) if add else left.view(np.float32)
    expected = np.where(np.isnan(value), 0x7FC00000, value.view(np.uint32))
    if relu:
        expected = np.where(np.signbit(value) & ~np.isnan(value), 0, expected)
    assert_bits(machine.state.acc[2 * rows : 3 * rows], expected.astype(np.uint32), f"add={add} relu={relu}")


def test_vector_strides_and_repeated_bias():
    machine = noisy_machine()
    before = machine.state.acc.view(np.float32).copy()
    fields = {"x_addr": 10, "x_stride": 7, "y_addr": 200, "y_stride": 0, "d_addr": 300, "d_stride": 3}
    run(machine, command(Opcode.VECTOR, add=1, rows=4, words=3, **fields))
    expected = before.copy()
    for y, x in np.ndindex(4, 3):
        expected[300 + 3 * y + x] = before[10 + 7 * y + x] + before[200 + x]
    assert_bits(machine.state.acc, expected.view(np.uint32), "acc")


@pytest.mark.parametrize("in_place", ["x", "y"])
def test_vector_in_place(in_place):
    machine = noisy_machine()
    before = machine.state.acc.view(np.float32).copy()
    fields = {"x_addr": 10, "x_stride": 4, "y_addr": 100, "y_stride": 4}
    fields |= {"d_addr": fields[f"{in_place}_addr"], "d_stride": 4}
    run(machine, command(Opcode.VECTOR, add=1, relu=1, rows=5, words=3, **fields))
    for y, x in np.ndindex(5, 3):
        total = before[10 + 4 * y + x] + before[100 + 4 * y + x]
        assert (machine.state.acc.view(np.float32)[fields["d_addr"] + 4 * y + x] == np.maximum(total, 0)).all()


@pytest.mark.parametrize(
    "fields",
    [
        {"x_addr": 10, "x_stride": 3, "d_addr": 11, "d_stride": 3},
        {"x_addr": 10, "x_stride": 3, "d_addr": 10, "d_stride": 4},
        {"x_addr": 10, "x_stride": 2, "d_addr": 10, "d_stride": 2},  # rows of three words overlap each other
        {"x_addr": 500, "x_stride": 3, "add": 1, "y_addr": 30, "y_stride": 0, "d_addr": 27, "d_stride": 3},
        {"x_addr": 500, "x_stride": 3, "add": 1, "y_addr": 30, "y_stride": 0, "d_addr": 30, "d_stride": 0},
    ],
)
def test_vector_over_its_own_sources_is_refused(fields):
    with pytest.raises(
        UndefinedResultError, match=r"VECTOR writes d over words of [xy] that another element still reads"
    ):
        run(noisy_machine(), command(Opcode.VECTOR, rows=4, words=3, **fields))


def test_vector_ignores_y_without_add():
    run(noisy_machine(), command(Opcode.VECTOR, rows=2, words=2, y_addr=999_999, d_addr=20, d_stride=2, x_stride=2))


def test_nan_with_payload_is_moved_but_not_kept_by_arithmetic():
    machine = Machine(TINY, 64)
    machine.state.acc[0] = [0xFFC12345, 0x7F800001, 0x80000000, 0xBF800000]
    run(machine, command(Opcode.VECTOR, relu=1, rows=1, words=1, d_addr=1))
    assert machine.state.acc[1].tolist() == [0xFFC12345, 0x7F800001, 0, 0]
    run(machine, command(Opcode.VECTOR, add=1, relu=1, rows=1, words=1, y_addr=5, d_addr=2))
    assert machine.state.acc[2].tolist() == [0x7FC00000, 0x7FC00000, 0, 0]


@pytest.mark.parametrize("lanes", [1, 3, 4])
@pytest.mark.parametrize("operand", ["fp16", "bf16"])
@pytest.mark.parametrize("form", list(Format))
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

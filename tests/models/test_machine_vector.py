"""VECTOR against ISA.md's table, one value at a time, and against numpy on all pairs of corner values.

CURVE is in test_machine_curve.py.
"""

import numpy as np
import pytest

from hwgen.arch.commands import command
from hwgen.arch.isa import INTEGER, READS_X, READS_Z, Opcode, Operation
from models.formats import CORNERS_FP32
from models.machine import Machine
from models.machine_state import UndefinedResultError
from tests.models.support import SEED, arch, assert_bits, noisy_machine, run

TINY, WIDE = arch("tiny"), arch("sat16")
NAN = 0x7FC00000
CORNERS = np.array([*CORNERS_FP32, 0xFFC12345, 0x7F800001], dtype=np.uint32)
"""Corner values, and NaNs with a payload: those that are moved keep it."""


OPERATIONS = [operation for operation in Operation if operation is not Operation.CURVE]


def is_nan(bits: int) -> bool:
    return bits & 0x7FFFFFFF > 0x7F800000


def rounded(value: np.float32) -> int:
    """Bits of an arithmetic result."""
    return NAN if np.isnan(value) else int(value.view(np.uint32))


def rank(bits: int) -> int:
    """A number that grows with the FP32 number `bits`; +0 is 0, -0 is -1."""
    return -1 - (bits & 0x7FFFFFFF) if bits >> 31 else bits


def by_hand(operation: Operation, x: int, y: int, z: int, shift: int = 0, right: int = 0) -> int:
    """Result of one column, from the table of ISA.md."""
    fx, fy, fz = (np.uint32(bits).view(np.float32) for bits in (x, y, z))
    shifted = y >> shift if right else y << shift & 0xFFFFFFFF
    match operation:
        case Operation.COPY:
            return x
        case Operation.ADD:
            return rounded(fx + fy)
        case Operation.SUB:
            return rounded(fx - fy)
        case Operation.MUL:
            return rounded(fx * fy)
        case Operation.MAC:
            return rounded(np.float32(fx * fy) + fz)
        case Operation.MAX | Operation.MIN:
            if is_nan(x) or is_nan(y):
                return NAN
            return (max if operation is Operation.MAX else min)(x, y, key=rank)
        case Operation.POSITIVE:
            return y if not is_nan(x) and rank(x) > 0 else 0
        case Operation.EQUAL:
            same = x == y or (x | y) & 0x7FFFFFFF == 0
            return z if same and not is_nan(x) else 0
        case Operation.AND:
            return x & shifted
        case Operation.OR:
            return x | shifted
        case Operation.XOR:
            return x ^ shifted
        case Operation.IADD:
            return (x + shifted) % 2**32
        case Operation.ISUB:
            return (x - shifted) % 2**32


def relu_by_hand(bits: int) -> int:
    return 0 if bits >> 31 and not is_nan(bits) else bits


def expected(machine: Machine, item) -> np.ndarray:
    """Accumulators after the instruction, column by column; sources are as they were before it."""
    before, after = machine.state.acc, machine.state.acc.copy()
    for y, x, column in np.ndindex(item.rows, item.words, machine.arch.array.cols):
        places = {n: item.operands[f"{n}_addr"] + y * item.operands[f"{n}_stride"] for n in "xyz"}
        places = {n: place + (0 if item.operands[f"{n}_hold"] else x) for n, place in places.items()}
        names = sources(item.operation)
        values = {n: int(before[places[n], column]) for n in names}
        if "y" in names and item.shuffle:
            values["y"] = int(before[places["y"], column ^ 2 ** (item.shuffle - 1)])
        values = {"x": 0, "y": 0, "z": 0, **values}
        with np.errstate(all="ignore"):
            result = by_hand(Operation(item.operation), **values, shift=item.shift, right=item.right)
        result = relu_by_hand(result) if item.relu else result
        after[item.d_addr + y * item.d_stride + x, column] = result
    return after


def sources(operation) -> str:
    return "x" if operation in READS_X else "xyz" if operation in READS_Z else "xy"


@pytest.mark.parametrize("relu", [0, 1])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_all_pairs_of_corners(operation, relu):
    left, right = (side.ravel() for side in np.meshgrid(CORNERS, CORNERS))
    rows = -(-len(left) // 16)
    machine = Machine(WIDE, 64)
    machine.state.acc[:rows], machine.state.acc[rows : 2 * rows] = (
        np.resize(side, (rows, 16)) for side in (left, right)
    )
    machine.state.acc[2 * rows : 3 * rows] = np.random.default_rng(SEED).choice(CORNERS, (rows, 16))
    fields = {"x_stride": 1, "y_addr": rows, "y_stride": 1, "z_addr": 2 * rows, "z_stride": 1}
    fields |= {"d_addr": 3 * rows, "d_stride": 1}
    item = command(Opcode.VECTOR, operation=operation, relu=relu, rows=rows, words=1, **fields)
    after = expected(machine, item)
    run(machine, item)
    assert_bits(machine.state.acc, after, f"{operation.name} relu={relu}")


NUMPY = {
    Operation.ADD: np.add,
    Operation.SUB: np.subtract,
    Operation.MUL: np.multiply,
    Operation.MAX: np.maximum,
    Operation.MIN: np.minimum,
}


@pytest.mark.parametrize("operation", NUMPY)
def test_numbers_are_those_of_numpy(operation):
    rng = np.random.default_rng(SEED)
    bits = rng.integers(0, 1 << 32, (2, 1000, 16), dtype=np.uint32)
    machine = Machine(WIDE, 64)
    machine.state.acc[:1000], machine.state.acc[1000:2000] = bits
    fields = {"x_stride": 1, "y_addr": 1000, "y_stride": 1, "d_addr": 2000, "d_stride": 1}
    run(machine, command(Opcode.VECTOR, operation=operation, rows=1000, words=1, **fields))
    with np.errstate(all="ignore"):
        wanted = NUMPY[operation](*bits.view(np.float32))
    actual = machine.state.acc[2000:3000].view(np.float32)
    assert (np.isnan(actual) == np.isnan(wanted)).all()
    assert (actual[~np.isnan(wanted)] == wanted[~np.isnan(wanted)]).all()


@pytest.mark.parametrize("right", [0, 1])
@pytest.mark.parametrize("shift", [0, 1, 13, 31])
@pytest.mark.parametrize("operation", sorted(INTEGER))
def test_shifts_of_integer_operations(operation, shift, right):
    machine = Machine(TINY, 64)
    machine.state.acc[:40] = np.random.default_rng(SEED).integers(0, 1 << 32, (40, 4), dtype=np.uint32)
    fields = {"rows": 10, "words": 1, "x_stride": 1, "y_addr": 20, "y_stride": 1, "d_addr": 50, "d_stride": 1}
    item = command(Opcode.VECTOR, operation=operation, shift=shift, right=right, **fields)
    after = expected(machine, item)
    run(machine, item)
    assert_bits(machine.state.acc, after, f"{Operation(operation).name} {shift} {right}")


@pytest.mark.parametrize("hold", ["", "x", "y", "z", "xyz"])
@pytest.mark.parametrize("shuffle", range(5))
@pytest.mark.parametrize("operation", [Operation.COPY, Operation.SUB, Operation.MAC, Operation.EQUAL, Operation.ISUB])
def test_strides_holds_and_shuffles(operation, shuffle, hold):
    machine = noisy_machine(WIDE)
    machine.state.acc[:100] &= np.uint32(0xC0000001)  # few different values, for EQUAL
    fields = {"x_addr": 10, "x_stride": 7, "y_addr": 200, "y_stride": 0, "z_addr": 50, "z_stride": 4}
    fields |= {"d_addr": 300, "d_stride": 3, **{f"{name}_hold": 1 for name in hold}}
    item = command(Opcode.VECTOR, operation=operation, shuffle=shuffle, rows=4, words=3, **fields)
    after = expected(machine, item)
    run(machine, item)
    assert_bits(machine.state.acc, after, f"{operation.name} shuffle={shuffle} hold={hold}")


@pytest.mark.parametrize("in_place", ["x", "y", "z"])
def test_in_place(in_place):
    machine = noisy_machine()
    fields = {"x_addr": 10, "y_addr": 100, "z_addr": 200, "shuffle": 2, "rows": 5, "words": 3}
    fields |= {f"{name}_stride": 4 for name in "xyzd"} | {"d_addr": fields[f"{in_place}_addr"]}
    item = command(Opcode.VECTOR, operation=Operation.MAC, relu=1, **fields)
    after = expected(machine, item)
    run(machine, item)
    assert_bits(machine.state.acc, after, f"d is {in_place}")


def test_sum_of_rows_and_columns():
    # 8 rows by halves, then the columns of the one that is left by shuffles, as ISA.md says.
    machine = noisy_machine(WIDE)
    values = machine.state.acc[:8].view(np.float32).astype(np.float64)
    same = {"x_stride": 1, "y_stride": 1, "d_stride": 1, "words": 1}
    halves = [command(Opcode.VECTOR, operation=Operation.ADD, rows=half, y_addr=half, **same) for half in (4, 2, 1)]
    shuffles = [command(Opcode.VECTOR, operation=Operation.ADD, rows=1, shuffle=s, **same) for s in range(1, 5)]
    run(machine, *halves, *shuffles)
    total = machine.state.acc[0].view(np.float32)
    assert (total == total[0]).all()
    assert np.isclose(total[0], values.sum(), atol=1e-5)


ALL = {"operation": Operation.MAC, "x_addr": 500, "y_addr": 600, "z_addr": 700}


@pytest.mark.parametrize(
    "fields",
    [
        {"x_addr": 10, "x_stride": 3, "d_addr": 11, "d_stride": 3},
        {"x_addr": 10, "x_stride": 3, "d_addr": 10, "d_stride": 4},
        {"x_addr": 10, "x_stride": 2, "d_addr": 10, "d_stride": 2},  # rows of three words overlap each other
        {**ALL, "y_addr": 30, "y_stride": 0, "d_addr": 27, "d_stride": 3},
        {**ALL, "y_addr": 30, "y_stride": 0, "d_addr": 30, "d_stride": 0},
        {**ALL, "z_addr": 30, "z_stride": 3, "d_addr": 32, "d_stride": 3},
        {**ALL, "x_addr": 10, "x_stride": 3, "d_addr": 10, "d_stride": 3, "x_hold": 1},
        {**ALL, "z_addr": 13, "d_addr": 10, "d_stride": 3, "z_hold": 1},
    ],
)
def test_writing_over_sources_is_refused(fields):
    with pytest.raises(
        UndefinedResultError, match=r"VECTOR writes d over words of [xyz] that another element still reads"
    ):
        run(noisy_machine(), command(Opcode.VECTOR, rows=4, words=3, **fields))


def test_words_that_a_held_source_skips_may_be_written():
    fields = {**ALL, "x_addr": 10, "x_stride": 4, "x_hold": 1, "d_addr": 11, "d_stride": 4}
    machine = noisy_machine()
    item = command(Opcode.VECTOR, rows=4, words=3, **fields)
    after = expected(machine, item)
    run(machine, item)
    assert_bits(machine.state.acc, after, "d between the words of x")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operands_that_are_not_read_do_not_count(operation):
    fields = {f"{name}_addr": 999_999 for name in "xyz" if name not in sources(operation)}
    run(noisy_machine(), command(Opcode.VECTOR, operation=operation, rows=2, words=2, d_addr=20, d_stride=2, **fields))


def test_nan_with_payload_is_moved_but_not_kept_by_arithmetic():
    machine = Machine(TINY, 64)
    machine.state.acc[0] = [0xFFC12345, 0x7F800001, 0x80000000, 0xBF800000]
    run(machine, command(Opcode.VECTOR, relu=1, rows=1, words=1, d_addr=1))
    assert machine.state.acc[1].tolist() == [0xFFC12345, 0x7F800001, 0, 0]
    run(machine, command(Opcode.VECTOR, operation=Operation.ADD, relu=1, rows=1, words=1, y_addr=5, d_addr=2))
    assert machine.state.acc[2].tolist() == [0x7FC00000, 0x7FC00000, 0, 0]

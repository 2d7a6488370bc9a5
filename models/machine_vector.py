"""VECTOR of the golden machine: elementwise work on accumulator words."""

import numpy as np
from numpy.typing import NDArray

from hwgen.arch.commands import Command
from hwgen.arch.isa import INTEGER, READS_X, READS_Z, Operation
from models.formats import NAN_FP32, fp32_bits, fp32_values, is_nan_fp32
from models.machine_state import State, Undefined, block_words, require, require_words

Words = NDArray[np.uint32]


def execute_vector(state: State, item: Command) -> None:
    """Execute one VECTOR. Raises `Fault`, or `Undefined` if `d` overlaps a source and is not the same block."""
    _check_fields(item, state.arch.array.cols)
    depth, names = state.arch.scratchpads.acc_depth, sources(item)
    for name in (*names, "d"):
        require_words(f"acc ({name})", depth, int(operand_words(item, name)[-1, -1]))
    curve = item.operation == Operation.CURVE
    if curve:
        require_words("curve", state.arch.vector.curve_entries, item.y_addr + item.y_stride - 1)
    for name in names:
        _check_overlap(item, name, depth)
    blocks = {name: state.acc[operand_words(item, name)] for name in names}
    if "y" in blocks:
        blocks["y"] = _prepared(item, blocks["y"])
    if curve:
        result = evaluate(state.curve[curve_entries(item)], item.shift, blocks["x"])
    else:
        result = _compute(Operation(item.operation), **blocks)
    if item.relu:
        negative = (result >> np.uint32(31) == 1) & ~is_nan_fp32(result)
        result = np.where(negative, np.uint32(0), result)
    state.acc[operand_words(item, "d")] = result


def sources(item: Command) -> tuple[str, ...]:
    """Names of the operands that the operation reads."""
    if item.operation in READS_X:
        return ("x",)
    return ("x", "y", "z") if item.operation in READS_Z else ("x", "y")


def operand_words(item: Command, name: str) -> NDArray[np.integer]:
    """Word numbers of operand `name` (x, y, z or d), `[rows, words]`; with hold, those of a row are all its first."""
    addr, stride = item.operands[f"{name}_addr"], item.operands[f"{name}_stride"]
    words = block_words(addr, stride, item.rows, item.words)
    return np.broadcast_to(words[:, :1], words.shape) if item.operands.get(f"{name}_hold") else words


def curve_entries(item: Command) -> NDArray[np.int64]:
    """Entries of the curve of a legal CURVE."""
    return item.y_addr + np.arange(item.y_stride, dtype=np.int64)


def evaluate(entries: Words, shift: int, x: Words) -> Words:
    """CURVE on bit patterns `x`: `entries` `[T, 2]` are slope and offset, `2**shift` of them cover a unit."""
    half, values = len(entries) // 2, fp32_values(x)
    with np.errstate(all="ignore"):
        steps = np.fmin(np.floor(np.abs(values.astype(np.float64)) * 2.0**shift), half - 1).astype(np.int64)
        slope, offset = (fp32_values(entries[:, part])[_line(half, x, steps)] for part in (0, 1))
        product = np.where(np.isinf(values) & (slope == 0), np.float32(0), values) * slope
        return fp32_bits(product + offset)


def _line(half: int, x: Words, steps: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of the line, `steps` lines from the middle to the side that the sign says."""
    return np.where(x >> np.uint32(31) == 1, half - 1 - steps, half + steps)


def _check_fields(item: Command, cols: int) -> None:
    require(1 << item.shuffle <= cols, f"2**(shuffle - 1) must be below {cols}, shuffle is {item.shuffle}")
    integer, curve = item.operation in INTEGER, item.operation == Operation.CURVE
    require(integer or not item.right, "right must be 0 unless the operation is an integer one")
    require(integer or curve or not item.shift, "shift must be 0 unless the operation is an integer one or CURVE")
    if curve:
        size = item.y_stride
        require(size >= 2 and size.bit_count() == 1, f"the entries of a curve must be a power of two, not {size}")
        require(item.y_addr % size == 0, f"a curve of {size} entries cannot begin at entry {item.y_addr}")


def _check_overlap(item: Command, name: str, depth: int) -> None:
    """Refuse a destination that shares words with source `name`, unless both are the same block of distinct words."""
    distinct = item.rows == 1 or item.d_stride >= item.words
    same_stride = item.rows == 1 or item.d_stride == item.operands[f"{name}_stride"]
    same = same_stride and item.d_addr == item.operands[f"{name}_addr"] and not item.operands[f"{name}_hold"]
    if distinct and same:
        return
    written = np.zeros(depth, dtype=np.bool_)
    written[operand_words(item, "d")] = True
    if written[operand_words(item, name)].any():
        raise Undefined(f"VECTOR writes d over words of {name} that another element still reads")


def _prepared(item: Command, y: Words) -> Words:
    """Words of `y`, `[rows, words, C]`, shuffled and shifted."""
    if item.shuffle:
        y = y[..., np.arange(y.shape[-1]) ^ 1 << (item.shuffle - 1)]
    return y >> np.uint32(item.shift) if item.right else y << np.uint32(item.shift)


def _compute(operation: Operation, x: Words, y: Words | None = None, z: Words | None = None) -> Words:
    """`operation(x, y, z)` on bit patterns of equal shape."""
    if operation is Operation.COPY:
        return x
    if operation in INTEGER:
        return _INTEGER[operation](x, y)
    if operation in (Operation.MAX, Operation.MIN):
        return _extreme(x, y, largest=operation is Operation.MAX)
    left, right = fp32_values(x), fp32_values(y)
    with np.errstate(all="ignore"):
        match operation:
            case Operation.POSITIVE:
                return np.where(left > 0, y, np.uint32(0))
            case Operation.EQUAL:
                return np.where(left == right, z, np.uint32(0))
            case Operation.ADD:
                return fp32_bits(left + right)
            case Operation.SUB:
                return fp32_bits(left - right)
            case Operation.MUL:
                return fp32_bits(left * right)
            case Operation.MAC:
                return fp32_bits(left * right + fp32_values(z))


_INTEGER = {
    Operation.AND: np.bitwise_and,
    Operation.OR: np.bitwise_or,
    Operation.XOR: np.bitwise_xor,
    Operation.IADD: np.add,
    Operation.ISUB: np.subtract,
}


def _extreme(x: Words, y: Words, *, largest: bool) -> Words:
    """The larger or smaller number of each pair; +0 is larger than -0, and a NaN makes the result one."""
    x_larger = _ordered(x) >= _ordered(y)
    chosen = np.where(x_larger == largest, x, y)
    return np.where(is_nan_fp32(x) | is_nan_fp32(y), np.uint32(NAN_FP32), chosen)


def _ordered(bits: Words) -> Words:
    """Unsigned numbers in the order of the FP32 numbers."""
    return np.where(bits >> np.uint32(31) == 1, ~bits, bits | np.uint32(1 << 31))

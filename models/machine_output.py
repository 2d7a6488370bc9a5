"""VECTOR and STORE of the golden machine: elementwise FP32 work on accumulator words, and their way to memory."""

import numpy as np
from numpy.typing import NDArray

from hwgen.arch.isa import Cause, Command, Format
from models.formats import fp32_bits, fp32_values, is_nan_fp32, narrow
from models.machine_state import Fault, State, Undefined, block_words, require, require_aligned, require_words
from models.memory import BusError


def execute_vector(state: State, item: Command) -> None:
    """Execute one VECTOR. Raises `Fault`, or `Undefined` if `d` overlaps a source shifted."""
    depth = state.arch.scratchpads.acc_depth
    operands = ("x", "y", "d") if item.add else ("x", "d")
    for name in operands:
        last = item.operands[f"{name}_addr"] + (item.rows - 1) * item.operands[f"{name}_stride"] + item.words - 1
        require_words(f"acc ({name})", depth, last)
    for name in operands[:-1]:
        _check_overlap(item, name, depth)
    result = state.acc[_block(item, "x")]
    if item.add:
        with np.errstate(all="ignore"):
            result = fp32_bits(fp32_values(result) + fp32_values(state.acc[_block(item, "y")]))
    if item.relu:
        negative = (result >> np.uint32(31) == 1) & ~is_nan_fp32(result)
        result = np.where(negative, np.uint32(0), result)
    state.acc[_block(item, "d")] = result


def _block(item: Command, name: str) -> NDArray[np.integer]:
    return block_words(item.operands[f"{name}_addr"], item.operands[f"{name}_stride"], item.rows, item.words)


def _check_overlap(item: Command, name: str, depth: int) -> None:
    """Refuse a destination that shares words with source `name`, unless both are the same block of distinct words."""
    distinct = item.rows == 1 or item.d_stride >= item.words
    same_stride = item.rows == 1 or item.d_stride == item.operands[f"{name}_stride"]
    if distinct and same_stride and item.d_addr == item.operands[f"{name}_addr"]:
        return
    written = np.zeros(depth, dtype=np.bool_)
    written[_block(item, "d")] = True
    if written[_block(item, name)].any():
        raise Undefined(f"VECTOR writes d over words of {name} that another element still reads")


def execute_store(state: State, item: Command) -> None:
    """Execute one STORE. Raises `Fault` with the cause that ISA.md gives; rows before a bus error stay written."""
    require(item.lanes <= state.arch.array.cols, f"lanes {item.lanes} is more than the {state.arch.array.cols} columns")
    require_words("acc", state.arch.scratchpads.acc_depth, item.addr + (item.rows - 1) * item.stride + item.words - 1)
    wide = item.format == Format.FP32
    require_aligned(item, state.arch, item.words * (2 if wide else 1))
    block = state.acc[block_words(item.addr, item.stride, item.rows, item.words)]
    block[:, -1, item.lanes :] = 0
    data = block.astype("<u4") if wide else narrow(block, state.arch.array.operand).astype("<u2")
    image = data.reshape(item.rows, -1).view(np.uint8)
    for y in range(item.rows):
        try:
            state.memory.write(item.dram_addr + y * item.row_stride, image[y])
        except BusError as error:
            raise Fault(Cause.WRITE_RESPONSE, str(error)) from None

"""STORE of the golden machine: accumulator words on their way to external memory."""

import numpy as np

from hwgen.arch.isa import Cause, Command, Format
from models.formats import narrow
from models.machine_state import Fault, State, block_words, require, require_aligned, require_words
from models.memory import BusError


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

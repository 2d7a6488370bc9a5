"""LOAD of the golden machine: external memory into the scratchpads."""

import numpy as np
from numpy.typing import NDArray

from hwgen.arch.isa import Cause, Command, Target
from models.formats import widen
from models.machine_state import Fault, State, block_words, require, require_aligned, require_words
from models.memory import BusError


def execute_load(state: State, item: Command) -> None:
    """Execute one LOAD. Raises `Fault` with the cause that ISA.md gives."""
    beats = item.beats + item.pad
    require(beats >= 1, "beats + pad must be at least 1")
    last = _last_word(state, item, beats)
    memory = Target(item.target).name.lower()
    require_words(memory, _depth(state, item), last)
    require_aligned(item, state.arch, item.beats)
    size = state.arch.beat_bytes
    try:
        rows = state.memory.read_rows(item.dram_addr, item.rows, item.beats * size, item.row_stride)
    except BusError as error:
        raise Fault(Cause.READ_RESPONSE, str(error)) from None
    data = np.zeros((item.rows, beats, size), dtype=np.uint8)
    data[:, : item.beats] = rows.reshape(item.rows, item.beats, size)
    _WRITERS[Target(item.target)](state, item, data)


def _last_word(state: State, item: Command, beats: int) -> int:
    """Highest scratchpad word that the instruction writes; checks the rules of its target."""
    array = state.arch.array
    end = item.addr + (item.rows - 1) * item.stride
    match Target(item.target):
        case Target.ACT_ROWS:
            return item.addr + (item.rows - 1) // array.rows * item.stride + beats - 1
        case Target.ACT_CHUNKS:
            chunk = 1 << item.chunk_log2
            element = (item.rows - 1) * chunk + min(beats * array.cols, chunk) - 1
            return item.addr + element // array.cols
        case Target.WGT:
            return end + (beats - 1) // array.lanes
        case Target.IDX:
            words = 4 // array.lanes
            require(
                item.addr % words == 0 and item.stride % words == 0, f"addr and stride must be multiples of {words}"
            )
            return end + beats * words - 1
        case Target.ACC32:
            require(beats % 2 == 0, "beats + pad must be even")
            return end + beats // 2 - 1
        case Target.ACC16:
            return end + beats - 1


def _depth(state: State, item: Command) -> int:
    pads = state.arch.scratchpads
    match Target(item.target):
        case Target.ACT_ROWS | Target.ACT_CHUNKS:
            return pads.act_depth
        case Target.WGT | Target.IDX:
            return pads.wgt_depth
        case Target.ACC32 | Target.ACC16:
            return pads.acc_depth


def _operands(data: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Beats `[rows, beats, bytes]` as operands `[rows, beats, C]`."""
    return data.view("<u2").astype(np.uint16)


def _write_act_rows(state: State, item: Command, data: NDArray[np.uint8]) -> None:
    rows, beats, _ = data.shape
    cols, banks = state.arch.array.cols, state.arch.array.rows
    values = _operands(data).reshape(rows, beats * cols)
    for y in range(rows):
        start = (item.addr + y // banks * item.stride) * cols
        state.act[y % banks, start : start + beats * cols] = values[y]


def _write_act_chunks(state: State, item: Command, data: NDArray[np.uint8]) -> None:
    rows, beats, _ = data.shape
    cols, banks, chunk = state.arch.array.cols, state.arch.array.rows, 1 << item.chunk_log2
    value = np.arange(min(beats * cols, banks * chunk))
    elements = item.addr * cols + chunk * np.arange(rows)[:, None] + value % chunk
    state.act[value // chunk, elements] = _operands(data).reshape(rows, beats * cols)[:, : len(value)]


def _write_wgt(state: State, item: Command, data: NDArray[np.uint8]) -> None:
    rows, beats, _ = data.shape
    lanes = state.arch.array.lanes
    x = np.arange(beats)
    words = item.addr + item.stride * np.arange(rows)[:, None] + x // lanes
    state.wgt[words, x % lanes] = _operands(data)


def _write_idx(state: State, item: Command, data: NDArray[np.uint8]) -> None:
    rows, beats, _ = data.shape
    lanes, cols = state.arch.array.lanes, state.arch.array.cols
    indices = np.stack([data & 15, data >> 4], axis=-1)
    words = block_words(item.addr, item.stride, rows, beats * 4 // lanes)
    state.idx[words] = indices.reshape(rows, -1, lanes, cols)


def _write_acc32(state: State, item: Command, data: NDArray[np.uint8]) -> None:
    rows, beats, _ = data.shape
    words = block_words(item.addr, item.stride, rows, beats // 2)
    state.acc[words] = data.view("<u4").reshape(rows, beats // 2, state.arch.array.cols)


def _write_acc16(state: State, item: Command, data: NDArray[np.uint8]) -> None:
    rows, beats, _ = data.shape
    words = block_words(item.addr, item.stride, rows, beats)
    state.acc[words] = widen(_operands(data), state.arch.array.operand)


_WRITERS = {
    Target.ACT_ROWS: _write_act_rows,
    Target.ACT_CHUNKS: _write_act_chunks,
    Target.WGT: _write_wgt,
    Target.IDX: _write_idx,
    Target.ACC32: _write_acc32,
    Target.ACC16: _write_acc16,
}

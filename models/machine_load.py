"""LOAD and FILL of the golden machine: external memory into the scratchpads."""

import numpy as np
from numpy.typing import NDArray

from hwgen.arch.commands import Command
from hwgen.arch.config import Array
from hwgen.arch.isa import Cause, Target
from models.formats import widen
from models.machine_state import Fault, State, block_words, require, require_aligned, require_words
from models.memory import BusError

MOST_BEATS = 65535
"""Beats of a row, padding included."""
QUAD = 5
"""Beats of four packed slots: four of values, one of indices."""


def execute_load(state: State, item: Command) -> None:
    """Execute one LOAD or FILL. Raises `Fault` with the cause that ISA.md gives."""
    arch, target = state.arch, Target(item.target)
    beats = row_beats(item)
    require(1 <= beats <= MOST_BEATS, f"planes * beats + pad must be in 1..{MOST_BEATS}, not {beats}")
    _check_fields(item, arch.array, beats)
    memory = SCRATCHPADS[target]
    depth = arch.vector.curve_entries if memory == "curve" else getattr(arch.scratchpads, f"{memory}_depth")
    require_words(memory, depth, _last_word(item, arch.array, beats))
    extent = (item.rows - 1) * item.row_stride + (item.planes - 1) * item.plane_stride + item.beats * arch.beat_bytes
    require_aligned(item, arch, extent if item.beats else 0)
    data = np.zeros((item.rows, beats, arch.beat_bytes), dtype=np.uint8)
    try:
        _read(state, item, data)
    except BusError as error:
        raise Fault(Cause.READ_RESPONSE, str(error)) from None
    _WRITERS[target](state, item, data)


def row_beats(item: Command) -> int:
    """Beats that a row writes, those of zeros included."""
    return item.planes * item.beats + item.pad


def _read(state: State, item: Command, data: NDArray[np.uint8]) -> None:
    """Fill the first beats of every row of `data` `[rows, beats, bytes]`; raises `BusError`."""
    size = item.beats * state.arch.beat_bytes
    for z in range(item.planes):
        rows = state.memory.read_rows(item.dram_addr + z * item.plane_stride, item.rows, size, item.row_stride)
        data[:, z * item.beats : (z + 1) * item.beats] = rows.reshape(item.rows, item.beats, state.arch.beat_bytes)


def _check_fields(item: Command, array: Array, beats: int) -> None:
    match Target(item.target):
        case Target.ACT_CHUNKS:
            wide = array.rows << item.chunk_log2 >= array.cols
            require(item.stride == 0 or wide, f"with stride, {array.rows} chunks must hold {array.cols} values")
        case Target.IDX:
            words = 4 // array.lanes
            aligned = item.addr % words == 0 and item.stride % words == 0
            require(aligned, f"addr and stride must be multiples of {words}")
        case Target.ACC32:
            require(beats % 2 == 0, "planes * beats + pad must be even")
        case Target.PACKED:
            require(beats % QUAD == 0, f"planes * beats + pad must be a multiple of {QUAD}")


def _last_word(item: Command, array: Array, beats: int) -> int:
    """Highest scratchpad word that the instruction writes."""
    end = item.addr + (item.rows - 1) * item.stride
    match Target(item.target):
        case Target.ACT_ROWS:
            return item.addr + (item.rows - 1) // array.rows * item.stride + beats - 1
        case Target.ACT_CHUNKS:
            return _last_chunk_word(item, array, beats)
        case Target.WGT:
            return end + (beats - 1) // array.lanes
        case Target.IDX:
            return end + beats * (4 // array.lanes) - 1
        case Target.ACC32:
            return end + beats // 2 - 1
        case Target.ACC16 | Target.CURVE:
            return end + beats - 1
        case Target.COLS | Target.PACKED:
            return item.addr + item.rows - 1 + (row_slots(item) - 1) // array.lanes * item.stride


def _last_chunk_word(item: Command, array: Array, beats: int) -> int:
    chunk, values = 1 << item.chunk_log2, beats * array.cols
    blocks = (values - 1) // (array.rows * chunk) if item.stride else 0
    left = values - blocks * array.rows * chunk

    def last(block: int, width: int) -> int:
        return item.addr + block * item.stride + ((item.rows - 1) * chunk + min(width, chunk) - 1) // array.cols

    # The last block may end within a chunk, the one before it does not.
    return max(last(blocks, left), last(blocks - 1, chunk) if blocks else 0)


SCRATCHPADS = {
    Target.ACT_ROWS: "act",
    Target.ACT_CHUNKS: "act",
    Target.WGT: "wgt",
    Target.IDX: "wgt",
    Target.ACC32: "acc",
    Target.ACC16: "acc",
    Target.COLS: "wgt",
    Target.PACKED: "wgt",
    Target.CURVE: "curve",
}
"""Whose depth limits the words of each target."""


def chunk_places(item: Command, array: Array) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Banks `[values]` and elements `[rows, values]` that the values of every row of ACT_CHUNKS go to."""
    chunk, values = 1 << item.chunk_log2, row_beats(item) * array.cols
    value = np.arange(values if item.stride else min(values, array.rows * chunk))
    unit = value // chunk
    first = (item.addr + unit // array.rows * item.stride) * array.cols + value % chunk
    return unit % array.rows, first + chunk * np.arange(item.rows)[:, None]


def row_slots(item: Command) -> int:
    """Slots that a row of COLS or PACKED holds."""
    beats = row_beats(item)
    return beats // QUAD * 4 if item.target == Target.PACKED else beats


def slot_words(item: Command, array: Array) -> NDArray[np.integer]:
    """Words `[rows, slots]` that the slots of COLS and PACKED go to; slot `s` is lane `s mod lanes` there."""
    blocks = np.arange(item.rows)[:, None]
    return item.addr + blocks + np.arange(row_slots(item)) // array.lanes * item.stride


def _operands(data: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Beats `[rows, beats, bytes]` as operands `[rows, beats, C]`."""
    return np.ascontiguousarray(data).view("<u2").astype(np.uint16)


def _nibbles(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Bytes `[..., bytes]` as 4-bit numbers `[..., bytes, 2]`, low half first."""
    return np.stack([data & 15, data >> 4], axis=-1)


def _write_act_rows(state: State, item: Command, data: NDArray[np.uint8]) -> None:
    rows, beats, _ = data.shape
    cols, banks = state.arch.array.cols, state.arch.array.rows
    values = _operands(data).reshape(rows, beats * cols)
    for y in range(rows):
        start = (item.addr + y // banks * item.stride) * cols
        state.act[y % banks, start : start + beats * cols] = values[y]


def _write_act_chunks(state: State, item: Command, data: NDArray[np.uint8]) -> None:
    banks, elements = chunk_places(item, state.arch.array)
    state.act[banks, elements] = _operands(data).reshape(len(data), -1)[:, : len(banks)]


def _write_wgt(state: State, item: Command, data: NDArray[np.uint8]) -> None:
    rows, beats, _ = data.shape
    lanes = state.arch.array.lanes
    x = np.arange(beats)
    words = item.addr + item.stride * np.arange(rows)[:, None] + x // lanes
    state.wgt[words, x % lanes] = _operands(data)


def _write_idx(state: State, item: Command, data: NDArray[np.uint8]) -> None:
    rows, beats, _ = data.shape
    lanes, cols = state.arch.array.lanes, state.arch.array.cols
    words = block_words(item.addr, item.stride, rows, beats * 4 // lanes)
    state.idx[words] = _nibbles(data).reshape(rows, -1, lanes, cols)


def _write_acc32(state: State, item: Command, data: NDArray[np.uint8]) -> None:
    rows, beats, _ = data.shape
    words = block_words(item.addr, item.stride, rows, beats // 2)
    state.acc[words] = data.view("<u4").reshape(rows, beats // 2, state.arch.array.cols)


def _write_acc16(state: State, item: Command, data: NDArray[np.uint8]) -> None:
    rows, beats, _ = data.shape
    words = block_words(item.addr, item.stride, rows, beats)
    state.acc[words] = widen(_operands(data), state.arch.array.operand)


def _write_curve(state: State, item: Command, data: NDArray[np.uint8]) -> None:
    rows, beats, _ = data.shape
    state.curve[block_words(item.addr, item.stride, rows, beats)] = np.ascontiguousarray(data[..., :8]).view("<u4")


def _write_cols(state: State, item: Command, data: NDArray[np.uint8]) -> None:
    lane = np.arange(row_slots(item)) % state.arch.array.lanes
    state.wgt[slot_words(item, state.arch.array), lane] = _operands(data)


def _write_packed(state: State, item: Command, data: NDArray[np.uint8]) -> None:
    rows, _, size = data.shape
    quads = data.reshape(rows, -1, QUAD, size)
    slots, cols = row_slots(item), state.arch.array.cols
    words, lane = slot_words(item, state.arch.array), np.arange(slots) % state.arch.array.lanes
    state.wgt[words, lane] = _operands(quads[:, :, :4]).reshape(rows, slots, cols)
    state.idx[words, lane] = _nibbles(quads[:, :, 4]).reshape(rows, slots, cols)


_WRITERS = {
    Target.ACT_ROWS: _write_act_rows,
    Target.ACT_CHUNKS: _write_act_chunks,
    Target.WGT: _write_wgt,
    Target.IDX: _write_idx,
    Target.ACC32: _write_acc32,
    Target.ACC16: _write_acc16,
    Target.COLS: _write_cols,
    Target.PACKED: _write_packed,
    Target.CURVE: _write_curve,
}

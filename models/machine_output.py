"""STORE of the golden machine: accumulator words on their way to external memory."""

import numpy as np
from numpy.typing import NDArray

from hwgen.arch.commands import Command
from hwgen.arch.config import Array
from hwgen.arch.isa import Cause, Format
from models.formats import narrow
from models.machine_state import Fault, State, block_words, require, require_aligned, require_words
from models.memory import BusError

SLOTS = 4
"""Slots whose indices share a beat."""


def execute_store(state: State, item: Command) -> None:
    """Execute one STORE. Raises `Fault` with the cause that ISA.md gives; rows before a bus error stay written."""
    arch = state.arch
    _check_fields(item, arch.array)
    last = item.addr + (item.rows - 1) * item.stride + item.planes * item.words - 1
    require_words("acc", arch.scratchpads.acc_depth, last)
    rows, beats = stored_shape(item, arch.array)
    step = (item.planes - 1) * item.plane_stride
    plane_extent = (rows - 1) * item.row_stride + beats * arch.beat_bytes
    require_aligned(item, arch, max(step, 0) + plane_extent, below=max(-step, 0))
    for plane in range(item.planes):
        block = state.acc[block_words(item.addr + plane * item.words, item.stride, item.rows, item.words)]
        block[:, -1, item.lanes :] = 0
        image = _image(item, arch.array, block).reshape(rows, beats * arch.beat_bytes)
        _write_rows(state, item.dram_addr + plane * item.plane_stride, item.row_stride, image)


def _write_rows(state: State, address: int, stride: int, image: NDArray[np.uint8]) -> None:
    """Write bytes `[rows, bytes]` to rows `stride` bytes apart."""
    for y, row in enumerate(image):
        try:
            state.memory.write(address + y * stride, row)
        except BusError as error:
            raise Fault(Cause.WRITE_RESPONSE, str(error)) from None


def stored_shape(item: Command, array: Array) -> tuple[int, int]:
    """Rows of external memory that a plane of a STORE writes, and beats in each."""
    match Format(item.format):
        case Format.FP32:
            return item.rows, 2 * item.words
        case Format.OPERAND:
            return (item.words * array.cols, 1) if item.transpose else (item.rows, item.words)
    count, length = _sequences(item, array)
    if item.format == Format.PACKED:
        length = -(-length // item.m * _group_slots(item, array) // SLOTS) * (SLOTS + 1)
    return count, length


def _sequences(item: Command, array: Array) -> tuple[int, int]:
    """Column blocks of weights that DENSE and PACKED store, and the beats of each before it is reduced."""
    return (item.rows // array.cols, item.words * array.cols) if item.transpose else (item.words, item.rows)


def _group_slots(item: Command, array: Array) -> int:
    return -(-item.n // array.lanes) * array.lanes


def _check_fields(item: Command, array: Array) -> None:
    cols = array.cols
    require(item.lanes <= cols, f"lanes {item.lanes} is more than the {cols} columns")
    if item.transpose:
        require(item.format != Format.FP32, "FP32 must not be transposed")
        fits = item.rows == cols if item.format == Format.OPERAND else item.rows % cols == 0
        require(fits, f"a transposed block of {item.rows} rows is not made of {cols} rows")
    if item.format == Format.PACKED:
        limit = array.group_max
        require(1 <= item.n <= item.m <= limit, f"1 <= n <= m <= group_max ({limit}) must hold")
        length = _sequences(item, array)[1]
        require(length % item.m == 0, f"columns of {length} values must be a multiple of m={item.m}")


def _image(item: Command, array: Array, block: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """Bytes that the words `[rows, words, C]` become, row after row of external memory."""
    if item.format == Format.FP32:
        return block.astype("<u4").view(np.uint8)
    values = narrow(block, array.operand)
    if item.format != Format.OPERAND or item.transpose:
        values = _columns(values, item.transpose)
    if item.format == Format.PACKED:
        return _reduced(values, item.n, item.m, _group_slots(item, array))
    return np.ascontiguousarray(values.astype("<u2")).view(np.uint8)


def _columns(values: NDArray[np.uint16], transpose: int) -> NDArray[np.uint16]:
    """Words `[rows, words, C]` as columns of weights, `[sequence, beat, C]`."""
    rows, words, cols = values.shape
    if not transpose:
        return values.transpose(1, 0, 2)
    return values.reshape(rows // cols, cols, words * cols).transpose(0, 2, 1)


def _reduced(values: NDArray[np.uint16], n: int, m: int, slots: int) -> NDArray[np.uint8]:
    """Columns `[sequence, beat, C]` reduced to n:m: bytes `[sequence, quad, 5, bytes of a beat]`."""
    count, length, cols = values.shape
    groups = values.reshape(count, length // m, m, cols)
    # As integers, magnitudes are in the order of the numbers, and the NaN that rounding gives is above infinity.
    magnitude = (groups & np.uint16(0x7FFF)).astype(np.int32)
    kept = np.sort(np.argsort(-magnitude, axis=2, kind="stable")[:, :, :n], axis=2)
    free = [(0, 0), (0, 0), (0, slots - n), (0, 0)]
    chosen = np.pad(np.take_along_axis(groups, kept, axis=2), free).reshape(count, -1, cols)
    indices = np.pad(kept, free).reshape(count, -1, cols).astype(np.uint8)
    fill = [(0, 0), (0, -chosen.shape[1] % SLOTS), (0, 0)]
    beats = np.ascontiguousarray(np.pad(chosen, fill).astype("<u2")).view(np.uint8).reshape(count, -1, SLOTS, 2 * cols)
    pairs = np.pad(indices, fill).reshape(count, -1, 1, 2 * cols, 2)
    return np.concatenate([beats, pairs[..., 0] | pairs[..., 1] << 4], axis=2)

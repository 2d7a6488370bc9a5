"""Which words an instruction reads and writes, memory by memory: what tokens must keep in order."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwgen.arch import Arch
from hwgen.arch.commands import Command
from hwgen.arch.isa import Dataflow, Opcode, Operation, Target
from models.machine_load import chunk_places, row_beats, slot_words
from models.machine_output import stored_shape
from models.machine_state import block_words
from models.machine_vector import curve_entries, operand_words, sources
from models.machine_walk import activation_elements, group_shape, weight_words


@dataclass(frozen=True)
class Access:
    """Words that an instruction touches in one memory; words of `act` are numbered bank * act_depth + word."""

    memory: str
    words: NDArray[np.int64]
    """Word numbers, one-dimensional, repetitions allowed."""
    writes: bool


@dataclass(frozen=True)
class Rows:
    """Bytes of external memory that an instruction touches.

    `rows` rows, `stride` bytes apart, each of `planes` runs of `size` bytes, `plane_stride` bytes apart.
    """

    address: int
    rows: int
    size: int
    stride: int
    writes: bool
    planes: int = 1
    plane_stride: int = 0

    def starts(self) -> NDArray[np.int64]:
        """Address of the first byte of every run, row by row."""
        rows = self.stride * np.arange(self.rows, dtype=np.int64)
        return (self.address + rows[:, None] + self.plane_stride * np.arange(self.planes, dtype=np.int64)).ravel()

    def touches(self, address: int, size: int) -> bool:
        """Whether one of `size` bytes from `address` on is among the rows."""
        starts = self.starts()
        return bool(((starts < address + size) & (address < starts + self.size)).any())


def scratchpad_words(arch: Arch) -> dict[str, int]:
    """Words of every scratchpad, all banks together."""
    pads = arch.scratchpads
    return {
        "act": arch.array.rows * pads.act_depth,
        "wgt": pads.wgt_depth,
        "idx": pads.wgt_depth,
        "acc": pads.acc_depth,
        "curve": arch.vector.curve_entries,
    }


def scratchpad_accesses(item: Command, arch: Arch) -> list[Access]:
    """Scratchpad words that a legal instruction reads and writes."""
    match item.opcode:
        case Opcode.LOAD | Opcode.FILL:
            return _loaded(item, arch)
        case Opcode.TENSOR:
            return _tensor(item, arch)
        case Opcode.VECTOR:
            names = (*sources(item), "d")
            found = [Access("acc", operand_words(item, name).ravel(), name == "d") for name in names]
            return [*found, Access("curve", curve_entries(item), False)] if item.operation == Operation.CURVE else found
        case Opcode.STORE:
            words = block_words(item.addr, item.stride, item.rows, item.planes * item.words)
            return [Access("acc", words.ravel(), False)]
        case Opcode.ATTEND:
            return []


def memory_rows(item: Command, arch: Arch) -> Rows | None:
    """External memory that a legal instruction reads or writes; None if it does neither."""
    if item.opcode in (Opcode.LOAD, Opcode.FILL) and item.beats:
        size = item.beats * arch.beat_bytes
        return Rows(item.dram_addr, item.rows, size, item.row_stride, False, item.planes, item.plane_stride)
    if item.opcode is Opcode.STORE:
        rows, beats = stored_shape(item, arch.array)
        size = beats * arch.beat_bytes
        return Rows(item.dram_addr, rows, size, item.row_stride, True, item.planes, item.plane_stride)
    return None


def _bank_words(arch: Arch, banks: NDArray[np.int64], words: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.ravel(banks * arch.scratchpads.act_depth + words)


def _loaded(item: Command, arch: Arch) -> list[Access]:
    memory, words = _loaded_words(item, arch)
    found = [Access(memory, words.ravel(), True)]
    return [*found, Access("idx", words.ravel(), True)] if item.target == Target.PACKED else found


def _loaded_words(item: Command, arch: Arch) -> tuple[str, NDArray[np.int64]]:
    array, beats = arch.array, row_beats(item)
    y, x = np.arange(item.rows)[:, None], np.arange(beats)
    match Target(item.target):
        case Target.ACT_ROWS:
            words = item.addr + y // array.rows * item.stride + x
            return "act", _bank_words(arch, y % array.rows, words)
        case Target.ACT_CHUNKS:
            banks, elements = chunk_places(item, array)
            return "act", _bank_words(arch, banks, elements // array.cols)
        case Target.WGT:
            return "wgt", item.addr + y * item.stride + x // array.lanes
        case Target.IDX:
            return "idx", block_words(item.addr, item.stride, item.rows, beats * 4 // array.lanes)
        case Target.ACC32:
            return "acc", block_words(item.addr, item.stride, item.rows, beats // 2)
        case Target.ACC16:
            return "acc", block_words(item.addr, item.stride, item.rows, beats)
        case Target.CURVE:
            return "curve", block_words(item.addr, item.stride, item.rows, beats)
        case Target.COLS | Target.PACKED:
            return "wgt", slot_words(item, array)


def _tensor(item: Command, arch: Arch) -> list[Access]:
    weights = weight_words(item, arch.array).ravel()
    stationary = item.dataflow == Dataflow.WEIGHT_STATIONARY
    if stationary:
        extent = -(-item.rows * group_shape(item, arch.array.lanes)[0] // arch.array.cols)
        words = item.act_addr + np.arange(extent)
    else:
        words = np.unique(activation_elements(item, arch.array) // arch.array.cols)
    banks = np.arange(arch.array.rows)[:, None]
    result = block_words(item.acc_addr, item.acc_stride, item.rows, item.tile_cols).ravel()
    found = [Access("act", _bank_words(arch, banks, words), False), Access("wgt", weights, False)]
    if item.sparse:
        found.append(Access("idx", weights, False))
    if stationary and not item.first:
        found.append(Access("acc", result, False))
    if item.last:
        found.append(Access("acc", result, True))
    return found

"""Which words an instruction reads and writes, memory by memory: what tokens must keep in order."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwgen.arch import Arch
from hwgen.arch.isa import Command, Dataflow, Format, Opcode, Target
from models.machine_state import block_words
from models.machine_tensor import group_shape
from models.machine_vector import operand_words, sources


@dataclass(frozen=True)
class Access:
    """Words that an instruction touches in one memory; words of `act` are numbered bank * act_depth + word."""

    memory: str
    words: NDArray[np.int64]
    """Word numbers, one-dimensional, repetitions allowed."""
    writes: bool


@dataclass(frozen=True)
class Rows:
    """Bytes of external memory that an instruction touches: `rows` rows of `size` bytes, `stride` bytes apart."""

    address: int
    rows: int
    size: int
    stride: int
    writes: bool

    def starts(self) -> NDArray[np.int64]:
        """Address of the first byte of every row."""
        return self.address + self.stride * np.arange(self.rows, dtype=np.int64)


def scratchpad_words(arch: Arch) -> dict[str, int]:
    """Words of every scratchpad, all banks together."""
    pads = arch.scratchpads
    return {
        "act": arch.array.rows * pads.act_depth,
        "wgt": pads.wgt_depth,
        "idx": pads.wgt_depth,
        "acc": pads.acc_depth,
    }


def scratchpad_accesses(item: Command, arch: Arch) -> list[Access]:
    """Scratchpad words that a legal instruction reads and writes."""
    match item.opcode:
        case Opcode.LOAD:
            return [_loaded(item, arch)]
        case Opcode.TENSOR:
            return _tensor(item, arch)
        case Opcode.VECTOR:
            names = (*sources(item), "d")
            return [Access("acc", operand_words(item, name).ravel(), name == "d") for name in names]
        case Opcode.STORE:
            return [Access("acc", block_words(item.addr, item.stride, item.rows, item.words).ravel(), False)]


def memory_rows(item: Command, arch: Arch) -> Rows | None:
    """External memory that a legal instruction reads or writes; None if it does neither."""
    if item.opcode is Opcode.LOAD and item.beats:
        return Rows(item.dram_addr, item.rows, item.beats * arch.beat_bytes, item.row_stride, False)
    if item.opcode is Opcode.STORE:
        size = item.words * arch.beat_bytes * (2 if item.format == Format.FP32 else 1)
        return Rows(item.dram_addr, item.rows, size, item.row_stride, True)
    return None


def _bank_words(arch: Arch, banks: NDArray[np.int64], words: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.ravel(banks * arch.scratchpads.act_depth + words)


def _loaded(item: Command, arch: Arch) -> Access:
    array, beats = arch.array, item.beats + item.pad
    y, x = np.arange(item.rows)[:, None], np.arange(beats)
    match Target(item.target):
        case Target.ACT_ROWS:
            words = item.addr + y // array.rows * item.stride + x
            return Access("act", _bank_words(arch, y % array.rows, words), True)
        case Target.ACT_CHUNKS:
            chunk = 1 << item.chunk_log2
            value = np.arange(min(beats * array.cols, array.rows * chunk))
            words = item.addr + (y * chunk + value % chunk) // array.cols
            return Access("act", _bank_words(arch, value // chunk, words), True)
        case Target.WGT:
            return Access("wgt", (item.addr + y * item.stride + x // array.lanes).ravel(), True)
        case Target.IDX:
            return Access("idx", block_words(item.addr, item.stride, item.rows, beats * 4 // array.lanes).ravel(), True)
        case Target.ACC32:
            return Access("acc", block_words(item.addr, item.stride, item.rows, beats // 2).ravel(), True)
        case Target.ACC16:
            return Access("acc", block_words(item.addr, item.stride, item.rows, beats).ravel(), True)


def _tensor(item: Command, arch: Arch) -> list[Access]:
    group, words = group_shape(item, arch.array.lanes)
    weights = item.wgt_addr + np.arange(item.groups * words * item.tile_cols)
    stationary = item.dataflow == Dataflow.WEIGHT_STATIONARY
    extent = -(-(item.rows if stationary else item.groups) * group // arch.array.cols)
    blocks = block_words(item.act_addr, item.act_stride, 1 if stationary else item.tile_rows, extent)
    banks = np.arange(arch.array.rows)[:, None]
    result = block_words(item.acc_addr, item.acc_stride, item.rows, item.tile_cols).ravel()
    found = [Access("act", _bank_words(arch, banks, blocks.ravel()), False), Access("wgt", weights, False)]
    if item.sparse:
        found.append(Access("idx", weights, False))
    if stationary and not item.first:
        found.append(Access("acc", result, False))
    if item.last:
        found.append(Access("acc", result, True))
    return found

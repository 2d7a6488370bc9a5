"""Whole programs as arrays: the operands of all instructions of an opcode, the encoding of many instructions."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from hwgen.arch.commands import Command, encode
from hwgen.arch.config import INSTRUCTION_BYTES
from hwgen.arch.isa import TABLE, Field, Instruction, Opcode

_WORD = 64
"""Bits that are put together at a time."""


@dataclass(frozen=True)
class Columns:
    """All instructions of one opcode: their positions in the program, and each of their operands."""

    opcode: Opcode
    positions: NDArray[np.int64]
    operands: dict[str, NDArray[np.int64]]

    def __getattr__(self, name: str) -> NDArray[np.int64]:
        try:
            return self.__dict__["operands"][name]
        except KeyError:
            raise AttributeError(name) from None


def engines(commands: Sequence[Command]) -> NDArray[np.int64]:
    """The engine of each instruction."""
    table = np.zeros(max(TABLE) + 1, np.int64)
    for row in TABLE.values():
        table[row.opcode] = row.engine
    return table[_opcodes(commands)]


def columns(commands: Sequence[Command]) -> list[Columns]:
    """The instructions of a program by opcode; opcodes that it does not have are left out."""
    opcodes, found = _opcodes(commands), []
    for row in TABLE.values():
        positions = np.flatnonzero(opcodes == row.opcode)
        if positions.size:
            values = _values((commands[place].operands for place in positions.tolist()), row, positions.size)
            operands = {item.name: values[:, number] for number, item in enumerate(row.operands)}
            found.append(Columns(row.opcode, positions, operands))
    return found


def _opcodes(commands: Sequence[Command]) -> NDArray[np.int64]:
    return np.fromiter((item.opcode for item in commands), np.int64, len(commands))


def _values(operands: Iterable[dict[str, int]], row: Instruction, count: int) -> NDArray[np.int64]:
    """Operands [instruction, operand] in table order."""
    take = itemgetter(*(item.name for item in row.operands))
    flat = np.fromiter(chain.from_iterable(map(take, operands)), np.int64, count * len(row.operands))
    return flat.reshape(count, len(row.operands))


def encode_program(commands: Sequence[Command]) -> bytes:
    """The instructions one after the other, as `encode` has each; raises `ProgramError` as it does."""
    words = np.zeros((len(commands), 8 * INSTRUCTION_BYTES // _WORD), np.uint64)
    for found in columns(commands):
        row, places = TABLE[found.opcode], found.positions
        mine = [commands[place] for place in places.tolist()]
        for spec, values in _fields(row, found, mine):
            word, shift = divmod(row.offsets[spec.name], _WORD)
            wrong = np.flatnonzero((values < spec.low) | (values > spec.limit))
            if wrong.size:
                encode(mine[wrong[0]])
            bits = spec.bits(values).astype(np.uint64)
            words[places, word] |= bits << np.uint64(shift)
            if shift + spec.width > _WORD:
                words[places, word + 1] |= bits >> np.uint64(_WORD - shift)
    return words.astype("<u8").tobytes()


def _fields(row: Instruction, found: Columns, mine: list[Command]) -> Iterator[tuple[Field, NDArray[np.int64]]]:
    """All fields of an opcode that are not always zero, with their values."""
    for spec in row.fields:
        if spec.name in found.operands:
            yield spec, found.operands[spec.name]
        elif spec.name == "opcode":
            yield spec, np.full(len(mine), row.opcode, np.int64)
        elif spec.name in ("wait", "signal"):
            values = np.fromiter((getattr(item, spec.name) for item in mine), np.int64, len(mine))
            foreign = np.flatnonzero(values & ~row.others)
            if foreign.size:
                encode(mine[foreign[0]])
            yield spec, values

"""Finds two instructions that touch the same words, one of them writing, without tokens that put them in order."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwgen.arch import Arch, ProgramError
from hwgen.arch.commands import Command
from hwgen.arch.isa import Cause, Engine, Opcode
from models.accesses import Access, Rows, memory_rows, scratchpad_accesses, scratchpad_words
from models.accesses_attend import AttendRows
from models.machine import commands
from models.memory import Memory
from models.tokens import check_tokens


@dataclass(frozen=True)
class Race:
    """Instructions `first` and `second` touch word `word` of `memory` in no defined order, and one of them writes.

    `memory` is a scratchpad (words of `act` counted over all banks) or "dram", where `word` is a byte address.
    """

    first: int
    second: int
    memory: str
    word: int

    def __str__(self) -> str:
        pair = f"instructions {self.first} and {self.second}"
        return f"{pair} touch word {self.word:#x} of {self.memory} in no defined order"


def check_races(program: bytes, arch: Arch, memory: Memory | None = None) -> Race | None:
    """The first race of an encoded program, by the later of its instructions, or None.

    `memory`, as it is before the run, is needed for ATTEND, whose descriptors say what it touches.
    Raises `MachineError` on a malformed instruction and `ProgramError` if `check_tokens` finds an instruction that can
    never start or that depends on a later one, for a descriptor that is refused and one that the program writes. Time
    and memory grow with the words that the program touches.
    """
    problem = check_tokens(program, arch)
    if problem is not None and problem.cause is not Cause.TOKEN_OVERFLOW:
        raise ProgramError(f"races cannot be looked for: {problem.text}")
    items = list(commands(program, arch))
    order = _Order()
    rows = _rows_of(items, arch, memory)
    cells = _MemoryCells([one for found in rows for one in found])
    touched = {name: _Touched(size) for name, size in {**scratchpad_words(arch), "dram": cells.count}.items()}
    for pc, item in enumerate(items):
        before = order.start(pc, item)
        accesses = [*scratchpad_accesses(item, arch), *(cells.access(one) for one in rows[pc])]
        for access in accesses:
            found = touched[access.memory].conflict(item.engine, access, before)
            if found is not None:
                engine, number, word = found
                place = cells.address(word) if access.memory == "dram" else word
                return Race(order.program_counters[engine][number], pc, access.memory, place)
        for access in accesses:
            touched[access.memory].record(item.engine, access, order.count(item.engine))
    return None


def _rows_of(items: list[Command], arch: Arch, memory: Memory | None) -> list[list[Rows]]:
    """External memory that each instruction touches."""
    attend, found = AttendRows(arch, memory), []
    for item in items:
        if item.opcode is Opcode.ATTEND:
            found.append(attend.rows(item))
        else:
            found.append([rows for rows in (memory_rows(item, arch),) if rows is not None])
    descriptors = [rows[0] for item, rows in zip(items, found) if item.opcode is Opcode.ATTEND and rows]
    for pc, rows in enumerate(found):
        for written in (one for one in rows if one.writes):
            for read in descriptors:
                if written.touches(read.address, read.size):
                    raise ProgramError(f"instruction {pc} writes the descriptor at {read.address:#x}")
    return found


class _Order:
    """How many instructions of each engine have surely completed when an instruction starts."""

    def __init__(self) -> None:
        self.program_counters: dict[Engine, list[int]] = {engine: [] for engine in Engine}
        self._last = {engine: np.zeros(len(Engine), dtype=np.int64) for engine in Engine}
        self._given: dict[tuple[Engine, Engine], list[NDArray[np.int64]]] = {}
        self._taken: dict[tuple[Engine, Engine], int] = {}

    def count(self, engine: Engine) -> int:
        """Instructions of `engine` that have been started so far."""
        return len(self.program_counters[engine])

    def start(self, pc: int, item: Command) -> NDArray[np.int64]:
        """Take the next instruction in program order; the counts, by engine, before it starts."""
        engine = item.engine
        before = self._last[engine].copy()
        before[engine] = self.count(engine)
        for giver in Engine:
            if item.wait >> giver & 1:
                number = self._taken.get((giver, engine), 0)
                before = np.maximum(before, self._given[giver, engine][number])
                self._taken[giver, engine] = number + 1
        self.program_counters[engine].append(pc)
        self._last[engine] = before
        after = before.copy()
        after[engine] += 1
        for taker in Engine:
            if item.signal >> taker & 1:
                self._given.setdefault((engine, taker), []).append(after)
        return before


class _Touched:
    """For every word of a memory: the last instruction of each engine that read it, and that wrote it.

    Instructions of an engine count from 1; 0 means none.
    """

    def __init__(self, size: int) -> None:
        self._read = np.zeros((len(Engine), size), dtype=np.int32)
        self._written = np.zeros((len(Engine), size), dtype=np.int32)

    def conflict(self, engine: Engine, access: Access, before: NDArray[np.int64]) -> tuple[Engine, int, int] | None:
        """Engine, number (from 0) and word of an instruction that is not surely complete and must be."""
        for other in Engine:
            if other is engine:
                continue
            last = self._written[other, access.words]
            if access.writes:
                last = np.maximum(last, self._read[other, access.words])
            late = np.flatnonzero(last > before[other])
            if len(late):
                return other, int(last[late[0]]) - 1, int(access.words[late[0]])
        return None

    def record(self, engine: Engine, access: Access, number: int) -> None:
        """Note that instruction `number` (from 1) of `engine` makes an access."""
        (self._written if access.writes else self._read)[engine, access.words] = number


class _MemoryCells:
    """External memory cut into cells at every address where some instruction's row begins or ends."""

    def __init__(self, accesses: list[Rows]) -> None:
        edges = [edge for one in accesses for edge in (one.starts(), one.starts() + one.size)]
        self._edges = np.unique(np.concatenate(edges)) if edges else np.zeros(1, dtype=np.int64)
        self.count = len(self._edges)

    def address(self, cell: int) -> int:
        """First byte of a cell."""
        return int(self._edges[cell])

    def access(self, rows: Rows) -> Access:
        """Rows as an access to cells."""
        first = np.searchsorted(self._edges, rows.starts())
        end = np.searchsorted(self._edges, rows.starts() + rows.size)
        covered = np.concatenate([np.arange(low, high) for low, high in zip(first, end)])
        return Access("dram", covered, rows.writes)

"""Turns declared reads and writes of memory into dependencies between instructions, and those into tokens."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from hwgen.arch.arrays import engines
from hwgen.arch.commands import Command
from hwgen.arch.isa import Engine, Opcode
from scheduler.tokens import Needs, place_tokens

SPACES = ("act", "wgt", "idx", "acc", "curve", "dram", "attend")
"""Memories in which accesses are compared; scratchpads count words, external memory counts bytes. `attend`: what the
attention engine remembers from job to job."""

NOBODY = -1
"""Stands for the last writer of what nobody wrote."""


@dataclass(frozen=True)
class Region:
    """The addresses `start` to `stop - 1` of a memory. A strided block is declared from its first to its last word."""

    space: str
    start: int
    stop: int


class _Timeline:
    """Last accesses of one memory: intervals without gaps from address 0, each with the same last writer (or NOBODY)
    and the same readers since then, which may be reordered.
    """

    def __init__(self) -> None:
        self.starts, self.writers = [0], [NOBODY]
        self.readers: list[set[int]] = [set()]

    def read(self, region: Region, position: int) -> set[int]:
        """Note a read; returns the instructions whose writes it must see."""
        first, last = self._split(region.start), self._split(region.stop)
        for readers in self.readers[first:last]:
            readers.add(position)
        return set(self.writers[first:last])

    def write(self, region: Region, position: int) -> set[int]:
        """Note a write; returns the instructions whose accesses it must not overtake."""
        first, last = self._split(region.start), self._split(region.stop)
        found = set(self.writers[first:last]).union(*self.readers[first:last])
        if last == first + 1:
            self.writers[first], self.readers[first] = position, set()
        else:
            self.starts[first:last] = [region.start]
            self.writers[first:last], self.readers[first:last] = [position], [set()]
        return found

    def _split(self, address: int) -> int:
        """Number of the interval that begins at an address, which is cut there if need be."""
        number = bisect_left(self.starts, address)
        if number == len(self.starts) or self.starts[number] != address:
            self.starts.insert(number, address)
            self.writers.insert(number, self.writers[number - 1])
            self.readers.insert(number, set(self.readers[number - 1]))
        return number


class Recorder:
    """Collects instructions with their accesses in program order.

    An instruction depends on the last writer of what it reads, and on the last writer and all readers since of what it
    writes. Instructions of one engine are in order anyway and need no token.
    """

    def __init__(self) -> None:
        self.commands: list[Command] = []
        self.dependencies: list[set[int]] = []
        """For each instruction, earlier ones that must be complete (on its own engine: that must stand before it)."""
        self.urgent: list[bool] = []
        """For each instruction, whether the offline schedule prefers it to those of other kernels."""
        self.prefer = False
        """The same of instructions that are appended next."""
        self._timelines = {space: _Timeline() for space in SPACES}

    def add(self, item: Command, *, reads: Iterable[Region] = (), writes: Iterable[Region] = ()) -> None:
        """Append an instruction that reads and writes the given regions."""
        position = len(self.commands)
        found: set[int] = set()
        for region in reads:
            found |= self._timelines[region.space].read(region, position)
        for region in writes:
            found |= self._timelines[region.space].write(region, position)
        self.commands.append(item)
        self.urgent.append(self.prefer)
        found -= {position, NOBODY}
        self.dependencies.append(found)

    def finish(
        self, token_limit: int, order: Sequence[int] | None = None, executes: Sequence[int] | None = None
    ) -> tuple[Command, ...]:
        """The instructions with wait and signal masks; see `tokens` for why they are right.

        `order` are positions of all instructions in another order in which none stands before one that it depends on.
        `executes` are their engines, by position, where some of FILL are LOAD's instead.
        """
        order = np.arange(len(self.commands)) if order is None else np.asarray(order, np.int64)
        executes = engines(self.commands) if executes is None else np.asarray(executes, np.int64)
        masks = place_tokens(executes[order].tolist(), self._needs(order, executes), token_limit)
        items = ((self.commands[position], executes[position]) for position in order.tolist())
        return tuple(
            Command(Opcode.LOAD if engine == Engine.LOAD else item.opcode, item.operands, wait, signal)
            for (item, engine), (wait, signal) in zip(items, masks, strict=True)
        )

    def _needs(self, order: NDArray[np.int64], executes: NDArray[np.int64]) -> Needs:
        """For each place of an order, the last instruction of each other engine that it depends on, by place."""
        place = np.empty_like(order)
        place[order] = np.arange(order.size)
        counts = np.fromiter(map(len, self.dependencies), np.int64, order.size)
        earlier = np.fromiter(chain.from_iterable(self.dependencies), np.int64, int(counts.sum()))
        later = np.repeat(np.arange(order.size), counts)
        wrong = np.flatnonzero(place[earlier] >= place[later])
        if wrong.size:
            first, other = later[wrong[0]], earlier[wrong[0]]
            raise ValueError(f"instruction {first} would stand before {other}, which it depends on")
        foreign = executes[earlier] != executes[later]
        last = np.full((order.size, len(Engine)), -1)
        np.maximum.at(last, (place[later[foreign]], executes[earlier[foreign]]), place[earlier[foreign]])
        needs: Needs = [{} for _ in range(order.size)]
        for number, engine in np.argwhere(last >= 0).tolist():
            needs[number][engine] = int(last[number, engine])
        return needs

"""Turns declared reads and writes of memory into dependencies between instructions, and those into tokens."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from hwgen.arch.isa import Command, Engine
from scheduler.tokens import Needs, place_tokens

SPACES = ("act", "wgt", "idx", "acc", "dram")
"""Memories in which accesses are compared; scratchpads count words, external memory counts bytes."""


@dataclass(frozen=True)
class Region:
    """The addresses `start` to `stop - 1` of a memory. A strided block is declared from its first to its last word."""

    space: str
    start: int
    stop: int


@dataclass
class _Interval:
    """Neighbouring addresses with the same last writer and the same readers since then, which may be reordered."""

    start: int
    writer: int | None = None
    readers: set[int] = field(default_factory=set)


class _Timeline:
    """Last accesses of one memory. Intervals follow one another without gaps from address 0."""

    def __init__(self) -> None:
        self.intervals = [_Interval(0)]

    def read(self, region: Region, position: int) -> set[int]:
        """Note a read; returns the instructions whose writes it must see."""
        first, last = self._cut(region)
        found = set()
        for interval in self.intervals[first:last]:
            if interval.writer is not None:
                found.add(interval.writer)
            interval.readers.add(position)
        return found

    def write(self, region: Region, position: int) -> set[int]:
        """Note a write; returns the instructions whose accesses it must not overtake."""
        first, last = self._cut(region)
        found = set()
        for interval in self.intervals[first:last]:
            found |= interval.readers
            if interval.writer is not None:
                found.add(interval.writer)
        self.intervals[first:last] = [_Interval(region.start, position)]
        return found

    def _cut(self, region: Region) -> tuple[int, int]:
        """Numbers of the first interval of a region and of the first one after it, split at its ends."""
        return self._split(region.start), self._split(region.stop)

    def _split(self, address: int) -> int:
        number = bisect_left(self.intervals, address, key=lambda interval: interval.start)
        if number == len(self.intervals) or self.intervals[number].start != address:
            before = self.intervals[number - 1]
            self.intervals.insert(number, _Interval(address, before.writer, set(before.readers)))
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
        self.dependencies.append(found - {position})

    def finish(self, token_limit: int, order: Sequence[int] | None = None) -> tuple[Command, ...]:
        """The instructions with wait and signal masks; see `tokens` for why they are right.

        `order` are positions of all instructions in another order in which none stands before one that it depends on.
        """
        order = range(len(self.commands)) if order is None else order
        place = {position: number for number, position in enumerate(order)}
        needs: Needs = []
        for position in order:
            need: dict[Engine, int] = {}
            for earlier in self.dependencies[position]:
                engine = self.commands[earlier].engine
                if place[earlier] >= place[position]:
                    raise ValueError(f"instruction {position} would stand before {earlier}, which it depends on")
                if engine != self.commands[position].engine:
                    need[engine] = max(need.get(engine, 0), place[earlier])
            needs.append(need)
        items = [self.commands[position] for position in order]
        masks = place_tokens([item.engine for item in items], needs, token_limit)
        return tuple(replace(item, wait=wait, signal=signal) for item, (wait, signal) in zip(items, masks, strict=True))

"""Turns declared reads and writes of memory into dependencies between instructions, and those into tokens."""

from bisect import bisect_left
from collections.abc import Iterable
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
    """Neighbouring addresses with the same last writer and the same readers since then."""

    start: int
    writer: int | None = None
    readers: dict[Engine, int] = field(default_factory=dict)


class _Timeline:
    """Last accesses of one memory. Intervals follow one another without gaps from address 0."""

    def __init__(self) -> None:
        self.intervals = [_Interval(0)]

    def read(self, region: Region, position: int, engine: Engine) -> set[int]:
        """Note a read; returns the instructions whose writes it must see."""
        first, last = self._cut(region)
        found = set()
        for interval in self.intervals[first:last]:
            if interval.writer is not None:
                found.add(interval.writer)
            interval.readers[engine] = position
        return found

    def write(self, region: Region, position: int) -> set[int]:
        """Note a write; returns the instructions whose accesses it must not overtake."""
        first, last = self._cut(region)
        found = set()
        for interval in self.intervals[first:last]:
            found.update(interval.readers.values())
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
            self.intervals.insert(number, _Interval(address, before.writer, dict(before.readers)))
        return number


class Recorder:
    """Collects instructions with their accesses in program order.

    An instruction depends on the last writer of what it reads, and on the last writer and all readers since of what it
    writes. Instructions of one engine are in order anyway and need no token.
    """

    def __init__(self) -> None:
        self.commands: list[Command] = []
        self._needs: Needs = []
        self._timelines = {space: _Timeline() for space in SPACES}

    def add(self, item: Command, *, reads: Iterable[Region] = (), writes: Iterable[Region] = ()) -> None:
        """Append an instruction that reads and writes the given regions."""
        position = len(self.commands)
        found: set[int] = set()
        for region in reads:
            found |= self._timelines[region.space].read(region, position, item.engine)
        for region in writes:
            found |= self._timelines[region.space].write(region, position)
        need: dict[Engine, int] = {}
        for earlier in found - {position}:
            engine = self.commands[earlier].engine
            if engine != item.engine:
                need[engine] = max(need.get(engine, earlier), earlier)
        self.commands.append(item)
        self._needs.append(need)

    def finish(self, token_limit: int) -> tuple[Command, ...]:
        """The instructions with wait and signal masks; see `tokens` for why they are right."""
        masks = place_tokens([item.engine for item in self.commands], self._needs, token_limit)
        return tuple(
            replace(item, wait=wait, signal=signal) for item, (wait, signal) in zip(self.commands, masks, strict=True)
        )

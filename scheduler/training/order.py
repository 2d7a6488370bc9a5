"""Offline scheduling: the order in which instructions enter the queues.

Kernels record a step as if one instruction ran after the other. Here every engine takes, of the instructions whose
operands are ready, the one that was recorded first: list scheduling with the durations that the engines have. The
loads of one kernel then run under the products of another, and vector work under both.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from hwgen.arch import Arch
from hwgen.arch.isa import Command, Dataflow, Engine, Format, Opcode, Target
from scheduler.hazards import Recorder

MEMORY_LATENCY = 60
"""Cycles from the request of a load to its first beat, and from the last beat of a store to its answer; an assumption
that only the order depends on."""
START = 12
"""Cycles that an instruction needs besides its beats."""


@dataclass(frozen=True)
class Duration:
    """Cycles for which an instruction keeps its engine from the next one, and from its start to its results."""

    busy: int
    total: int


def duration(item: Command, arch: Arch) -> Duration:
    """How long an instruction takes when nothing stalls it."""
    match item.opcode:
        case Opcode.LOAD:
            busy = item.rows * (item.planes * item.beats + item.pad) + 2
            if item.target == Target.IDX:
                busy *= 4
            return Duration(busy, busy + MEMORY_LATENCY)
        case Opcode.TENSOR:
            return _tensor(item, arch)
        case Opcode.VECTOR:
            busy = item.rows * item.words + START
            return Duration(busy, busy)
        case Opcode.STORE:
            busy = _store_beats(item) + 2
            return Duration(busy, busy + MEMORY_LATENCY)


def _tensor(item: Command, arch: Arch) -> Duration:
    array = arch.array
    words = -(-item.n // array.lanes) if item.sparse else 1
    if item.dataflow == Dataflow.OUTPUT_STATIONARY:
        beats = item.groups * words * max(item.tile_rows * item.tile_cols, array.chain_latency)
        drain = item.rows * item.tile_cols if item.last else 0
    else:
        beats = item.rows * words * max(item.tile_cols, array.chain_latency if words > 1 else 1)
        drain = array.rows * array.chain_latency
    return Duration(max(beats, drain), beats + drain + array.rows + array.cols)


def _store_beats(item: Command) -> int:
    words = item.rows * item.words
    if item.format == Format.FP32:
        return 2 * words
    return max(words, words * item.n * 5 // (4 * item.m)) if item.format == Format.PACKED else words


def list_order(recorder: Recorder, arch: Arch, spans: Sequence[Duration] | None = None) -> list[int]:
    """Positions of all instructions in the order of their starts; `spans` are their durations, if they are known."""
    return _Listing(recorder, spans or [duration(item, arch) for item in recorder.commands]).run()


class _Listing:
    """One run of the list scheduler over the instructions of a recorder."""

    def __init__(self, recorder: Recorder, spans: Sequence[Duration]) -> None:
        self.commands, self.dependencies, self.spans = recorder.commands, recorder.dependencies, spans
        self.chains = Chains(recorder)
        count = len(self.commands)
        self.users: list[list[int]] = [[] for _ in range(count)]
        self.missing = [len(found) for found in self.dependencies]
        for position, found in enumerate(self.dependencies):
            for earlier in found:
                self.users[earlier].append(position)
        self.ready_at = [0] * count
        self.queues = [_Queue() for _ in Engine]
        self.waiting: list[tuple[int, int]] = []
        """Chains whose operands are ready: (TENSOR instructions that must be placed before, first position)."""

    def run(self) -> list[int]:
        """Place all instructions."""
        starts: list[tuple[int, int]] = []
        for position, number in enumerate(self.missing):
            if not number:
                self._offer(position)
        while len(starts) < len(self.commands):
            queue = min(self.queues, key=_Queue.next_start)
            start, position = queue.take()
            starts.append((start, position))
            queue.free = start + self.spans[position].busy
            self._placed(position, start)
        return [position for _, position in sorted(starts)]

    def _placed(self, position: int, start: int) -> None:
        """Tell those that depend on an instruction, and chains that waited for it."""
        span, engine = self.spans[position], self.commands[position].engine
        for user in self.users[position]:
            same = self.commands[user].engine == engine
            self.ready_at[user] = max(self.ready_at[user], start + (span.busy if same else span.total))
            self.missing[user] -= 1
            if not self.missing[user]:
                self._offer(user)
        if engine == Engine.TENSOR:
            self.queues[engine].only = self.chains.after.get(position)
            self.chains.place(position)
            while self.waiting and self.waiting[0][0] <= self.chains.placed:
                self._add(heapq.heappop(self.waiting)[1])

    def _offer(self, position: int) -> None:
        """An instruction whose dependencies are placed; the first of a chain may have to wait for other products."""
        needed = self.chains.needed.get(position, 0)
        if needed > self.chains.placed:
            heapq.heappush(self.waiting, (needed, position))
        else:
            self._add(position)

    def _add(self, position: int) -> None:
        queue = self.queues[self.commands[position].engine]
        queue.add(self.ready_at[position], position, reserved=position in self.chains.members)


class Chains:
    """TENSOR instructions that continue the sums that the one before keeps in the array: nothing may come between them.

    Once a chain has begun, the engine does nothing else until it ends. So that this can't block, a chain begins only
    when all products are placed that were recorded before the last product that anything in the chain depends on.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.after: dict[int, int] = {}
        """Position in a chain -> the next one."""
        self.members: set[int] = set()
        """All positions in chains but the first."""
        self.needed: dict[int, int] = {}
        """First position of a chain -> how many products, in recorded order, must be placed before it."""
        self.numbers: dict[int, int] = {}
        self.placed = 0
        """Products placed without a gap, in recorded order."""
        self._ahead: set[int] = set()
        self._find(recorder)

    def place(self, position: int) -> None:
        """A product has been placed."""
        self._ahead.add(self.numbers[position])
        while self.placed in self._ahead:
            self._ahead.remove(self.placed)
            self.placed += 1

    def _find(self, recorder: Recorder) -> None:
        """One pass: `top` is the number of products up to the last one that an instruction depends on."""
        top: list[int] = []
        head, before, outside = -1, -1, {}
        for position, item in enumerate(recorder.commands):
            found = recorder.dependencies[position]
            known = (
                outside.get(d, top[d]) if d in outside or d not in self.numbers else self.numbers[d] + 1 for d in found
            )
            above = max(known, default=0)
            top.append(max((max(top[d], self.numbers.get(d, -1) + 1) for d in found), default=0))
            if item.opcode is not Opcode.TENSOR:
                if head >= 0:
                    outside[position] = above
                continue
            self.numbers[position] = len(self.numbers)
            if item.first and not item.last:
                head, outside = position, {}
            elif not item.first and item.dataflow == Dataflow.OUTPUT_STATIONARY:
                self.after[before] = position
                self.members.add(position)
            if head >= 0:
                outside[position] = above
                self.needed[head] = max(self.needed.get(head, 0), above)
            if item.last:
                head, outside = -1, {}
            before = position


class _Queue:
    """Instructions of one engine whose dependencies have been placed."""

    def __init__(self) -> None:
        self.free = 0
        self.only: int | None = None
        """The one instruction that may come next."""
        self.later: list[tuple[int, int]] = []
        """(cycle in which its operands are ready, position)."""
        self.ready: list[int] = []
        """Positions of those that could start when the engine is free."""
        self.cycles: dict[int, int] = {}
        """Offered instruction -> cycle in which its operands are ready."""

    def add(self, cycle: int, position: int, *, reserved: bool) -> None:
        """Offer an instruction; one that is `reserved` is taken only when it is the one that may come next."""
        self.cycles[position] = cycle
        if not reserved:
            heapq.heappush(self.later, (cycle, position))

    def next_start(self) -> float:
        if self.only is not None:
            return max(self.free, self.cycles[self.only]) if self.only in self.cycles else float("inf")
        if self.ready:
            return self.free
        return max(self.free, self.later[0][0]) if self.later else float("inf")

    def take(self) -> tuple[int, int]:
        """The instruction recorded first among those that can start next, and its start."""
        start = int(self.next_start())
        if self.only is not None:
            position = self.only
        else:
            while self.later and self.later[0][0] <= start:
                heapq.heappush(self.ready, heapq.heappop(self.later)[1])
            position = heapq.heappop(self.ready)
        del self.cycles[position]
        return start, position

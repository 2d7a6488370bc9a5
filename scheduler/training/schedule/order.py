"""Offline scheduling: the order in which instructions enter the queues.

Kernels record a step as if one instruction ran after the other. Here every engine takes, of the instructions whose
operands are ready, the one that was recorded first: list scheduling with the durations that the engines have. The
loads of one kernel then run under the products of another, and vector work under both.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from hwgen.arch import Arch
from hwgen.arch.arrays import Columns, columns, engines
from hwgen.arch.commands import Command
from hwgen.arch.isa import Dataflow, Engine, Format, Opcode, Target, Walk
from hwgen.arch.services import Job
from scheduler.hazards import Recorder
from scheduler.training.schedule.chains import NOTHING, Chains, Placed

MEMORY_LATENCY = 60
"""Cycles from the request of a load to its first beat, and from the last beat of a store to its answer; an assumption
that only the order depends on."""
START = 12
"""Cycles that an instruction needs besides its beats."""
ATTENTION_CYCLES, SERVICE_CYCLES = 10_000, 1_000
"""Assumptions, as the latency is."""
NEVER = float("inf")


@dataclass(frozen=True)
class Durations:
    """Of each instruction: cycles for which it keeps its engine to itself, and from its start to its results."""

    busy: NDArray[np.int64]
    total: NDArray[np.int64]

    def at(self, places: Sequence[int]) -> "Durations":
        """Those of a program whose instruction p is instruction `places[p]` here."""
        return Durations(self.busy[places], self.total[places])


def durations(commands: Sequence[Command], arch: Arch) -> Durations:
    """How long instructions take when nothing stalls them."""
    busy, total = np.zeros((2, len(commands)), np.int64)
    kinds = {Opcode.LOAD: _load, Opcode.TENSOR: _tensor, Opcode.VECTOR: _vector, Opcode.STORE: _store}
    kinds |= {Opcode.FILL: _load, Opcode.ATTEND: _attend}
    for found in columns(commands):
        busy[found.positions], total[found.positions] = kinds[found.opcode](found, arch)
    return Durations(busy, total)


@dataclass(frozen=True)
class Order:
    """What list scheduling finds."""

    positions: Sequence[int]
    """All instructions in the order of their starts."""
    engines: Sequence[int]
    """For each instruction, by position, who executes it: accumulator loads may be moved from FILL to LOAD."""


Pair = tuple[NDArray[np.int64], NDArray[np.int64]]


def _load(item: Columns, arch: Arch) -> Pair:
    busy = item.rows * (item.planes * item.beats + item.pad) + 2
    busy = np.where(item.target == Target.IDX, 4 * busy, busy)
    return busy, busy + MEMORY_LATENCY


def _tensor(item: Columns, arch: Arch) -> Pair:
    array, taken = arch.array, beats(item, arch)
    drain = np.where(
        item.dataflow == Dataflow.OUTPUT_STATIONARY,
        -(-item.rows // array.drain) * item.tile_cols * item.last,
        array.rows * array.chain_latency,
    )
    return np.maximum(taken, drain), taken + drain + array.rows + array.cols


def beats(item: Columns, arch: Arch) -> NDArray[np.int64]:
    """Cycles in which the array takes the products of TENSOR instructions."""
    array = arch.array
    words = np.where(item.sparse == 1, -(-item.n // array.lanes), 1)
    chained = item.groups * words * np.maximum(item.tile_rows * item.tile_cols, array.chain_latency)
    streamed = item.rows * words * np.maximum(item.tile_cols, np.where(words > 1, array.chain_latency, 1))
    return np.where(item.dataflow == Dataflow.OUTPUT_STATIONARY, chained, streamed)


def _vector(item: Columns, arch: Arch) -> Pair:
    busy = item.rows * -(-item.words // arch.vector.words) + START
    return busy, busy


def _attend(item: Columns, arch: Arch) -> Pair:
    """What a job has to do is in its descriptor, which only its kernel knows; nothing overtakes it in its engine."""
    busy = np.where(item.job == Job.ATTENTION, ATTENTION_CYCLES, SERVICE_CYCLES)
    return busy, busy + MEMORY_LATENCY


def _store(item: Columns, arch: Arch) -> Pair:
    words = item.rows * item.planes * item.words
    packed = np.maximum(words, words * item.n * 5 // np.maximum(4 * item.m, 1))
    busy = np.where(item.format == Format.PACKED, packed, words)
    busy = np.where(item.format == Format.FP32, 2 * words, busy) + 2
    return busy, busy + MEMORY_LATENCY


def ranks(commands: Sequence[Command], urgent: Sequence[bool]) -> list[int]:
    """Which instruction an engine takes first of those that are ready: the one recorded first, `urgent` ones before all
    others.

    But operands of the array are loaded before those of the vector engine; and weight gradients, for which nothing in
    the step waits, are what the array does when no other product is ready.
    """
    count = len(commands)
    found = np.arange(count) - count * np.asarray(urgent, np.int64)
    for item in columns(commands):
        if item.opcode == Opcode.LOAD:
            found[item.positions] -= 2 * count * np.isin(item.target, (Target.ACC16, Target.ACC32), invert=True)
        elif item.opcode == Opcode.TENSOR:
            found[item.positions] += 2 * count * (item.walk == Walk.WGT)
    return found.tolist()


class ListScheduler:
    """Puts the instructions of a recorder in the order of their starts, for one set of durations or several."""

    def __init__(self, recorder: Recorder) -> None:
        self.engines = engines(recorder.commands).tolist()
        self.ranks = ranks(recorder.commands, recorder.urgent)
        self.counts = [len(found) for found in recorder.dependencies]
        self.chains = Chains(recorder)
        self.users: list[list[int]] = [[] for _ in self.engines]
        for position, found in enumerate(recorder.dependencies):
            for earlier in found:
                self.users[earlier].append(position)

    def order(self, spans: Durations) -> Order:
        """All instructions in the order of their starts, if they take as long as `spans` says."""
        return _Listing(self, spans).run()


class _Listing:
    """One run of the list scheduler."""

    def __init__(self, scheduler: ListScheduler, spans: Durations) -> None:
        self.busy, self.total = spans.busy.tolist(), spans.total.tolist()
        self.engines, self.users, self.chains = list(scheduler.engines), scheduler.users, scheduler.chains
        self.ranks = scheduler.ranks
        self.missing, self.placed = list(scheduler.counts), Placed(scheduler.chains)
        self.ready_at = [0] * len(self.engines)
        taken: set[int] = set()
        self.queues = [_Queue(taken) for _ in Engine]
        self.waiting: list[int] = []
        """First positions of chains whose operands are ready, but that may not begin yet; a heap."""

    def run(self) -> Order:
        """Place all instructions. Of two engines that could start something at a time, FILL comes before LOAD."""
        starts: list[tuple[int, int]] = []
        for position, number in enumerate(self.missing):
            if not number:
                self._offer(position)
        first = attrgetter("start")
        while len(starts) < len(self.engines):
            queue = min(reversed(self.queues), key=first)
            start, position = queue.take(self.busy)
            starts.append((start, position))
            if self.engines[position] == Engine.FILL:
                self._filled(position, queue)
            self._placed(position, start)
        return Order([position for _, position in sorted(starts)], self.engines)

    def _filled(self, position: int, queue: "_Queue") -> None:
        """An accumulator load, which both engines were offered, has been taken by one."""
        load, fill = self.queues[Engine.LOAD], self.queues[Engine.FILL]
        if queue is load:
            self.engines[position] = Engine.LOAD
        (fill if queue is load else load).drop(position)

    def _placed(self, position: int, start: int) -> None:
        """Tell those that depend on an instruction, and chains that waited for it."""
        engine, engines, ready_at, missing = self.engines[position], self.engines, self.ready_at, self.missing
        free, complete = start + self.busy[position], start + self.total[position]
        for user in self.users[position]:
            cycle = free if engines[user] == engine else complete
            if cycle > ready_at[user]:
                ready_at[user] = cycle
            missing[user] -= 1
            if not missing[user]:
                self._offer(user)
        if engine == Engine.TENSOR:
            self.queues[engine].keep(self.chains.after.get(position))
            self.placed.place(position)
            while self.waiting and self.placed.reach(self.chains.needed[self.waiting[0]]):
                self._add(heapq.heappop(self.waiting))

    def _offer(self, position: int) -> None:
        """An instruction whose dependencies are placed; the first of a chain may have to wait for other products."""
        if self.placed.reach(self.chains.needed.get(position, NOTHING)):
            self._add(position)
        else:
            heapq.heappush(self.waiting, position)

    def _add(self, position: int) -> None:
        engine = self.engines[position]
        rank = None if position in self.chains.members else self.ranks[position]
        self.queues[engine].add(self.ready_at[position], position, rank)
        if engine == Engine.FILL:
            self.queues[Engine.LOAD].add(self.ready_at[position], position, rank)


class _Queue:
    """Instructions of one engine whose dependencies have been placed."""

    def __init__(self, taken: set[int]) -> None:
        self.free = 0
        self.taken = taken
        """Instructions that another engine has taken, but that are still on offer here or there."""
        self.start: float = NEVER
        """Cycle in which the next instruction can start."""
        self.only: int | None = None
        """The one instruction that may come next."""
        self.later: list[tuple[int, int, int]] = []
        """(cycle in which its operands are ready, rank, position)."""
        self.ready: list[tuple[int, int]] = []
        """(rank, position) of those that could start when the engine is free."""
        self.reserved: dict[int, int] = {}
        """Offered instruction of a chain -> cycle in which its operands are ready."""

    def add(self, cycle: int, position: int, rank: int | None) -> None:
        """Offer an instruction; one without a rank is taken only when it is the one that may come next."""
        if rank is None:
            self.reserved[position] = cycle
        else:
            heapq.heappush(self.later, (cycle, rank, position))
        self._set_start()

    def keep(self, position: int | None) -> None:
        """Take nothing but this instruction next; None: take any."""
        self.only = position
        self._set_start()

    def drop(self, position: int) -> None:
        """Another engine has taken an instruction that is on offer here."""
        self.taken.add(position)
        self._set_start()

    def take(self, busy: Sequence[int]) -> tuple[int, int]:
        """The instruction of the lowest rank among those that can start next, and its start."""
        start = int(self.start)
        if self.only is not None:
            position = self.only
            del self.reserved[position]
        else:
            while self.later and self.later[0][0] <= start:
                heapq.heappush(self.ready, heapq.heappop(self.later)[1:])
            while (position := heapq.heappop(self.ready)[1]) in self.taken:
                self.taken.remove(position)
        self.free = start + busy[position]
        self._set_start()
        return start, position

    def _set_start(self) -> None:
        while self.ready and self.ready[0][1] in self.taken:
            self.taken.remove(heapq.heappop(self.ready)[1])
        while self.later and self.later[0][2] in self.taken:
            self.taken.remove(heapq.heappop(self.later)[2])
        if self.only is not None:
            self.start = max(self.free, self.reserved.get(self.only, NEVER))
        elif self.ready:
            self.start = self.free
        else:
            self.start = max(self.free, self.later[0][0]) if self.later else NEVER

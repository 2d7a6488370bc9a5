"""Offline scheduling: the order in which instructions enter the queues.

Kernels record a step as if one instruction ran after the other. Here every engine takes, of the instructions whose
operands are ready, the one that was recorded first: list scheduling with the durations that the engines have. The
loads of one kernel then run under the products of another, and vector work under both.
"""

import heapq
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


def list_order(recorder: Recorder, arch: Arch) -> list[int]:
    """Positions of all instructions in the order of their starts."""
    count = len(recorder.commands)
    users: list[list[int]] = [[] for _ in range(count)]
    missing = [0] * count
    for position, found in enumerate(recorder.dependencies):
        missing[position] = len(found)
        for earlier in found:
            users[earlier].append(position)
    engines = [_Queue() for _ in Engine]
    for position, number in enumerate(missing):
        if not number:
            engines[recorder.commands[position].engine].add(0, position)
    ready_at = [0] * count
    starts: list[tuple[int, int]] = []
    while len(starts) < count:
        queue = min(engines, key=_Queue.next_start)
        start, position = queue.take()
        starts.append((start, position))
        span = duration(recorder.commands[position], arch)
        queue.free = start + span.busy
        for user in users[position]:
            same = recorder.commands[user].engine == recorder.commands[position].engine
            ready_at[user] = max(ready_at[user], start + (span.busy if same else span.total))
            missing[user] -= 1
            if not missing[user]:
                engines[recorder.commands[user].engine].add(ready_at[user], user)
    return [position for _, position in sorted(starts)]


class _Queue:
    """Instructions of one engine whose dependencies have been placed."""

    def __init__(self) -> None:
        self.free = 0
        self.later: list[tuple[int, int]] = []
        """(cycle in which its operands are ready, position)."""
        self.ready: list[int] = []
        """Positions of those that could start when the engine is free."""

    def add(self, cycle: int, position: int) -> None:
        heapq.heappush(self.later, (cycle, position))

    def next_start(self) -> float:
        if self.ready:
            return self.free
        return max(self.free, self.later[0][0]) if self.later else float("inf")

    def take(self) -> tuple[int, int]:
        """The instruction recorded first among those that can start next, and its start."""
        start = int(self.next_start())
        while self.later and self.later[0][0] <= start:
            heapq.heappush(self.ready, heapq.heappop(self.later)[1])
        return start, heapq.heappop(self.ready)

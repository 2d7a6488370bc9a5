"""Checks the tokens of a program without running it: can every instruction start, and can a counter overflow?

Queues and tokens are followed without time. Which instructions can start does not depend on who is faster, so one order
of events decides; whether a counter overflows does, so the slowest possible consumer is assumed.
"""

from collections import deque
from dataclasses import dataclass

from hwgen.arch import Arch
from hwgen.arch.commands import Command
from hwgen.arch.isa import Cause, Engine
from models.machine import commands


@dataclass(frozen=True)
class TokenProblem:
    """What is wrong with the tokens of a program.

    `cause` is WATCHDOG if instruction `pc` can never start, TOKEN_OVERFLOW if the tokens that `pc` gives may find the
    counter full, NONE if `pc` takes a token that a later instruction gives, so that program order is no legal order.
    """

    cause: Cause
    pc: int
    text: str


@dataclass
class _Entry:
    """An instruction under way."""

    pc: int
    item: Command
    number: int
    """How many instructions of the same engine come before it."""
    started: list[int]
    """How many instructions of each engine have surely started when this one starts, itself included.

    No more are known to have started when it completes.
    """


def check_tokens(program: bytes, arch: Arch) -> TokenProblem | None:
    """The first problem with the tokens of an encoded program, or None.

    Raises `MachineError` on a malformed instruction. An instruction in front of its engine counts as one of the
    `control.queue_depth` entries of its queue.
    """
    items = list(commands(program, arch))
    return _check_program_order(items, _Simulation(items, arch).run())


def _check_program_order(items: list[Command], found: TokenProblem | None) -> TokenProblem | None:
    """A token that only a later instruction gives comes first, unless the instruction can never start."""
    if found is not None and found.cause is Cause.WATCHDOG:
        return found
    tokens = {(giver, taker): 0 for giver in Engine for taker in Engine}
    for pc, item in enumerate(items):
        for giver in _engines(item.wait):
            tokens[giver, item.engine] -= 1
            if tokens[giver, item.engine] < 0:
                return TokenProblem(
                    Cause.NONE, pc, f"instruction {pc} takes a token that the {giver.name.lower()} engine gives later"
                )
        for taker in _engines(item.signal):
            tokens[item.engine, taker] += 1
    return found


def _engines(mask: int) -> list[Engine]:
    return [engine for engine in Engine if mask >> engine & 1]


def _latest(*counts: list[int]) -> list[int]:
    return [max(column) for column in zip(*counts)]


class _Simulation:
    """Dispatches, starts and completes instructions as soon as queues and tokens allow."""

    def __init__(self, items: list[Command], arch: Arch) -> None:
        self.items = items
        self.depth = arch.control.queue_depth
        self.limit = (1 << arch.control.token_bits) - 1
        self.dispatched = 0
        self.known = [0] * len(Engine)
        """Instructions of each engine that have surely started when the next instruction is dispatched."""
        self.queues: dict[Engine, deque[_Entry]] = {engine: deque() for engine in Engine}
        self.history: dict[Engine, list[_Entry]] = {engine: [] for engine in Engine}
        """Instructions of each engine that have completed, in order."""
        self.givers: dict[tuple[Engine, Engine], list[_Entry]] = {}
        """By (giver, taker): the completed instruction that gave each token so far."""
        self.takers: dict[tuple[Engine, Engine], list[int]] = {}
        """By (giver, taker): the number of the taker's instruction that took each token so far."""

    def run(self) -> TokenProblem | None:
        """Go on until nothing moves; report an instruction that is stuck, else an overflow."""
        while self._dispatch() | self._start():
            pass
        waiting = [queue[0] for queue in self.queues.values() if queue]
        if waiting:
            entry = min(waiting, key=lambda one: one.pc)
            missing = " and ".join(
                giver.name.lower()
                for giver in _engines(entry.item.wait)
                if not self._has_token(giver, entry.item.engine)
            )
            text = f"instruction {entry.pc} waits for ever for a token of the {missing} engine"
            return TokenProblem(Cause.WATCHDOG, entry.pc, text)
        return self._overflow()

    def _dispatch(self) -> bool:
        moved = False
        while self.dispatched < len(self.items):
            item = self.items[self.dispatched]
            queue, history = self.queues[item.engine], self.history[item.engine]
            if len(queue) == self.depth:
                break
            number = len(history) + len(queue)
            if number >= self.depth:
                self.known = _latest(self.known, history[number - self.depth].started)
            queue.append(_Entry(self.dispatched, item, number, started=list(self.known)))
            self.dispatched += 1
            moved = True
        return moved

    def _has_token(self, giver: Engine, taker: Engine) -> bool:
        return len(self.givers.get((giver, taker), [])) > len(self.takers.get((giver, taker), []))

    def _start(self) -> bool:
        moved = False
        for engine, queue in self.queues.items():
            while queue and all(self._has_token(giver, engine) for giver in _engines(queue[0].item.wait)):
                self._complete(queue.popleft())
                moved = True
        return moved

    def _complete(self, entry: _Entry) -> None:
        engine, history = entry.item.engine, self.history[entry.item.engine]
        if history:
            entry.started = _latest(entry.started, history[-1].started)
        for giver in _engines(entry.item.wait):
            taken = self.takers.setdefault((giver, engine), [])
            entry.started = _latest(entry.started, self.givers[giver, engine][len(taken)].started)
            taken.append(entry.number)
        entry.started[engine] = entry.number + 1
        for taker in _engines(entry.item.signal):
            self.givers.setdefault((engine, taker), []).append(entry)
        history.append(entry)

    def _overflow(self) -> TokenProblem | None:
        found = []
        for (giver, taker), entries in self.givers.items():
            taken = self.takers.get((giver, taker), [])
            surely = 0
            for given, entry in enumerate(entries, start=1):
                while surely < len(taken) and taken[surely] < entry.started[taker]:
                    surely += 1
                if given - surely > self.limit:
                    pair = f"from the {giver.name.lower()} to the {taker.name.lower()} engine"
                    text = f"when instruction {entry.pc} is done, {given - surely} tokens {pair} may wait, "
                    text += f"{self.limit} are allowed"
                    found.append(TokenProblem(Cause.TOKEN_OVERFLOW, entry.pc, text))
                    break
        return min(found, key=lambda one: one.pc, default=None)

"""Puts dependency tokens into a list of commands whose accesses are known, so that engines may run side by side."""

from collections import defaultdict
from dataclasses import dataclass, field, replace

from hwgen.arch import Arch, ProgramError
from hwgen.arch.commands import Command
from hwgen.arch.isa import Engine


@dataclass(frozen=True)
class Access:
    """A range of words of one memory ("act", "wgt", "idx", "acc", "curve" or "dram" in bytes), `high` excluded."""

    memory: str
    low: int
    high: int

    def overlaps(self, other: "Access") -> bool:
        """True when both touch a common word."""
        return self.memory == other.memory and self.low < other.high and other.low < self.high


@dataclass
class Step:
    """A command without tokens, and what it reads and writes."""

    command: Command
    reads: list[Access] = field(default_factory=list)
    writes: list[Access] = field(default_factory=list)

    def must_follow(self, earlier: "Step") -> bool:
        """True when this step and the earlier one touch the same words and one of them writes."""
        return (
            _overlap(self.reads, earlier.writes)
            or _overlap(self.writes, earlier.reads)
            or _overlap(self.writes, earlier.writes)
        )


def _overlap(left: list[Access], right: list[Access]) -> bool:
    return any(one.overlaps(other) for one in left for other in right)


def with_tokens(steps: list[Step], arch: Arch) -> list[Command]:
    """The steps' commands with `wait` and `signal` masks that enforce every dependency between engines.

    Tokens between two engines are matched in order, so a step waits for the latest of its predecessors on an engine,
    and only when no earlier step of its own engine has waited for that one or a later one.
    Raises `ProgramError` when more tokens could wait between two engines than their counter holds.
    """
    wait, signal = [0] * len(steps), [0] * len(steps)
    latest: dict[tuple[Engine, Engine], int] = defaultdict(lambda: -1)
    tokens: dict[tuple[Engine, Engine], int] = defaultdict(int)
    for index, step in enumerate(steps):
        for engine in Engine:
            mine = step.command.engine
            before = [i for i in range(index) if steps[i].command.engine == engine and step.must_follow(steps[i])]
            if engine == mine or not before or before[-1] <= latest[engine, mine]:
                continue
            latest[engine, mine] = before[-1]
            tokens[engine, mine] += 1
            signal[before[-1]] |= 1 << mine
            wait[index] |= 1 << engine
    limit = (1 << arch.control.token_bits) - 1
    for (giver, taker), count in tokens.items():
        if count > limit:
            raise ProgramError(f"{count} tokens from {giver.name} to {taker.name} could overflow, {limit} can wait")
    return [replace(step.command, wait=w, signal=s) for step, w, s in zip(steps, wait, signal)]

"""How hard a recipe prunes as training goes on: progressive gradient flow (Bambhaniya et al., arXiv 2402.04744).

A schedule is a function of the final pattern and of the share of training that is done, 0 to 1. The two decays start
after the first tenth, in which nothing is pruned, and have reached the final pattern at 70 %; what is left of training
settles the kept weights.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from models.pattern import Pattern

START, END = 0.1, 0.7
"""Share of training after which a decay begins and by which it has ended."""
EXPONENT = 5.0
"""Factors of e by which the exponential mask decay falls; what is left then, 0.7 %, becomes 0."""


@dataclass(frozen=True)
class Stage:
    """What holds at one moment of training."""

    pattern: Pattern | None
    """None: nothing is pruned."""
    leak: float = 0.0
    """What a pruned weight is multiplied by: 1 before, 0 after a mask decay."""


Schedule = Callable[[Pattern, float], Stage]


def constant(pattern: Pattern, progress: float) -> Stage:
    """The final pattern from the first step on."""
    return Stage(pattern)


def linear_mask_decay(pattern: Pattern, progress: float) -> Stage:
    """The final pattern, whose pruned weights fade evenly."""
    return Stage(pattern, 1.0 - decay_time(progress))


def exponential_mask_decay(pattern: Pattern, progress: float) -> Stage:
    """The final pattern, whose pruned weights lose equal shares in equal times."""
    time = decay_time(progress)
    return Stage(pattern, math.exp(-EXPONENT * time) if time < 1 else 0.0)


def structure_decay(pattern: Pattern, progress: float) -> Stage:
    """Dense, then fewer and fewer of each group: for 1:8 dense, 7:8, 4:8, 2:8, 1:8."""
    if progress < START:
        return Stage(None)
    counts = structure_counts(pattern)
    return Stage(Pattern(counts[int(decay_time(progress) * (len(counts) - 1))], pattern.m))


def structure_counts(pattern: Pattern) -> list[int]:
    """How many of a group are kept, step by step: all but one, then halves of the group, down to `n`."""
    halves = [pattern.m >> shift for shift in range(1, pattern.m.bit_length())]
    between = {count for count in (pattern.m - 1, *halves) if count > pattern.n}
    return [*sorted(between, reverse=True), pattern.n]


def decay_time(progress: float) -> float:
    """Share of a decay that is done, 0 to 1."""
    return min(max((progress - START) / (END - START), 0.0), 1.0)

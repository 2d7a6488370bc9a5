"""Stalls of one side of a Verilated block: in which cycles it gives or takes nothing."""

import itertools
from collections.abc import Callable, Iterator

Stalls = Callable[[], Iterator[bool]]
"""Makes a pattern: True is a cycle in which this side stalls."""


def never() -> Iterator[bool]:
    """No stalls."""
    return itertools.repeat(False)

"""Markdown that the generated pages share."""

import enum
from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of a table, with an empty one behind it."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines] + [""]


def bit_range(low: int, width: int) -> str:
    """`low-high`, or `low` of a single bit."""
    return str(low) if width == 1 else f"{low}-{low + width - 1}"


def codes(kind: Iterable[enum.IntEnum]) -> str:
    """Numbers and names of members of an enumeration."""
    return ", ".join(f"{item.value} {item.name}" for item in kind)

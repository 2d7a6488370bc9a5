"""A field of a word of bits: what instructions and descriptors are made of."""

import enum
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Field:
    """One field: `width` bits holding `low`..`high`, in two's complement if `low` is negative.

    `choices` name the values; without `high` the last of them is the largest.
    """

    name: str
    width: int
    doc: str
    low: int = 0
    high: int | None = None
    choices: type[enum.IntEnum] | None = None

    @cached_property
    def limit(self) -> int:
        """Largest value that is allowed."""
        if self.high is not None:
            return self.high
        return (1 << self.width) - 1 if self.choices is None else max(self.choices)

    @property
    def signed(self) -> bool:
        """Whether values may be negative."""
        return self.low < 0

    def bits(self, value: int) -> int:
        """How a value is encoded."""
        return value & ((1 << self.width) - 1)

    def value(self, bits: int) -> int:
        """The inverse of `bits`."""
        return bits - (1 << self.width) if self.signed and bits >> self.width - 1 else bits

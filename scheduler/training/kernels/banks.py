"""Words of the accumulator scratchpad for kernels: rings over its banks."""

import enum

from hwgen.arch import UserError


class Banks(enum.IntEnum):
    """Kinds of kernels that have accumulator words of their own."""

    PRODUCTS = 0
    OTHERS = 1
    GRADIENTS = 2
    """Weight gradients: half of the banks that hold what outlives a chunk."""


class AccRing:
    """Stretches of one accumulator bank, one after the other, from its beginning again at its end."""

    def __init__(self, base: int, depth: int) -> None:
        self.base, self.depth, self.next, self.live = base, depth, 0, 0

    def fits(self, words: int) -> bool:
        """Whether `words` words can be taken without an overlap with what was taken since `live` was set to 0."""
        return self.live + self._skipped(words) + words <= self.depth

    def take(self, words: int) -> int:
        """First of `words` words. Raises `UserError` if they do not fit."""
        self.live += self._skipped(words) + words
        if self.live > self.depth:
            raise UserError(f"{self.live} accumulator words are needed at a time in a bank that has {self.depth}")
        start = 0 if self.next + words > self.depth else self.next
        self.next = start + words
        return self.base + start

    def _skipped(self, words: int) -> int:
        """Words between those taken last and the next ones, which begin anew if there is too little room at the end."""
        return self.depth - self.next if self.live and self.next + words > self.depth else 0

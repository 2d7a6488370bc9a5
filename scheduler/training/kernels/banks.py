"""Words of the accumulator scratchpad for kernels: rings over its banks."""

import enum
from collections.abc import Sequence
from math import ceil

from hwgen.arch import Arch, UserError
from scheduler.training.kernels.blocks import Block

STATIC_BANKS = 2
"""Accumulator banks, the last ones, that hold what outlives a chunk: constants, parameters of channels, sums. Half of
them are for weight gradients, if kernels have banks of their own."""


def constant_words(arch: Arch) -> int:
    """Accumulator words at the end of the scratchpad for constants and scalars, each the same in all columns."""
    return min(128, arch.scratchpads.acc_depth // arch.scratchpads.acc_banks // 4)


LEAST_RINGS = 3
"""Banks that a kind of kernels needs for itself."""


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


class Accumulators:
    """Blocks of accumulator words: `take` gives those for a chunk (consecutive ones lie in different banks), `keep`
    those that live through a kernel.
    """

    def __init__(self, arch: Arch) -> None:
        self.arch = arch
        pads = arch.scratchpads
        self.bank_words = pads.acc_depth // pads.acc_banks
        bases = [bank * self.bank_words for bank in range(pads.acc_banks)]
        count = max(1, pads.acc_banks - STATIC_BANKS)
        rings = [AccRing(base, self.bank_words) for base in bases[:count]]
        half = count // 2
        self.apart = half >= LEAST_RINGS
        kept = self.bank_words // 2 if self.apart else self.bank_words
        self.statics = [AccRing(base, kept) for base in bases[count:]]
        spare = [AccRing(base + kept, self.bank_words - kept) for base in bases[count:]]
        (spare if self.apart else self.statics)[-1].depth -= constant_words(arch)
        self._sets = (rings[:half], rings[half:], spare) if self.apart else (rings, rings, rings)
        self.rings = rings
        self._first, self._used, self._static_turn, self._source_turn = 0, 0, 0, 0
        self._gaps_filled = False
        """Whether there are weight gradients, which the array can always turn to."""

    def choose_banks(self, kind: Banks) -> None:
        """Take blocks from the banks of a kind of kernels, if there are enough of them.

        A kernel of each kind can then run at a time, without waiting for words that another one has.
        """
        self.begin_chunk()
        self.rings = self._sets[kind]
        self._gaps_filled |= kind == Banks.GRADIENTS
        self.begin_chunk()

    def room(self, kind: Banks, words: int) -> int:
        """How many blocks of so many words the banks of a kind have."""
        return sum(ring.depth // words for ring in self._sets[kind])

    def begin_chunk(self) -> None:
        """Blocks taken before may be overwritten from here on.

        A chunk of few blocks begins one bank behind the one before: while the vector engine works on one chunk, the one
        before is stored from another bank, and the next one loaded into a third.
        """
        for ring in (*self.rings, *self._idle()):
            ring.live = 0
        few = 0 < self._used <= len(self.rings)
        self._first, self._used = self._first + (1 if few else self._used), 0

    def begin_kernel(self) -> None:
        """Blocks kept before may be overwritten from here on."""
        for ring in self.statics:
            ring.live = 0

    def take(self, rows: int, words: int, *, apart: Block | Sequence[Block] | None = None) -> Block:
        """A block without gaps for this chunk, if possible in another bank than all of `apart`, or at least the first
        ones; its words are free again when the bank's ring comes round.
        """
        others = [apart] if isinstance(apart, Block) else apart or []
        banks = [block.addr // self.bank_words * self.bank_words for block in others]
        start = self._first + self._used
        turns = range(start, start + len(self.rings))
        rings = [(turn, self.rings[turn % len(self.rings)]) for turn in turns]
        fitting = [item for item in rings if item[1].fits(rows * words)] or rings
        turn, ring = max(fitting, key=lambda item: _before(banks, item[1].base))
        self._used = turn + 1 - self._first
        return Block(ring.take(rows * words), rows, words, words)

    def take_source(self, rows: int, words: int) -> Block:
        """A block that is only read after it was loaded: in a bank that idles, so that neither keeps the other waiting
        where the vector engine writes; if there is none, as `take` gives it.
        """
        rings = [ring for ring in self._idle() if ring.fits(rows * words)]
        if not rings:
            return self.take(rows, words)
        self._source_turn += 1
        return Block(rings[self._source_turn % len(rings)].take(rows * words), rows, words, words)

    def _idle(self) -> Sequence[AccRing]:
        """The banks of weight gradients, for kernels without products, as long as there are none."""
        mine = self.apart and self.rings is self._sets[Banks.OTHERS] and not self._gaps_filled
        return self._sets[Banks.GRADIENTS] if mine else ()

    def limit(self, blocks: int) -> int:
        """Most words of a block, if a chunk takes `blocks` of them and the blocks of two chunks are to find room."""
        return self.bank_words // ceil(2 * blocks / len(self.rings))

    def keep(self, rows: int, words: int) -> Block:
        """A block that stays until the kernel ends."""
        first = self._static_turn % len(self.statics)
        rings = self.statics[first:] + self.statics[:first]
        ring = next((ring for ring in rings if ring.fits(rows * words)), rings[0])
        self._static_turn += 1
        return Block(ring.take(rows * words), rows, words, words)


def _before(banks: list[int], base: int) -> int:
    """How many banks come before one in a list."""
    return banks.index(base) if base in banks else len(banks)

"""Sums over the rows of blocks."""

from hwgen.arch.isa import Operation, Target
from scheduler.training.kernels.emitter import Block, Emitter

ADD, MUL, MAC, COPY = Operation.ADD, Operation.MUL, Operation.MAC, Operation.COPY
MOST_ROWS = 64
"""Rows of partial sums beyond which an instruction's start no longer matters."""


def sum_rows(em: Emitter, x: Block, y: Block | None = None) -> Block:
    """Sum of x, or of x * y, over its rows: a block of one row. Takes 1 (with y: 1.5) passes over the block.

    Rows are added as a binary tree: row r to row r + n/2, and so on; the last of an odd number joins row 0.
    """
    rows = x.rows
    half = rows // 2
    total = em.take(max(half, 1), x.words)
    low, high = x.part(0, half), x.part(half, half)
    if half == 0:
        em.vector(COPY, total, x) if y is None else em.vector(MUL, total, x, y)
        return total
    if y is None:
        em.vector(ADD, total, low, high)
    else:
        em.vector(MUL, total, high, y.part(half, half))
        em.vector(MAC, total, low, y.part(0, half), total)
    if rows % 2:
        first, last = total.part(0, 1), x.part(rows - 1, 1)
        em.vector(ADD, first, first, last) if y is None else em.vector(MAC, first, last, y.part(rows - 1, 1), first)
    return _fold(em, total)


def _fold(em: Emitter, total: Block) -> Block:
    """Sum over rows in place."""
    while total.rows > 1:
        half = total.rows // 2
        low = total.part(0, half)
        em.vector(ADD, low, low, total.part(half, half))
        if total.rows % 2:
            first = total.part(0, 1)
            em.vector(ADD, first, first, total.part(total.rows - 1, 1))
        total = low
    return total


class RowSums:
    """Sums over rows that a kernel keeps while blocks come by: a few rows of partial sums, added up at the end.

    Adding partial sums to a bank of their own costs one pass for each sum, where halves of one block would meet in a
    bank; and each of several rows loses less than a single one would.
    """

    def __init__(self, em: Emitter, words: int, rows: int) -> None:
        self.em = em
        self.block = em.keep(rows, words)
        em.load(Target.ACC16, self.block.addr, None, self.block.region, rows=1, pad=rows * words)

    def add(self, x: Block, y: Block | None = None, *, first: int = 0) -> None:
        """Add the rows of x, or of x * y, whose first word is word `first` of the sums."""
        for row in range(0, x.rows, self.block.rows):
            count = min(self.block.rows, x.rows - row)
            target, part = self.block.part(0, count).columns(first, x.words), x.part(row, count)
            if y is None:
                self.em.vector(ADD, target, target, part)
            else:
                self.em.vector(MAC, target, part, y.part(row, count), target)

    def total(self) -> Block:
        """The sums as a row, in place of the partial ones."""
        return _fold(self.em, self.block)


def partial_rows(em: Emitter, count: int, words: int) -> int:
    """Rows of partial sums for each of `count` sums of `words` words: at most MOST_ROWS, in half of what is kept."""
    room = min(ring.depth for ring in em.statics) * len(em.statics) // 2 // (count * words)
    return 1 << (min(max(room, 1), MOST_ROWS).bit_length() - 1)

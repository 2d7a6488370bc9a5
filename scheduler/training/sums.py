"""Sums over the rows of a block, by halves: half of the rows are added to the other half until one is left."""

from hwgen.arch.isa import Operation
from scheduler.training.emitter import Block, Emitter

ADD, MUL, MAC, COPY = Operation.ADD, Operation.MUL, Operation.MAC, Operation.COPY


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

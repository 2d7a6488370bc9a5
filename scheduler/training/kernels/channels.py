"""Work along the channels of a block: reductions over them, and the columns that only fill up the last word."""

from collections.abc import Sequence

from hwgen.arch.isa import Operation
from scheduler.training.kernels.emitter import Block, Emitter, constant_bits

COPY, MUL, MAC, ADD, AND = Operation.COPY, Operation.MUL, Operation.MAC, Operation.ADD, Operation.AND
LOWEST = -1.0e30
"""Below everything that matters, and finite, also times a number."""
PARTS = 8
"""Words of a row are first added up in steps of at least this many."""


def over_channels(
    em: Emitter, operation: Operation, x: Block, y: Block | None = None, *, apart: Sequence[Block] = ()
) -> Block:
    """Sum (ADD) or maximum (MAX) over all columns of all words of each row; with `y` the sum of x * y.

    Gives a block of one word for each row, which has the result in every column, if possible in another bank than those
    `apart`. Takes 1 pass and log2(columns) more over that word: words are added to a few in another bank than x and y,
    these by halves, columns by shuffles.
    """
    width = 1 << (max(1, x.words // PARTS).bit_length() - 1)
    total = em.take(x.rows, width, apart=[x, *([] if y is None else [y]), *apart])
    for first in range(0, x.words, width):
        count = min(width, x.words - first)
        part, target = x.columns(first, count), total.columns(0, count)
        if y is not None:
            extra = (target,) if first else ()
            em.vector(MAC if first else MUL, target, part, y.columns(first, count), *extra)
        elif first:
            em.vector(operation, target, target, part)
        else:
            em.vector(COPY, target, part)
    while total.words > 1:
        half = total.words // 2
        em.vector(operation, total.columns(0, half), total.columns(0, half), total.columns(half, half))
        total = total.columns(0, half)
    for shuffle in range(1, em.arch.array.cols.bit_length()):
        em.vector(operation, total, total, total, shuffle=shuffle)
    return total


def clear_padding(em: Emitter, block: Block, channels: int) -> None:
    """Make the columns after the last channel zeros."""
    used = channels % em.arch.array.cols
    if used:
        last = block.columns(block.words - 1, 1)
        em.vector(AND, last, last, _by_column(em, used, 0xFFFFFFFF, 0))


def lower_padding(em: Emitter, block: Block, channels: int) -> None:
    """Make the columns after the last channel, which are zeros, lower than any number."""
    used = channels % em.arch.array.cols
    if used:
        last = block.columns(block.words - 1, 1)
        em.vector(ADD, last, last, _by_column(em, used, 0, constant_bits(LOWEST)))


def _by_column(em: Emitter, used: int, inside: int, outside: int) -> Block:
    """A constant with one bit pattern in the columns below `used` and another one in the others."""
    return em.constant(tuple(inside if column < used else outside for column in range(em.arch.array.cols)))

"""The SR-STE term: weights that N:M selection drops are pulled to zero."""

from collections.abc import Sequence

from hwgen.arch import UserError
from hwgen.arch.isa import Operation
from models.pattern import Pattern
from scheduler.training.kernels.emitter import Block, Emitter, Operand

MAGNITUDE = 0x7FFFFFF0
"""Bits of an FP32 magnitude without the last four, which give way to the place in the group."""


def decay_dropped(
    em: Emitter, weight: Block, gradient: Block, pattern: Pattern, factor: Operand, *, spare: Sequence[Block] = ()
) -> None:
    """Add `factor * weight` to the gradient of weights that are not among the n largest of m neighbouring columns.

    Groups lie along columns and, if m is more than the columns, words: both blocks have no gaps and hold whole groups.
    The place in the group stands in the last 4 bits of a magnitude, so that all of them are different and the lower
    column stays among equals; magnitudes that differ only there count as equal. They are compared as FP32 numbers:
    STORE PACKED rounds them first, and may choose differently among those that are equal then.

    4 + n (log2(m) + 2) passes, less if m is more than the columns. `spare` may give two blocks of the weights' shape.
    """
    if pattern.n == pattern.m:
        return
    if pattern.m & (pattern.m - 1):
        raise UserError(f"the weights that {pattern} drops are only found if M is a power of two")
    words = max(1, pattern.m // em.arch.array.cols)
    shape = weight.rows * weight.words // words, words
    blocks = spare or (em.take(weight.rows, weight.words), em.take(weight.rows, weight.words))
    left, found = (block.reshape(*shape) for block in blocks)
    top = found if words == 1 else em.take(shape[0], 1)
    _ranked(em, weight.reshape(*shape), left, pattern.m)
    for _ in range(pattern.n):
        _largest(em, left, top, pattern.m)
        em.vector(Operation.EQUAL, found, left, top, left)
        em.vector(Operation.SUB, left, left, found)
    em.vector(Operation.POSITIVE, found, left, weight.reshape(*shape))
    target = gradient.reshape(*shape)
    em.vector(Operation.MAC, target, found, factor, target)


def _ranked(em: Emitter, weight: Block, d: Block, m: int) -> None:
    """Magnitudes, the place in the group in their last bits, the first one largest. 2 passes."""
    cols = em.arch.array.cols
    em.vector(Operation.AND, d, weight, MAGNITUDE)
    for word in range(d.words):
        places = em.constant(tuple(m - 1 - (word * cols + column) % m for column in range(cols)))
        em.vector(Operation.OR, d.columns(word, 1), d.columns(word, 1), places)


def _largest(em: Emitter, x: Block, top: Block, m: int) -> None:
    """The largest of each group, in all its columns: first over words, then over columns."""
    first, others = x.columns(0, 1), [x.columns(word, 1) for word in range(1, x.words)]
    for word in others:
        em.vector(Operation.MAX, top, first, word)
        first = top
    for shuffle in range(1, min(m, em.arch.array.cols).bit_length()):
        em.vector(Operation.MAX, top, first, first, shuffle=shuffle)
        first = top

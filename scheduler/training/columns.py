"""Sums and maxima over the channels of each row, and the columns beyond the last channel."""

import numpy as np

from hwgen.arch.isa import Operation
from scheduler.training.emitter import Block, Emitter, constant_bits

FAR_BELOW = -1e30
"""Added to columns that hold no channel, so that no maximum is there."""


def fold_columns(em: Emitter, operation: Operation, x: Block) -> Block:
    """Combine all words and columns of each row by ADD or MAX: one word a row, the same value in every column.

    Words are combined by halves, then columns by shuffles; about 1 pass over the block and one over a word of each row
    for every bit of a column's number.
    """
    result = em.take(x.rows, max(1, x.words // 2), apart=x)
    words, source = x.words, x
    while words > 1:
        half = words // 2
        low, high = source.columns(0, half), source.columns(words - half, half)
        em.vector(operation, result.columns(0, half), low, high)
        if words % 2:
            _join_middle(em, operation, result, source.columns(half, 1))
        words, source = half, result
    word = result.columns(0, 1)
    for level in range(1, em.arch.array.cols.bit_length()):
        em.vector(operation, word, source.columns(0, 1), source.columns(0, 1), shuffle=level)
        source = result
    return word


def _join_middle(em: Emitter, operation: Operation, result: Block, middle: Block) -> None:
    """The word in the middle of an odd number joins the first."""
    first = result.columns(0, 1)
    em.vector(operation, first, first, middle)


def padding_mask(em: Emitter, x: Block, channels: int) -> None:
    """Lower the columns of the last word that hold no channel; nothing to do if all do."""
    cols = em.arch.array.cols
    used = channels - (x.words - 1) * cols
    if used < cols:
        last = x.columns(x.words - 1, 1)
        bits = tuple(0 if column < used else constant_bits(FAR_BELOW) for column in range(cols))
        em.vector(Operation.ADD, last, last, em.constant(bits).over(last))


def channel_mask(channels: int, words: int, cols: int) -> list[tuple[int, ...]]:
    """FP32 patterns of 1.0 where a word's column holds a channel and 0.0 elsewhere, for each word."""
    values = np.arange(words * cols).reshape(words, cols) < channels
    return [tuple(constant_bits(1.0) if used else 0 for used in row) for row in values]

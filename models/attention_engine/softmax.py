"""Softmax of a row of integer scores in fixed point."""

import numpy as np
from numpy.typing import NDArray

from hwgen.arch.attention import (
    EXP_BITS,
    EXP_MAX,
    EXP_TABLE,
    NARROW_BITS,
    NARROW_FRACTION,
    POWER_BITS,
    POWER_FRACTION,
    PROBABILITY_FRACTION,
    RECIPROCAL_BITS,
    SEGMENTS,
    TABLE_FRACTION,
)

_TABLE = np.array(EXP_TABLE, dtype=np.int64)
_LOW = POWER_FRACTION - (SEGMENTS - 1).bit_length()
"""Bits of t within a piece of the exponential."""


def power(difference: NDArray[np.int64], mantissa: int, exponent: int) -> NDArray[np.int64]:
    """t, POWER_FRACTION bits of fraction, of row maximum - score: how many powers of two it is below the maximum.

    difference x mantissa x 2^-exponent, rounded down twice and saturated; at most 1.25 units too small.
    """
    dropped = max(0, exponent - POWER_FRACTION - NARROW_FRACTION)
    narrow = np.minimum(difference >> dropped, (1 << NARROW_BITS) - 1)
    return np.minimum(narrow * mantissa >> exponent - POWER_FRACTION - dropped, (1 << POWER_BITS) - 1)


def exponential(t: NDArray[np.int64]) -> NDArray[np.int64]:
    """Gives e = 2^-t: EXP_BITS bits of fraction, to nearest, at most EXP_MAX."""
    octave, fraction = t >> POWER_FRACTION, t & (1 << POWER_FRACTION) - 1
    piece, inside = fraction >> _LOW, fraction & (1 << _LOW) - 1
    start, end = _TABLE[piece], _TABLE[piece + 1]
    value = start - ((start - end) * inside >> _LOW)
    shift = octave + TABLE_FRACTION - EXP_BITS
    return np.minimum(value + (np.int64(1) << shift - 1) >> shift, EXP_MAX)


def reciprocal(total: int) -> tuple[int, int]:
    """(r, n) of a sum of e: 1 / total is r x 2^-(n + RECIPROCAL_BITS), n = floor(log2(total)); (0, 0) of 0."""
    if not total:
        return 0, 0
    n = total.bit_length() - 1
    divisor = (total << RECIPROCAL_BITS) >> n + 1
    return (1 << 2 * RECIPROCAL_BITS - 1) // divisor, n


def probability(e: NDArray[np.int64], r: int, n: int) -> NDArray[np.int64]:
    """Quotients e / total: PROBABILITY_FRACTION bits of fraction, to nearest."""
    shift = n + RECIPROCAL_BITS - PROBABILITY_FRACTION
    return e * r + (1 << shift - 1) >> shift


def row_exponentials(
    scores: NDArray[np.int64], seen: NDArray[np.bool_], maximum: int, scale: tuple[int, int]
) -> NDArray[np.int64]:
    """Gives e of every score, 0 where a key is not seen; `maximum` is at least every seen score."""
    return np.where(seen, exponential(power(np.where(seen, maximum - scores, 0), *scale)), 0)


def shrink(value: NDArray[np.int64] | int, factor: int) -> NDArray[np.int64] | int:
    """Sums when the running maximum grows: value x factor / 2^EXP_BITS, to nearest, ties up."""
    # In two halves: the product of a 48-bit sum would not fit 64 bits.
    low = value & (1 << EXP_BITS) - 1
    return (value >> EXP_BITS) * factor + (low * factor + (1 << EXP_BITS - 1) >> EXP_BITS)

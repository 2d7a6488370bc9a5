"""FP16, BF16 and FP32 as bit patterns: widening, rounding to nearest even, and the corner values that tests use.

Written with integer operations only: numpy's float16 and ml_dtypes' bfloat16 stay outside authorities for the tests.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hwgen.arch import UserError

FORMATS = ("fp16", "bf16")
"""Operand formats, named as `Array.operand` names them."""
NAN_FP16 = 0x7E00
NAN_BF16 = 0x7FC0
NAN_FP32 = 0x7FC00000
"""The one NaN that arithmetic gives, in each format."""

CORNERS_FP16: tuple[int, ...] = (
    *(0x0000, 0x8000),  # +0, -0
    *(0x0001, 0x8001, 0x0002, 0x03FF, 0x83FF),  # smallest, second and largest subnormal
    *(0x0400, 0x8400, 0x0401),  # smallest normal and its neighbour
    *(0x3BFF, 0x3C00, 0x3C01, 0xBBFF, 0xBC00, 0xBC01),  # 1 and its neighbours
    *(0x3800, 0x4000, 0x4200, 0x3555, 0x6400, 0x6401),  # 0.5, 2, 3, about 1/3, 1024 and 1025
    *(0x7BFF, 0xFBFF, 0x7BFE),  # largest finite
    *(0x7C00, 0xFC00, NAN_FP16),  # infinities, NaN
)
"""FP16 bit patterns that a unit test of FP16 tries in every combination."""

CORNERS_BF16: tuple[int, ...] = (
    *(0x0000, 0x8000),  # +0, -0
    *(0x0001, 0x8001, 0x0002, 0x007F, 0x807F),  # smallest, second and largest subnormal
    *(0x0080, 0x8080, 0x0081),  # smallest normal and its neighbour
    *(0x3F7F, 0x3F80, 0x3F81, 0xBF7F, 0xBF80, 0xBF81),  # 1 and its neighbours
    *(0x3F00, 0x4000, 0x4040, 0x3EAB, 0x4300, 0x4301),  # 0.5, 2, 3, about 1/3, 128 and 129
    *(0x1F80, 0x1FFF, 0x2000, 0x6000, 0x5F80, 0x5FFF),  # near 2**-64 and 2**64: products at the ends of the range
    *(0x7F7F, 0xFF7F, 0x7F7E),  # largest finite
    *(0x7F80, 0xFF80, NAN_BF16),  # infinities, NaN
)
"""BF16 bit patterns that a unit test of BF16 tries in every combination."""

CORNERS_FP32: tuple[int, ...] = (
    *(0x00000000, 0x80000000),  # +0, -0
    *(0x00000001, 0x80000001, 0x00000002, 0x007FFFFF, 0x807FFFFF),  # smallest, second and largest subnormal
    *(0x00800000, 0x80800000, 0x00800001),  # smallest normal and its neighbour
    *(0x3F7FFFFF, 0x3F800000, 0x3F800001, 0xBF7FFFFF, 0xBF800000, 0xBF800001),  # 1 and its neighbours
    *(0x3F801000, 0x3F803000, 0x3F800FFF, 0x3F801001),  # FP16 tie down to even, tie up to even, just below, just above
    *(0x3F808000, 0x3F818000, 0x3F807FFF, 0x3F808001),  # the same for BF16
    *(
        0x33800000,
        0xB3800000,
        0x33800001,
        0x337FFFFF,
    ),  # 2**-24: tie of 1 + x in FP32, smallest FP16 subnormal; neighbours
    *(
        0x33000000,
        0x33000001,
        0x33C00000,
        0x33BFFFFF,
    ),  # half of and 1.5 times the smallest FP16 subnormal: ties; neighbours
    *(
        0x387FC000,
        0x387FE000,
        0x387FDFFF,
        0x38800000,
    ),  # largest FP16 subnormal, the tie above it, below it, smallest normal
    *(0x4B800000, 0x4B7FFFFF, 0xCB800000),  # 2**24, where the last bit becomes 2, and its lower neighbour
    *(
        0x477FE000,
        0x477FEFFF,
        0x477FF000,
        0x47800000,
    ),  # largest FP16, last that rounds down to it, tie to infinity, 65536
    *(0x7F7F0000, 0x7F7F7FFF, 0x7F7F8000),  # largest BF16, last that rounds down to it, tie to infinity
    *(0x00008000, 0x00018000, 0x00007FFF, 0x00010000),  # BF16 subnormal ties
    *(0x7F7FFFFF, 0xFF7FFFFF, 0x7F000000),  # largest finite, half of it and a little more
    *(0x7F800000, 0xFF800000, NAN_FP32),  # infinities, NaN
)
"""FP32 bit patterns that a unit test of FP32 tries in every combination."""


def fp32_values(bits: ArrayLike) -> NDArray[np.float32]:
    """FP32 bit patterns (uint32, any shape) as float32 values of the same shape."""
    return np.ascontiguousarray(bits, dtype=np.uint32).view(np.float32).reshape(np.shape(bits))


def fp32_bits(values: ArrayLike) -> NDArray[np.uint32]:
    """float32 values (any shape) as bit patterns; every NaN becomes 0x7FC00000."""
    raw = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32).reshape(np.shape(values))
    return np.where(is_nan_fp32(raw), np.uint32(NAN_FP32), raw)


def is_nan_fp32(bits: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """True where an FP32 bit pattern is a NaN of any kind."""
    return (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)


def widen(bits: ArrayLike, operand: str) -> NDArray[np.uint32]:
    """FP16 or BF16 bit patterns (uint16, any shape) as FP32 bit patterns: exact, NaN becomes 0x7FC00000."""
    _check_format(operand)
    word = np.asarray(bits, dtype=np.uint16).astype(np.uint32)
    if operand == "bf16":
        wide = word << 16
        return np.where(is_nan_fp32(wide), np.uint32(NAN_FP32), wide)
    return _WIDE_FP16[word]


def decode(bits: ArrayLike, operand: str) -> NDArray[np.float32]:
    """FP16 or BF16 bit patterns (uint16, any shape) as float32 values: exact."""
    return fp32_values(widen(bits, operand))


def narrow(bits: ArrayLike, operand: str) -> NDArray[np.uint16]:
    """FP32 bit patterns (uint32, any shape) rounded to FP16 or BF16 bit patterns.

    To nearest, ties to even; subnormals kept; overflow gives infinity; NaN becomes the canonical NaN.
    """
    _check_format(operand)
    word = np.asarray(bits, dtype=np.uint32)
    return _narrow_fp16(word) if operand == "fp16" else _narrow_bf16(word)


def encode(values: ArrayLike, operand: str) -> NDArray[np.uint16]:
    """float32 values (any shape) rounded to FP16 or BF16 bit patterns, as `narrow` does.

    Wider inputs are refused: rounding float64 to float32 first would round twice.
    """
    array = np.asarray(values)
    if array.dtype != np.float32:
        raise UserError(f"values to encode as {operand} must be float32, not {array.dtype}")
    return narrow(fp32_bits(array), operand)


def _check_format(operand: str) -> None:
    if operand not in FORMATS:
        raise UserError(f"operand format must be one of {', '.join(FORMATS)}, not {operand!r}")


def _widen_fp16(word: NDArray[np.uint32]) -> NDArray[np.uint32]:
    sign, exponent, fraction = (word & 0x8000) << 16, (word >> 10) & 0x1F, word & 0x3FF
    normal = ((exponent + (127 - 15)) << 23) | (fraction << 13)
    # A subnormal is fraction * 2**-24: move its leading one to bit 10 and lower the exponent by the same amount.
    length = sum(((fraction >> bit) > 0).astype(np.uint32) for bit in range(10))
    subnormal = ((length + (127 - 25)) << 23) | (((fraction << (11 - length)) & 0x3FF) << 13)
    small = np.where(fraction == 0, 0, subnormal)
    large = np.where(fraction == 0, 0x7F800000, NAN_FP32)
    magnitude = np.where(exponent == 0, small, np.where(exponent == 31, large, normal))
    return np.where((exponent == 31) & (fraction != 0), NAN_FP32, sign | magnitude).astype(np.uint32)


_WIDE_FP16 = _widen_fp16(np.arange(1 << 16, dtype=np.uint32))


def _shift_right_to_even(value: NDArray[np.uint32], shift: NDArray[np.uint32] | np.uint32) -> NDArray[np.uint32]:
    one = np.uint32(1)
    return (value + ((one << (shift - one)) - one) + ((value >> shift) & one)) >> shift


def _narrow_fp16(word: NDArray[np.uint32]) -> NDArray[np.uint16]:
    sign, magnitude = (word >> np.uint32(16)) & np.uint32(0x8000), word & np.uint32(0x7FFFFFFF)
    exponent = magnitude >> np.uint32(23)
    rebased = np.maximum(magnitude, np.uint32(113 << 23)) - np.uint32((127 - 15) << 23)
    normal = np.minimum(_shift_right_to_even(rebased, np.uint32(13)), np.uint32(0x7C00))
    significand = (magnitude & np.uint32(0x7FFFFF)) | np.uint32(0x800000)
    # In units of 2**-24. A shift of 25 already rounds every significand to zero, FP32 subnormals among them.
    shift = np.uint32(126) - np.clip(exponent, 101, 112).astype(np.uint32)
    subnormal = _shift_right_to_even(significand, shift)
    rounded = sign | np.where(exponent >= 113, normal, subnormal)
    return np.where(is_nan_fp32(word), np.uint32(NAN_FP16), rounded).astype(np.uint16)


def _narrow_bf16(word: NDArray[np.uint32]) -> NDArray[np.uint16]:
    # The carry of a rounded-up magnitude runs into the exponent, and from the largest value to infinity.
    nan = is_nan_fp32(word)
    rounded = _shift_right_to_even(np.where(nan, np.uint32(0), word), np.uint32(16))
    return np.where(nan, np.uint32(NAN_BF16), rounded).astype(np.uint16)

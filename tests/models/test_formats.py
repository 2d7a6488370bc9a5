"""Number formats against numpy (FP16) and ml_dtypes (BF16), two implementations by others."""

import ml_dtypes
import numpy as np
import pytest

from hwgen.arch import UserError
from models import formats
from models.formats import CORNERS_BF16, CORNERS_FP16, CORNERS_FP32
from tests.models.support import SEED, assert_bits

ALL = np.arange(1 << 16, dtype=np.uint16)
AUTHORITY = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}
NAN = {"fp16": 0x7E00, "bf16": 0x7FC0}


def canonical(bits: np.ndarray, values: np.ndarray, nan: int) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # signalling NaN among them
        nans = np.isnan(values)
    return np.where(nans, bits.dtype.type(nan), bits)


@pytest.mark.parametrize("operand", ["fp16", "bf16"])
def test_all_values_widen_exactly(operand):
    with np.errstate(invalid="ignore"):  # signalling NaN among them
        expected = ALL.view(AUTHORITY[operand]).astype(np.float32)
    assert_bits(formats.widen(ALL, operand), canonical(expected.view(np.uint32), expected, 0x7FC00000), operand)


@pytest.mark.parametrize("operand", ["fp16", "bf16"])
def test_all_values_survive_widening_and_narrowing(operand):
    values = ALL.view(AUTHORITY[operand])
    assert_bits(formats.narrow(formats.widen(ALL, operand), operand), canonical(ALL, values, NAN[operand]), operand)


@pytest.mark.parametrize("operand", ["fp16", "bf16"])
def test_rounding_matches_authority(operand):
    rng = np.random.default_rng(SEED)
    near = formats.widen(ALL, operand)
    shift = 13 if operand == "fp16" else 16
    bits = np.concatenate(
        [
            rng.integers(0, 1 << 32, 4_000_000, dtype=np.uint32),
            rng.standard_normal(500_000, dtype=np.float32).view(np.uint32),
            # Every operand value, plus each side of the tie above it.
            *(
                near + np.uint32(step)
                for step in (0, 1, (1 << (shift - 1)) - 1, 1 << (shift - 1), (1 << (shift - 1)) + 1)
            ),
            np.arange(0x32000000, 0x39000000, 0x1777, dtype=np.uint32),
            np.array(CORNERS_FP32, dtype=np.uint32),
        ]
    )
    values = bits.view(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = values.astype(AUTHORITY[operand])
    assert_bits(formats.narrow(bits, operand), canonical(expected.view(np.uint16), values, NAN[operand]), operand)


def test_subnormal_ties_of_fp16_go_to_even():
    # Halves of 2**-24: 0.5 down to 0, 1.5 up to 2, 2.5 down to 2; just above 0.5 up to 1.
    values = np.array([0.5, 1.5, 2.5, 0.5000001, -0.5], dtype=np.float32) * np.float32(2**-24)
    assert formats.encode(values, "fp16").tolist() == [0, 2, 2, 1, 0x8000]


def test_overflow_boundary_of_fp16():
    values = np.array([65519.996, 65520, -65520, 3e38], dtype=np.float32)
    assert formats.encode(values, "fp16").tolist() == [0x7BFF, 0x7C00, 0xFC00, 0x7C00]


def test_nan_of_any_kind_becomes_the_one_nan():
    nans = np.array([0x7F800001, 0xFFC00000, 0xFFFFFFFF, 0x7FC00000], dtype=np.uint32)
    assert set(formats.narrow(nans, "fp16").tolist()) == {0x7E00}
    assert set(formats.narrow(nans, "bf16").tolist()) == {0x7FC0}
    assert set(formats.fp32_bits(nans.view(np.float32)).tolist()) == {0x7FC00000}


def test_shape_is_kept():
    assert formats.decode(np.zeros((2, 0, 3), np.uint16), "fp16").shape == (2, 0, 3)
    assert formats.fp32_values(np.uint32(0x3F800000)).shape == ()
    assert formats.fp32_bits(np.zeros((3, 2), np.float32).T).shape == (2, 3)


@pytest.mark.parametrize(
    ("corners", "dtype", "expected"),
    [
        (CORNERS_FP16, np.float16, np.float16),
        (CORNERS_BF16, ml_dtypes.bfloat16, ml_dtypes.bfloat16),
        (CORNERS_FP32, np.float32, np.float32),
    ],
)
def test_corners_hold_what_they_promise(corners, dtype, expected):
    bits = np.array(corners, dtype=f"u{np.dtype(dtype).itemsize}")
    values = set(bits.view(dtype).astype(np.float64).tolist())
    info = ml_dtypes.finfo(expected)
    one = 1.0
    promised = {one, one + float(info.eps), one - float(info.epsneg), float(info.max), float(info.tiny)}
    promised |= {float(info.smallest_subnormal), float(info.tiny) - float(info.smallest_subnormal), np.inf, -np.inf}
    assert promised <= values
    assert {0, 1 << (bits.itemsize * 8 - 1)} <= set(corners)
    assert np.isnan(bits.view(dtype).astype(np.float64)).sum() == 1
    assert len(set(corners)) == len(corners)


def test_unknown_format_is_refused():
    with pytest.raises(UserError, match=r"^operand format must be one of fp16, bf16, not 'fp8'$"):
        formats.widen(ALL, "fp8")


def test_wider_values_are_refused():
    with pytest.raises(UserError, match=r"^values to encode as fp16 must be float32, not float64$"):
        formats.encode(np.zeros(3), "fp16")

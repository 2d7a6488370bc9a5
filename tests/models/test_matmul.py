"""The order of additions: against scalars, the numpy definition and PyTorch within a bound."""

import numpy as np
import pytest

from models.formats import CORNERS_BF16, CORNERS_FP16, decode, fp32_bits, fp32_values
from models.matmul import accumulate_gathered, chain, matmul
from tests.models.support import SEED, assert_bits, normal_operands, wild_operands

OPERANDS = ["fp16", "bf16"]
CORNERS = {"fp16": CORNERS_FP16, "bf16": CORNERS_BF16}
SHAPES = [(1, 1, 1), (5, 7, 3), (3, 64, 9), (33, 130, 17), (64, 3, 1)]


def scalar_chain(a: np.ndarray, w: np.ndarray, operand: str) -> np.ndarray:
    """One numpy float32 scalar at a time."""
    left, right = decode(a, operand), decode(w, operand)
    out = np.zeros((a.shape[0], w.shape[1]), dtype=np.float32)
    with np.errstate(all="ignore"):
        for p, s in np.ndindex(*out.shape):
            total = np.float32(0)
            for k in range(w.shape[0]):
                total = np.float32(total + np.float32(left[p, k] * right[k, s]))
            out[p, s] = total
    return fp32_bits(out)


@pytest.mark.parametrize("operand", OPERANDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_chain_and_kernel_match_scalars(operand, shape):
    rng = np.random.default_rng(SEED)
    rows, depth, columns = shape
    a, w = wild_operands(rng, (rows, depth), operand), normal_operands(rng, (depth, columns), operand)
    expected = scalar_chain(a[:8], w, operand)
    assert_bits(chain(a[:8], w, operand), expected, "chain")
    assert_bits(matmul(a, w, operand), chain(a, w, operand), "kernel")


@pytest.mark.parametrize("operand", OPERANDS)
def test_kernel_matches_chain_on_wild_values(operand):
    rng = np.random.default_rng(SEED)
    a, w = wild_operands(rng, (40, 6), operand), wild_operands(rng, (6, 40), operand)
    expected = chain(a, w, operand)
    assert len(np.unique(expected)) > 100
    assert_bits(matmul(a, w, operand), expected, operand)


@pytest.mark.parametrize("operand", OPERANDS)
def test_one_product_is_numpys_float32_product_of_all_corners(operand):
    corners = np.array(CORNERS[operand], dtype=np.uint16)
    left, right = np.meshgrid(corners, corners, indexing="ij")
    with np.errstate(all="ignore"):
        # +0 takes the product, which turns -0 into +0.
        expected = fp32_bits(np.float32(0) + decode(left, operand) * decode(right, operand))
        exact = decode(left, operand).astype(np.float64) * decode(right, operand).astype(np.float64)
        once = fp32_bits(np.float32(0) + exact.astype(np.float32))
    assert_bits(chain(corners[:, None], corners[None, :], operand), expected, operand)
    assert_bits(expected, once, "rounded once from the exact product")


def test_fp16_products_are_exact():
    rng = np.random.default_rng(SEED)
    a, w = rng.integers(0, 1 << 16, (2, 100_000), dtype=np.uint16)
    left, right = decode(a, "fp16"), decode(w, "fp16")
    finite = np.isfinite(left) & np.isfinite(right)
    left, right = left[finite], right[finite]
    assert ((left * right).astype(np.float64) == left.astype(np.float64) * right.astype(np.float64)).all()


def test_two_products_take_one_rounding_each():
    rng = np.random.default_rng(SEED)
    a, w = normal_operands(rng, (50, 2), "fp16"), normal_operands(rng, (2, 50), "fp16")
    left, right = decode(a, "fp16").astype(np.float64), decode(w, "fp16").astype(np.float64)
    expected = (left[:, :1] * right[:1] + left[:, 1:] * right[1:]).astype(np.float32)
    assert_bits(matmul(a, w, "fp16"), fp32_bits(expected), "K = 2")


def test_order_is_ascending():
    # 1 + 2**-24 + 2**-24 stays 1 in this order; adding the small ones first would give 1 + 2**-23.
    a = np.array([[0x3C00, 0x0001, 0x0001]], dtype=np.uint16)
    w = np.full((3, 1), 0x3C00, dtype=np.uint16)
    assert matmul(a, w, "fp16").tolist() == [[0x3F800000]]
    assert matmul(a[:, ::-1], w, "fp16").tolist() == [[0x3F800001]]


def test_subnormal_sums_are_kept():
    # 2**-70 * 2**-70 is the FP32 subnormal 2**-140; the compiled kernel must not flush it.
    a, w = np.full((9, 1), 0x1C80, np.uint16), np.full((1, 9), 0x1C80, np.uint16)
    assert set(matmul(a, w, "bf16").ravel().tolist()) == {1 << 9}
    assert set(chain(a, w, "bf16").ravel().tolist()) == {1 << 9}


def test_bf16_product_is_rounded_before_the_sum():
    # The product rounds to infinity before -largest could pull it back: a fused multiply-add would give a finite sum.
    a = np.array([[0xFF7F, 0x7F7F]], dtype=np.uint16)
    w = np.array([[0x3F80], [0x3F81]], dtype=np.uint16)
    assert matmul(a, w, "bf16").tolist() == [[0x7F800000]]
    assert chain(a, w, "bf16").tolist() == [[0x7F800000]]


def test_zero_times_infinity_is_the_one_nan():
    a, w = np.array([[0x7C00]], np.uint16), np.array([[0x8000]], np.uint16)
    assert matmul(a, w, "fp16").tolist() == [[0x7FC00000]]


@pytest.mark.parametrize("compute", [chain, matmul])
def test_start_is_continued_and_left_alone(compute):
    rng = np.random.default_rng(SEED)
    a, w = normal_operands(rng, (6, 20), "fp16"), normal_operands(rng, (20, 5), "fp16")
    half = compute(a[:, :9], w[:9], "fp16")
    before = half.copy()
    assert_bits(compute(a[:, 9:], w[9:], "fp16", start=half), chain(a, w, "fp16"), "continued")
    assert_bits(half, before, "start")
    column = compute(a[:, :9], w[:9, :1], "fp16")
    before = column.copy()
    compute(a[:, 9:], w[9:, :1], "fp16", start=column)
    assert_bits(column, before, "start of one column")


def test_negative_zero_start():
    start = np.array([[0x80000000]], dtype=np.uint32)
    one, minus_zero = np.array([[0x3C00]], np.uint16), np.array([[0x8000]], np.uint16)
    assert matmul(one, minus_zero, "fp16", start=start).tolist() == [[0x80000000]]
    assert matmul(one, minus_zero, "fp16").tolist() == [[0]]


def test_gathered_kernel_takes_the_named_activations():
    rng = np.random.default_rng(SEED)
    for slots in (1, 2, 7):
        a, w = wild_operands(rng, (11, 24), "fp16"), wild_operands(rng, (slots, 5), "fp16")
        places = rng.integers(0, 24, (slots, 5), dtype=np.uint32)
        sums = np.zeros((5, 11), dtype=np.float32)
        accumulate_gathered(np.ascontiguousarray(decode(a, "fp16").T), decode(w, "fp16"), places, sums)
        for column in range(5):
            expected = chain(a[:, places[:, column]], w[:, column : column + 1], "fp16")
            assert_bits(fp32_bits(sums[column])[:, None], expected, f"{slots} slots, column {column}")


def test_pruned_weights_change_nothing_for_finite_data():
    rng = np.random.default_rng(SEED)
    a, w = normal_operands(rng, (9, 32), "fp16"), normal_operands(rng, (32, 6), "fp16")
    w[rng.random(w.shape) < 0.7] = 0
    for column in range(6):
        kept = np.flatnonzero(w[:, column])
        alone = chain(a[:, kept], w[kept, column : column + 1], "fp16")
        assert_bits(chain(a, w[:, column : column + 1], "fp16"), alone, f"column {column}")


def test_close_to_float64():
    # |error| <= (K - 1) u * sum |a w|, u = 2**-24, to first order; 1 % for the higher orders.
    rng = np.random.default_rng(SEED)
    for depth in (64, 777):
        a, w = normal_operands(rng, (30, depth), "fp16"), normal_operands(rng, (depth, 30), "fp16")
        left, right = decode(a, "fp16").astype(np.float64), decode(w, "fp16").astype(np.float64)
        bound = 1.01 * (depth - 1) * 2.0**-24 * (np.abs(left) @ np.abs(right))
        assert (np.abs(fp32_values(matmul(a, w, "fp16")) - left @ right) <= bound).all()

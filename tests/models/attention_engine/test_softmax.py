"""The fixed-point softmax against float64, over its whole input range, with the error bounds of the contract page."""

from fractions import Fraction

import numpy as np
import pytest

from hwgen.arch.attention import (
    EXP_MAX,
    POWER_BITS,
    softmax_scale,
    sum_limit,
)
from models.attention_engine.softmax import (
    exponential,
    power,
    probability,
    reciprocal,
    row_exponentials,
    shrink,
)

ULP = 2.0**-16
BOUND = 1.75
"""Largest error of e, in 2^-16, the scaling of the difference included."""


def test_exponential_of_every_t():
    t = np.arange(1 << POWER_BITS)
    error = exponential(t) / 2**16 - np.exp2(-t / 2**16)
    assert error.max() < 0.9 * ULP
    assert error[1:].min() > -0.9 * ULP
    assert exponential(t)[0] == EXP_MAX
    assert (np.diff(exponential(t)) <= 0).all()


@pytest.mark.parametrize("exponent", range(16, 64))
def test_exponential_of_differences(exponent, seed):
    """Every exponent of a scale; differences up to the largest, most of them where e is not 0."""
    rng = np.random.default_rng(seed + exponent)
    for mantissa in (1 << 15, (1 << 16) - 1, int(rng.integers(1 << 15, 1 << 16))):
        top = min(2**39 - 1, (20 << exponent) // mantissa + 2)
        difference = np.unique(np.concatenate([rng.integers(0, top, 4000), np.arange(min(top, 2000)), [2**39 - 1]]))
        e = exponential(power(difference, mantissa, exponent))
        exact = np.exp2(-difference * (mantissa * 2.0**-exponent))
        assert np.abs(e / 2**16 - exact).max() <= BOUND * ULP


def test_every_e_is_within_half_a_unit_and_a_part_of_itself():
    """Whatever the scaled difference was before it became t, at most 1.25 units less than it."""
    t = np.arange(1 << POWER_BITS)
    e, highest, lowest = exponential(t) * ULP, np.exp2(-t * ULP), np.exp2(-(t + 1.25) * ULP)
    assert (e - lowest <= (0.5 + 1.25 * lowest) * ULP).all()
    assert (highest - e <= (0.5 + 1.25 * highest) * ULP).all()
    assert (e[highest < 0.4999 * ULP] == 0).all()


@pytest.mark.parametrize("exponent", range(16, 64))
def test_power_is_at_most_a_unit_and_a_quarter_small(exponent, seed):
    """In exact integers, for differences of every size."""
    rng, most = np.random.default_rng(seed + exponent), (1 << POWER_BITS) - 1
    for mantissa in (1 << 15, (1 << 16) - 1, int(rng.integers(1 << 15, 1 << 16))):
        differences = (rng.integers(1, 2, 500) << rng.integers(0, 39, 500)) + rng.integers(0, 1 << 20, 500)
        differences = np.minimum(differences, 2**39 - 1)
        for difference, t in zip(differences.tolist(), power(differences, mantissa, exponent).tolist()):
            exact = Fraction(difference * mantissa, 1 << exponent - 16)
            assert 0 <= exact - t < Fraction(5, 4) or (t == most and exact > most)


def test_equal_scores_are_off_by_one_unit():
    for keys in range(1, 16385):
        total = keys * EXP_MAX
        assert abs(int(probability(np.int64(EXP_MAX), *reciprocal(total))) - 65536 / keys) <= 1


@pytest.mark.parametrize(("keys", "worst"), [(1024, 0.0077), (16384, 0.1105)])
@pytest.mark.parametrize("depth", [16.98, 17.02])
def test_keys_near_the_smallest_e_all_round_one_way(keys, worst, depth):
    """What a row of many keys below one large key can lose or gain: half a unit for each of them."""
    mantissa, exponent = softmax_scale(0.001)
    scores = np.zeros(keys, np.int64)
    scores[1:] = -round(depth * 2**exponent / mantissa)
    e = row_exponentials(scores, np.ones(keys, dtype=bool), 0, (mantissa, exponent))
    assert set(e[1:].tolist()) == {int(depth < 17)}
    exact = 1 / (1 + (keys - 1) * 2**-depth)
    assert 0.75 * worst <= abs(int(probability(e[:1], *reciprocal(int(e.sum())))[0]) * ULP - exact) <= worst


@pytest.mark.parametrize("total", [65535, 65536, 65537, 98304, 131071, 131072, 65535 * 1024, 65535 * 65535, 2**32 - 1])
def test_reciprocal(total):
    r, n = reciprocal(total)
    assert 0 < r <= 1 << 20
    assert abs(Fraction(r, 2 ** (n + 20)) * total - 1) < Fraction(1, 2**18)


def test_reciprocal_of_random_sums(seed):
    for total in np.random.default_rng(seed).integers(65535, 1 << 32, 5000).tolist():
        r, n = reciprocal(total)
        assert abs(r * total / 2 ** (n + 20) - 1) < 2**-18
    assert reciprocal(0) == (0, 0)


def rows(rng: np.random.Generator):
    """Scores of rows: flat, peaked, all but one just above the smallest e, single, wide, of every length."""
    scale = softmax_scale(0.001)
    for length in (1, 2, 3, 17, 100, 1000, 1024):
        for spread in (0, 1, 100, 1000, 5000, 30_000):
            yield rng.integers(-spread, spread + 1, length), scale
        octave = 2**16 * 2.0 ** (scale[1] - 16) / scale[0]
        for depth in (4.0, 10.0, 15.5, 16.4, 16.9, 17.1):
            yield np.array([0] + [-round(depth * octave)] * (length - 1)), scale


def test_probabilities(seed):
    """(1.75 (1 + n P) / S + 1) 2^-16, S the exact sum: n errors of e in the sum, one in the dividend."""
    worst = 0
    for scores, scale in rows(np.random.default_rng(seed)):
        e = row_exponentials(scores, np.ones(len(scores), dtype=bool), int(scores.max()), scale)
        got = probability(e, *reciprocal(int(e.sum()))) * ULP
        exact = np.exp2(-(scores.max() - scores) * (scale[0] * 2.0 ** -scale[1]))
        total = exact.sum()
        limit = (BOUND * (1 + len(scores) * exact / total) / total + 1) * ULP
        assert (np.abs(got - exact / total) <= limit).all()
        assert abs(got.sum() - 1) <= (len(scores) + 2) * ULP / 2
        worst = max(worst, np.abs(got - exact / total).max())
    assert worst < 0.0078  # 1,023 keys that all round up to the smallest e beside one large one


def test_a_single_key_has_probability_one():
    e = row_exponentials(np.array([-(2**38)]), np.array([True]), -(2**38), (40000, 40))
    assert probability(e, *reciprocal(int(e.sum()))).tolist() == [1 << 16]


def test_keys_that_are_not_seen_have_none():
    e = row_exponentials(np.array([5, 9, 7]), np.array([True, False, True]), 7, softmax_scale(0.1))
    assert e[1] == 0
    assert e[2] == EXP_MAX


def test_scales(seed):
    for scale in np.exp(np.random.default_rng(seed).uniform(np.log(1e-14), np.log(0.69), 1000)):
        mantissa, exponent = softmax_scale(scale)
        assert 1 << 15 <= mantissa < 1 << 16
        assert 16 <= exponent <= 63
        assert abs(mantissa * 2.0**-exponent / (scale * np.log2(np.e)) - 1) <= 2**-16


@pytest.mark.parametrize("threshold", [0.05, 0.1, 0.5, 1.0])
def test_sum_limit_is_the_confidence_test(threshold, seed):
    limit = sum_limit(threshold)
    for total in np.random.default_rng(seed).integers(65535, 30 * 65536, 2000).tolist():
        assert (total > limit) == (Fraction(EXP_MAX, total) < Fraction(threshold))
    assert sum_limit(0) == 2**32 - 1
    assert sum_limit(2) == 0


def test_shrink_is_exact_rounding(seed):
    rng = np.random.default_rng(seed)
    for value in [*rng.integers(-(2**47), 2**47, 500).tolist(), -(2**47), 2**47 - 1, 0, 1, -1]:
        factor = int(rng.integers(0, 65536))
        assert int(shrink(np.int64(value), factor)) == (value * factor + 2**15) >> 16

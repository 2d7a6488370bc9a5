"""Golden top-k against sorted lists and torch.topk; scores of FP32 values against torch's order."""

import random

import numpy as np
import pytest
import torch

from hwgen.arch import UserError
from models.topk import fp32_scores, keep_mask, top_k


def by_sorting(scores: list[int], k: int) -> list[int]:
    return sorted(sorted(range(len(scores)), key=lambda index: (-scores[index], index))[:k])


@pytest.mark.parametrize("bits", [1, 3, 12, 32, 64])
def test_equals_sorting(bits, seed):
    source = random.Random(seed)
    for _ in range(200):
        scores = [source.getrandbits(bits) for _ in range(source.randint(1, 90))]
        k = source.randint(0, len(scores))
        assert top_k(np.array(scores, np.uint64), k).tolist() == by_sorting(scores, k), (scores, k)
        assert np.flatnonzero(keep_mask(np.array(scores, np.uint64), k)).tolist() == by_sorting(scores, k)


def test_equal_scores_go_to_the_lower_index():
    assert top_k(np.array([5, 7, 5, 7, 5], np.uint8), 3).tolist() == [0, 1, 3]


def test_values_equal_torch(seed):
    rng = np.random.default_rng(seed)
    for length in (1, 2, 17, 500):
        values = np.round(rng.standard_normal(length, dtype=np.float32), 1)
        values[rng.random(length) < 0.1] = rng.choice(np.array([0.0, -0.0, np.inf, -np.inf, 1e-40], np.float32))
        for k in {0, 1, length // 3, length}:
            kept = np.sort(values[top_k(fp32_scores(values), k)])
            assert np.array_equal(kept, np.sort(torch.topk(torch.from_numpy(values), k).values.numpy()))


def test_nan_is_above_infinity_as_in_torch():
    bits = np.array([0x7F800000, 0x7FC00000, 0xFFC00001, 0xFF800000, 0x3F800000], np.uint32)
    values = bits.view(np.float32)
    assert torch.isnan(torch.topk(torch.from_numpy(values), 2).values).all()
    assert top_k(fp32_scores(values), 2).tolist() == [1, 2]
    assert top_k(fp32_scores(values), 3).tolist() == [0, 1, 2]


def test_both_zeros_are_equal():
    assert top_k(fp32_scores(np.array([-0.0, 0.0, -0.0], np.float32)), 2).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("scores", "k", "message"),
    [
        (np.zeros(4, np.uint16), 5, r"^top-k of 4 scores needs k between 0 and 4, not 5$"),
        (np.zeros(4, np.uint16), -1, r"^top-k of 4 scores needs k between 0 and 4, not -1$"),
        (np.zeros(4, np.int32), 1, r"^top-k needs a vector of unsigned integers, not int32 of shape \[4\]$"),
        (np.zeros((2, 2), np.uint8), 1, r"^top-k needs a vector of unsigned integers, not uint8 of shape \[2, 2\]$"),
        (np.zeros(0, np.uint8), 0, r"^top-k needs a vector of unsigned integers, not uint8 of shape \[0\]$"),
    ],
)
def test_refusals(scores, k, message):
    with pytest.raises(UserError, match=message):
        top_k(scores, k)


def test_only_fp32_becomes_scores():
    with pytest.raises(UserError, match=r"^fp32_scores needs float32 values, not float64$"):
        fp32_scores(np.zeros(3))

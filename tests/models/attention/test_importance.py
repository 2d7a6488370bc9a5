"""Fixed-point scores against exact fractions."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from models.attention import importance


def nearest(value, fraction):
    """Ties up."""
    return (Fraction(float(value)) * 2**fraction + Fraction(1, 2)).__floor__()


@pytest.mark.parametrize("fraction", [importance.TOKEN_FRACTION, importance.HEAD_FRACTION])
def test_fixed_point_equals_fractions(fraction):
    seed = 3
    print(f"seed {seed}")
    random = np.random.default_rng(seed)
    half = 2.0 ** -(fraction + 1)
    corners = [0, 1, half, np.nextafter(np.float32(half), np.float32(0)), 3 * half, 1e-30, 1 - 2**-24]
    values = np.concatenate([corners, random.random(500), random.random(500) * 2.0**-fraction]).astype(np.float32)
    found = importance.fixed_point(torch.from_numpy(values), fraction)
    assert found.tolist() == [nearest(value, fraction) for value in values]


def test_sums_do_not_depend_on_order():
    p = torch.rand(1, 6, 7, 9, generator=torch.Generator().manual_seed(2)).softmax(-1)
    whole = importance.token_addend(p)
    parts = torch.zeros(1, 9, dtype=torch.int64)
    for head in reversed(range(6)):
        for row in range(7):
            parts = importance.accumulate(parts, importance.token_addend(p[:, head : head + 1, row : row + 1]))
    assert torch.equal(whole, parts)
    assert abs(int(whole.sum()) - 6 * 7 * 65536) <= 6 * 7 * 9 / 2


def test_heads_count_magnitudes():
    output = torch.tensor([[[[0.5, -0.25], [1.0, 0.0]], [[-2.0, 0.0], [0.0, 0.001]]]])
    assert importance.head_addend(output).tolist() == [[448, 512]]


def test_sums_saturate_below_protected_tokens():
    score = importance.accumulate(torch.tensor([importance.SCORE_MAX - 1, 5]), torch.tensor([65536, 65536]))
    assert score.tolist() == [importance.SCORE_MAX, 65541]
    assert importance.protect(score, torch.tensor([False, True])).tolist() == [2**32 - 2, 2**32 - 1]


def test_forgetting_rounds_down():
    assert importance.forget(torch.tensor([256, 257, 1, 0]), 0.5).tolist() == [128, 128, 0, 0]
    assert importance.forget(torch.tensor([2**32 - 2]), 255 / 256).tolist() == [(2**32 - 2) * 255 // 256]
    assert importance.forget(torch.tensor([12345]), 1.0).tolist() == [12345]


def test_formats_are_those_of_the_engine():
    from hwgen.arch import attention

    assert importance.SCORE_MAX == attention.SCORE_MAX
    assert importance.TOKEN_FRACTION == attention.PROBABILITY_FRACTION
    assert importance.HEAD_FRACTION == attention.HEAD_FRACTION
    assert importance.FORGETTING_STEPS == 1 << attention.FORGET_FRACTION

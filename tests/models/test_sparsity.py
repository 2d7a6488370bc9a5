"""N:M selection against a loop that picks one weight at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hwgen.arch import UserError
from models.sparsity import check_finite, nm_mask


def naive_mask(line: np.ndarray, n: int, m: int) -> list[bool]:
    """Repeatedly take the first of the largest remaining magnitudes of a group."""
    kept = [False] * len(line)
    for start in range(0, len(line), m):
        group = range(start, min(start + m, len(line)))
        for _ in range(min(n, len(group))):
            best = None
            for i in group:
                if not kept[i] and (best is None or abs(line[i]) > abs(line[best])):
                    best = i
            kept[best] = True
    return kept


# Few distinct magnitudes, so that nearly every group has ties.
WEIGHTS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=1, max_dims=3, max_side=19),
    elements=st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 2.0, -2.0, 1e-30]),
)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(weights=WEIGHTS, data=st.data())
def test_matches_naive_loop(weights, data):
    m = data.draw(st.integers(1, 16))
    n = data.draw(st.integers(1, m))
    axis = data.draw(st.integers(-weights.ndim, weights.ndim - 1))
    expected = np.apply_along_axis(naive_mask, axis, weights, n, m)
    assert (nm_mask(weights, n, m, axis) == expected).all()


def test_ties_keep_lower_index():
    assert nm_mask(np.array([1.0, -1.0, 1.0, 1.0]), 2, 4).tolist() == [True, True, False, False]
    assert nm_mask(np.array([0.0, -0.0, 0.0, -0.0]), 1, 4).tolist() == [True, False, False, False]
    assert nm_mask(np.array([1.0, 3.0, -3.0, 1.0]), 3, 4).tolist() == [True, True, True, False]


def test_partial_group_keeps_its_largest():
    assert nm_mask(np.array([5.0, 4, 3, 2, 0.1, 0.3, 0.2]), 2, 4).tolist() == [True, True] + [False] * 3 + [True] * 2
    assert nm_mask(np.array([5.0, 4, 3, 2, 0.0]), 2, 4).tolist() == [True, True, False, False, True]


def test_keeps_exactly_n_of_whole_groups():
    weights = np.random.default_rng(1).standard_normal((64, 48)).astype(np.float16)
    for n, m in [(1, 4), (2, 4), (2, 8), (4, 8), (2, 16), (16, 16)]:
        assert (nm_mask(weights, n, m, 0).reshape(64 // m, m, 48).sum(axis=1) == n).all()


def test_input_is_left_alone():
    weights = np.array([3.0, -1.0, 2.0, -4.0])
    nm_mask(weights, 1, 2)
    assert weights.tolist() == [3.0, -1.0, 2.0, -4.0]


@pytest.mark.parametrize(("n", "m"), [(0, 4), (5, 4), (-1, 4), (1, 0)])
def test_bad_ratio_is_refused(n, m):
    with pytest.raises(UserError, match=rf"^N:M sparsity needs 1 <= N <= M, not {n}:{m}$"):
        nm_mask(np.ones(8), n, m)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused_with_their_place(bad):
    weights = np.ones((3, 8), dtype=np.float32)
    weights[1, 6] = bad
    with pytest.raises(UserError, match=rf"^weights must be finite: element \[1, 6\] is {bad}$"):
        nm_mask(weights, 2, 4)
    with pytest.raises(UserError, match=r"^bias of layer 2 must be finite"):
        check_finite(weights, "bias of layer 2")


def test_bad_axis_is_refused():
    with pytest.raises(UserError, match=r"^axis must name one of the 1 dimensions of the weights, not 1$"):
        nm_mask(np.ones(8), 1, 2, axis=1)

"""Top-k against sorting, and torch against numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hwgen.arch import UserError
from models.attention.topk import largest, order_key, top_k
from tests.models.attention import support

FEW = st.lists(st.integers(0, 5), max_size=40)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(scores=FEW, data=st.data())
def test_equals_sorting_with_ties(scores, data):
    k = data.draw(st.integers(0, len(scores)))
    assert top_k(np.array(scores, dtype=np.uint32), k).tolist() == support.largest(scores, k)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(scores=FEW.filter(len), data=st.data())
def test_torch_equals_numpy(scores, data):
    candidates = data.draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores)))
    k = data.draw(st.integers(0, sum(candidates)))
    for tensor in (torch.tensor(scores), torch.tensor(scores, dtype=torch.float32) / 7):
        mask = largest(tensor[None], torch.tensor([k]), torch.tensor([candidates]))[0]
        places = np.flatnonzero(candidates)
        chosen = places[top_k(np.array(scores, dtype=np.uint32)[places], k)]
        assert mask.nonzero()[:, 0].tolist() == chosen.tolist()


@pytest.mark.parametrize("scores", [range(100), range(100, 0, -1), [7] * 100, [2**32 - 1] * 50 + [0] * 50], ids=str)
@pytest.mark.parametrize("k", [0, 1, 37, 100])
def test_corner_vectors(scores, k):
    assert top_k(np.array(scores, dtype=np.uint32), k).tolist() == support.largest(list(scores), k)


def test_rows_have_their_own_k():
    scores = torch.tensor([[3, 1, 2], [3, 1, 2], [3, 1, 2]])
    mask = largest(scores, torch.tensor([0, 1, 3]), torch.ones(3, 3, dtype=torch.bool))
    assert mask.int().tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 1]]


def test_keys_of_floats_sort_as_the_floats():
    values = np.array([-np.inf, -2, -1e-45, -0.0, 0.0, 1e-45, 1, 1.0000001, np.inf, np.nan], dtype=np.float32)
    keys = order_key(values).astype(np.int64)
    assert keys.tolist() == sorted(keys.tolist())
    assert (np.diff(keys) > 0).tolist() == [True, True, True, False, True, True, True, True, True]


def test_too_large_k_is_refused():
    with pytest.raises(UserError, match=r"^k must be between 0 and the 3 candidates, not 4$"):
        top_k(np.arange(3), 4)
    with pytest.raises(UserError, match=r"^row 1 has 1 candidates, too few for its k$"):
        largest(torch.ones(2, 2), torch.tensor([2, 2]), torch.tensor([[True, True], [True, False]]))

"""Top-k of tensors against the golden top-k, and against sorting."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hwgen.arch import UserError
from models.attention.topk import largest
from models.topk import fp32_scores, top_k
from tests.models.attention import support

FEW = st.lists(st.integers(0, 5), min_size=1, max_size=40)


def kept(scores, k, candidates=None):
    candidates = torch.ones(scores.shape, dtype=torch.bool) if candidates is None else candidates
    return largest(scores[None], torch.tensor([k]), candidates[None])[0].nonzero()[:, 0].tolist()


@settings(derandomize=True, deadline=None, max_examples=150)
@given(scores=FEW, data=st.data())
def test_equals_the_golden_top_k(scores, data):
    among = data.draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores)).filter(any))
    k = data.draw(st.integers(0, sum(among)))
    places = np.flatnonzero(among)
    expected = places[top_k(np.array(scores, dtype=np.uint32)[places], k)].tolist()
    for tensor in (torch.tensor(scores), torch.tensor(scores, dtype=torch.float32) / 7):
        assert kept(tensor, k, torch.tensor(among)) == expected


@pytest.mark.parametrize("scores", [range(100), range(100, 0, -1), [7] * 100, [2**32 - 1] * 50 + [0] * 50], ids=str)
@pytest.mark.parametrize("k", [0, 1, 37, 100])
def test_corner_vectors(scores, k):
    assert kept(torch.tensor(list(scores)), k) == support.largest(list(scores), k)


@pytest.mark.parametrize("k", [1, 500, 3999])
def test_floats_rank_as_their_scores_do(k):
    seed = 9
    print(f"seed {seed}")
    values = np.random.default_rng(seed).integers(-40, 40, 4000).astype(np.float32) / 8
    values[::7] = -0.0
    assert kept(torch.from_numpy(values), k) == top_k(fp32_scores(values), k).tolist()


def test_rows_have_their_own_k():
    scores = torch.tensor([[3, 1, 2], [3, 1, 2], [3, 1, 2]])
    mask = largest(scores, torch.tensor([0, 1, 3]), torch.ones(3, 3, dtype=torch.bool))
    assert mask.int().tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 1]]


def test_too_large_k_is_refused():
    with pytest.raises(UserError, match=r"^row 1 has 1 candidates, too few to keep 2$"):
        largest(torch.ones(2, 2), torch.tensor([2, 2]), torch.tensor([[True, True], [True, False]]))

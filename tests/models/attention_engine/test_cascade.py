"""Survivors against sorting."""

import random

import numpy as np
import pytest

from hwgen.arch import UserError
from models.attention_engine.cascade import compact, survivors


def test_survivors(seed):
    source = random.Random(seed)
    for _ in range(300):
        scores = [source.choice([0, 1, 5, 2**32 - 2, source.randrange(1000)]) for _ in range(source.randrange(1, 40))]
        keep = source.randrange(1, len(scores) + 1)
        order = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
        assert survivors(np.array(scores), keep).tolist() == sorted(order[:keep])


def test_protected_tokens_stay():
    scores = np.array([9, 0, 2**32 - 2, 1])
    assert survivors(scores, 2, np.array([0, 1, 0, 0], bool)).tolist() == [1, 2]


@pytest.mark.parametrize("keep", [0, 5])
def test_too_few_or_many_are_refused(keep):
    with pytest.raises(UserError, match="at least 1 and at most 4 of 4 can be kept"):
        survivors(np.zeros(4), keep)


def test_compact_moves_scores_to_their_tokens():
    assert compact(np.array([4, 3, 2, 1]), np.array([1, 3])).tolist() == [3, 1, 0, 0]

"""Survivors and cache slots against sorting and a list that really deletes."""

import random

import numpy as np
import pytest

from hwgen.arch import UserError
from models.attention_engine.cascade import Slots, compact, survivors


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


def test_slots_hold_what_a_list_would(seed):
    """A decoder that drops its least important token after each step: the same tokens, always one range of slots."""
    source = random.Random(seed)
    keep, recent, slots, alive = 12, 3, Slots(13), {}
    for token in range(200):
        slot = slots.insert(token)
        alive[token] = 0
        assert slots.tokens[slot] == token
        assert set(slots.tokens[: slots.used]) == set(alive)
        for place in range(slots.used):
            addend = source.randrange(100)
            slots.scores[place] += addend
            alive[slots.tokens[place]] += addend
        gone = slots.evict(keep, recent)
        if len(alive) > keep:
            lowest = min(score for token, score in alive.items() if token not in sorted(alive)[-recent:])
            assert alive.pop(gone) == lowest
            assert token - gone >= recent
        else:
            assert gone is None


def test_slot_errors():
    slots = Slots(2)
    slots.insert(0)
    slots.insert(1)
    with pytest.raises(UserError, match="a cache of 2 slots is full"):
        slots.insert(2)
    with pytest.raises(UserError, match="2 slots are in use, at most 1"):
        slots.evict(0, 0)

"""What a cache that loses tokens does to outputs: queries that look at the newest tokens only, and what is listed."""

import json

import numpy as np
import pytest

from sim.attention.beyond import FORGETS, RECENTS, SIZES, WINDOWS, selection
from sim.attention.cache import decode
from sim.attention.traces import RESULTS

TOKENS, NEAR, ROOM = 40, 4, 8


def near() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two heads, in which every query gives nearly all of its probability to itself and the three tokens before."""
    key = np.repeat(np.eye(TOKENS)[None], 2, 0)
    query = 20 * np.sqrt(TOKENS) * sum(np.eye(TOKENS, k=-back) for back in range(NEAR))
    value = np.random.default_rng(0).normal(size=(2, TOKENS, 16))
    return np.repeat(query[None], 2, 0), key, value


@pytest.mark.parametrize(("forget", "recent"), [(256, NEAR), (128, 1), (128, NEAR)])
def test_a_window_or_forgetting_keeps_what_the_next_token_looks_at(forget, recent):
    cached = decode(*near(), room=ROOM, forget=forget, recent=recent)
    assert cached.error < 1e-4
    assert cached.seen > 0.9999


def test_without_them_the_first_tokens_stay():
    """Each token gathers as much importance as any other, and the one that came last has had the least time for it."""
    cached = decode(*near(), room=ROOM, forget=256, recent=1)
    assert cached.error > 0.5
    assert cached.age > TOKENS - ROOM


def test_a_window_costs_the_beats_of_its_bits():
    none, *windows = (selection(window) for window in WINDOWS)
    for found in windows:
        assert found["bytes"] - none["bytes"] == 2 * SIZES.beat_bytes
        assert 0 < found["cycles"] - none["cycles"] < 100


def test_the_results_list_every_case():
    found = json.loads((RESULTS / "attention_cache.json").read_text())
    assert [(row["forget"], row["recent"]) for row in found] == [
        (forget, recent) for forget in FORGETS for recent in RECENTS
    ]
    assert all(0 < row["error"] < 1 and 0 < row["seen"] < 1 for row in found)

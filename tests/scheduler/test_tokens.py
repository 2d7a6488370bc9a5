"""Masks made from dependencies, replayed under random engine speeds by a simulator that knows only the masks."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwgen.arch.isa import Engine
from scheduler.tokens import place_tokens

LIMITS = (1, 2, 3, 15)


def replay(engines, masks, limit, rng, *, queue_depth=None):
    """Run with engines starting and completing in random order; returns who had completed before each instruction.

    Fails if nothing can move before the end (deadlock) or if a counter exceeds the limit.
    """
    tokens = dict.fromkeys([(a, b) for a in Engine for b in Engine], 0)
    order = {engine: [i for i, owner in enumerate(engines) if owner == engine] for engine in Engine}
    started, complete, before = set(), set(), {}
    while len(complete) < len(engines):
        moves = []
        for engine in Engine:
            waiting = [i for i in order[engine] if i not in complete]
            if waiting and waiting[0] in started:
                moves.append(("complete", engine, waiting[0]))
            elif waiting and _dispatched(waiting[0], engines, started, queue_depth):
                wait = masks[waiting[0]][0]
                if all(tokens[giver, engine] for giver in Engine if wait >> giver & 1):
                    moves.append(("start", engine, waiting[0]))
        assert moves, f"deadlock: {len(complete)} of {len(engines)} instructions completed"
        event, engine, number = rng.choice(moves)
        if event == "start":
            started.add(number)
            before[number] = frozenset(complete)
            for giver in Engine:
                tokens[giver, engine] -= masks[number][0] >> giver & 1
        else:
            complete.add(number)
            for taker in Engine:
                tokens[engine, taker] += masks[number][1] >> taker & 1
                assert tokens[engine, taker] <= limit, f"token overflow after instruction {number}"
    return before


def _dispatched(number, engines, started, queue_depth):
    """Whether in-order dispatch has reached an instruction: no earlier one finds its queue full."""
    if queue_depth is None:
        return True
    for engine in Engine:
        queued = [i for i in range(number) if engines[i] == engine and i not in started]
        if len(queued) > queue_depth:
            return False
    return True


@st.composite
def programs(draw):
    """Engines of up to 60 instructions and random dependencies on earlier ones of other engines."""
    count = draw(st.integers(1, 60))
    engines = draw(st.lists(st.sampled_from(list(Engine)), min_size=count, max_size=count))
    needs = []
    for number in range(count):
        chosen = draw(st.lists(st.integers(0, number - 1), max_size=3)) if number else []
        need = {}
        for earlier in chosen:
            if engines[earlier] != engines[number]:
                need[engines[earlier]] = max(need.get(engines[earlier], -1), earlier)
        needs.append(need)
    return engines, needs


@given(
    program=programs(), limit=st.sampled_from(LIMITS), seed=st.integers(0, 1 << 30), depth=st.sampled_from([None, 2])
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_every_dependency_holds_without_deadlock_or_overflow(program, limit, seed, depth):
    engines, needs = program
    masks = place_tokens(engines, needs, limit)
    before = replay(engines, masks, limit, random.Random(seed), queue_depth=depth)
    for number, need in enumerate(needs):
        assert set(need.values()) <= before[number], f"instruction {number} started before {need} had completed"


def test_a_long_run_ahead_is_throttled():
    """Forty loads that forty products need one by one: with three tokens the loads wait for the products."""
    engines, needs = [], []
    for number in range(40):
        engines += [Engine.LOAD, Engine.TENSOR]
        needs += [{}, {Engine.LOAD: 2 * number}]
    masks = place_tokens(engines, needs, 3)
    for seed in range(20):
        replay(engines, masks, 3, random.Random(seed))
    assert all(masks[i][0] == 1 << Engine.TENSOR for i in range(6, 80, 2))


def test_tokens_of_a_burst_are_merged():
    """Ten loads before the first of ten products: no throttle can help, so the first products wait for later loads."""
    engines = [Engine.LOAD] * 10 + [Engine.TENSOR] * 10
    needs = [{}] * 10 + [{Engine.LOAD: number} for number in range(10)]
    masks = place_tokens(engines, needs, 2)
    assert sum(bool(signal) for _, signal in masks) == 2
    before = replay(engines, masks, 2, random.Random(0))
    assert all(number in before[10 + number] for number in range(10))


def test_what_is_known_through_others_needs_no_token():
    """STORE waits for VECTOR, which waited for TENSOR: a token from TENSOR to STORE would be superfluous."""
    engines = [Engine.TENSOR, Engine.VECTOR, Engine.STORE]
    masks = place_tokens(engines, [{}, {Engine.TENSOR: 0}, {Engine.TENSOR: 0, Engine.VECTOR: 1}], 3)
    assert masks == [(0, 1 << Engine.VECTOR), (1 << Engine.TENSOR, 1 << Engine.STORE), (1 << Engine.VECTOR, 0)]


@pytest.mark.parametrize("drop", range(3))
def test_the_replay_notices_a_missing_wait(drop):
    """The check itself can fail: without one of its waits a chain of three is found out of order."""
    engines = [Engine.LOAD, Engine.TENSOR, Engine.VECTOR, Engine.STORE]
    needs = [{}, {Engine.LOAD: 0}, {Engine.TENSOR: 1}, {Engine.VECTOR: 2}]
    masks = place_tokens(engines, needs, 3)
    masks[drop + 1] = (0, masks[drop + 1][1])
    starts = [replay(engines, masks, 3, random.Random(seed)) for seed in range(50)]
    assert not all(drop in before[drop + 1] for before in starts)

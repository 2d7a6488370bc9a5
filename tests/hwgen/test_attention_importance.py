"""Probabilities and importance of tokens on RTL: golden probabilities, then plain saturating sums."""

from functools import cache

import numpy as np
import pytest

from hwgen.arch.attention import EXP_BITS, SCORE_MAX, AttentionSizes
from hwgen.attention.importance import Importance, ProbabilityLane
from models.attention_engine.softmax import probability, reciprocal
from tests.hwgen.cycle_support import CycleBlock

pytestmark = pytest.mark.verilator

SIZES = AttentionSizes(softmax_lanes=4, max_length=32)
WORDS = 8


@cache
def lane() -> CycleBlock:
    return CycleBlock(ProbabilityLane(), "probability_lane")


@cache
def unit() -> CycleBlock:
    return CycleBlock(Importance(SIZES), "importance_words")


def packed(values: list[int], bits: int) -> int:
    return sum(value << bits * place for place, value in enumerate(values))


def test_probabilities(seed):
    rng = np.random.default_rng(seed)
    totals = [0, 65535, 65536, 2**32 - 1, *(int(total) for total in 2 ** rng.uniform(16, 32, 1500))]
    cycles, wanted, floors = [], [], []
    for total in totals:
        r, n = reciprocal(total)
        for e in (0, 1, 65535, int(rng.integers(65536))):
            e = min(e, total)
            cycles.append({"e": e, "r": r})
            floors.append(n)
            wanted.append(int(probability(np.array([e]), r, n)[0]))
    blank = [{}] * ProbabilityLane.LATENCY
    cycles = [dict(cycle) for cycle in cycles + blank]
    for at, n in enumerate(floors):
        cycles[at + ProbabilityLane.N_AFTER]["n"] = n
    out = lane().run(cycles)
    assert [row["o"] for row in out[ProbabilityLane.LATENCY :]] == wanted


def read_all() -> list[int]:
    """Importance of all keys."""
    out = unit().run([{"read_address": place} for place in range(WORDS)] + [{}])[1:]
    return [row["read_data"] >> 32 * lane & 0xFFFFFFFF for row in out for lane in range(4)]


def write_all(values: list[int]) -> None:
    rows = [packed(values[place : place + 4], 32) for place in range(0, len(values), 4)]
    unit().run([{"write_address": at, "write_data": row, "write_enable": 1} for at, row in enumerate(rows)])


@pytest.mark.parametrize("length", [1, 4, 5, 9, 13, 32])
@pytest.mark.parametrize("gaps", [0, 0.4])
def test_rows_add_up(length, gaps, seed):
    """Rows of one word to eight back to back: no sum is lost, whatever the distance of words of one address."""
    rng = np.random.default_rng(seed + length)
    sums = [int(value) for value in rng.choice([0, 5, SCORE_MAX - 100_000, SCORE_MAX], 4 * WORDS)]
    write_all(sums)
    cycles = []
    for _ in range(120):
        e = rng.integers(0, 65536, length)
        total = max(65535, int(e.sum()))
        r, n = reciprocal(total)
        for place, p in enumerate(probability(e, r, n).tolist()):
            sums[place] = min(sums[place] + p, SCORE_MAX)
        for word in range(-(-length // 4)):
            while rng.random() < gaps:
                cycles.append({"address": int(rng.integers(WORDS)), "i": int(rng.integers(1 << 62))})
            values = packed(e[4 * word : 4 * word + 4].tolist(), EXP_BITS)
            cycles.append({"i": values, "i_valid": 1, "address": word, "r": r, "n": n})
    unit().run(cycles + [{}] * Importance.LATENCY)
    assert read_all() == sums


@pytest.mark.parametrize("forget", [0, 1, 200, 255, 256])
def test_importance_fades(forget, seed):
    rng = np.random.default_rng(seed)
    values = [int(value) for value in rng.integers(0, SCORE_MAX, 4 * WORDS)]
    write_all(values)
    lanes = [int(value) for value in rng.integers(0, 16, WORDS)]
    sweep = [{"i_valid": 1, "address": place, "decay": lanes[place], "forget": forget} for place in range(WORDS)]
    add = {"i": packed([65535] * 4, EXP_BITS), "i_valid": 1, "address": 7, "r": 1 << 20, "n": 16}
    wait = [{}] * (Importance.DECAY_DISTANCE - 1)
    unit().run([add, *wait, *sweep[::-1], *wait, add] + [{}] * Importance.LATENCY)
    p = int(probability(np.array([65535]), 1 << 20, 16)[0])
    twice = [min(value + p * (place >= 28), SCORE_MAX) for place, value in enumerate(values)]
    fading = [lanes[place // 4] >> place % 4 & 1 for place in range(len(values))]
    twice = [value * forget // 256 if fades else value for value, fades in zip(twice, fading)]
    assert read_all() == [min(value + p * (place >= 28), SCORE_MAX) for place, value in enumerate(twice)]


def test_latency():
    """A sum is in the memory `LATENCY` cycles after its word, not earlier."""
    word = {"i": packed([65535, 0, 0, 0], EXP_BITS), "i_valid": 1, "r": 1 << 20, "n": 16}
    for cycles, seen in ((Importance.LATENCY - 1, False), (Importance.LATENCY, True)):
        write_all([0] * 4 * WORDS)
        out = unit().run([word] + [{}] * (cycles - 1) + [{"read_address": 0}, {}])
        assert (out[-1]["read_data"] > 0) == seen
        unit().run([{}] * 10)

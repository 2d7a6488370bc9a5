"""Exponential, reciprocal and softmax rows on RTL against the golden model, latency and rate included."""

from functools import cache

import numpy as np
import pytest

from hwgen.arch.attention import EXP_BITS, SCORE_BITS, AttentionSizes
from hwgen.attention.exponential import ExponentialLane
from hwgen.attention.reciprocal import Reciprocal
from hwgen.attention.softmax import Softmax
from hwgen.attention.words import LaneScores, RowSum, SoftmaxCommand
from models.attention_engine.softmax import exponential, power, reciprocal, row_exponentials
from tests.hwgen.cycle_support import CycleBlock

pytestmark = pytest.mark.verilator

LOWEST, HIGHEST = -(2**37), 2**37
LANES = [4, 16]


@cache
def lane() -> CycleBlock:
    return CycleBlock(ExponentialLane(), "exponential_lane")


@cache
def divider() -> CycleBlock:
    return CycleBlock(Reciprocal(), "divider")


@cache
def rows_of(lanes: int) -> CycleBlock:
    return CycleBlock(Softmax(AttentionSizes(softmax_lanes=lanes)), f"softmax_{lanes}")


def signed_bits(value: int) -> int:
    return value % (1 << SCORE_BITS)


def run_lane(mantissa: int, exponent: int, scores: np.ndarray, maximum: int) -> list[int]:
    dropped, shift = max(0, exponent - 34), min(exponent - 16, 18)
    scale = {"maximum": signed_bits(maximum), "dropped": dropped, "mantissa": mantissa, "shift": shift}
    cycles = [{"score": signed_bits(score), "seen": 1} | scale for score in scores.tolist()]
    out = lane().run(cycles + [scale] * ExponentialLane.LATENCY)
    return [row["o"] for row in out[ExponentialLane.LATENCY :]]


@pytest.mark.parametrize("exponent", range(16, 64))
def test_lane_with_every_exponent(exponent, seed):
    rng = np.random.default_rng(seed + exponent)
    for mantissa in (1 << 15, (1 << 16) - 1, int(rng.integers(1 << 15, 1 << 16))):
        top = min(HIGHEST - LOWEST, (34 << exponent) // mantissa + 2)
        difference = np.concatenate([rng.integers(0, top, 3000), np.arange(min(top, 500)), [HIGHEST - LOWEST]])
        maximum = int(rng.integers(LOWEST + difference[:-1].max(), HIGHEST + 1))
        scores = np.maximum(maximum - difference, LOWEST)
        wanted = exponential(power(maximum - scores, mantissa, exponent))
        assert run_lane(mantissa, exponent, scores, maximum) == wanted.tolist()


def test_lane_with_every_fraction():
    """Scale 1: all t below 2, then every 37th up to the end."""
    difference = np.concatenate([np.arange(1 << 17), np.arange(1 << 17, 1 << 21, 37)])
    # Mantissa x 2^-(16 + 15) makes one score unit one unit of t.
    assert run_lane(1 << 15, 31, -difference, 0) == exponential(difference).tolist()


def test_lane_hides_keys_that_are_not_seen():
    out = lane().run([{"seen": 0, "mantissa": 1 << 15}] * 20)
    assert not any(row["o"] for row in out)


def test_divider(seed):
    rng = np.random.default_rng(seed)
    totals = [0, 65535, 65536, 65537, 131071, 2**32 - 1, 2**31, 1, 2, 3, *rng.integers(65535, 2**32, 3000).tolist()]
    totals += [min(2**32 - 1, int(x)) for x in 2 ** rng.uniform(16, 32, 3000)]
    out = divider().run([{"total": total} for total in totals] + [{}] * Reciprocal.LATENCY)
    got = [(row["r"], row["n"]) for row in out[Reciprocal.LATENCY :]]
    assert got == [reciprocal(total) for total in totals]


def random_row(rng: np.random.Generator) -> dict:
    """Scores of a row with its command; lengths 1 to 300, everything seen, some, or nothing."""
    length = int(rng.choice([1, 2, 15, 16, 17, int(rng.integers(1, 300))]))
    spread = int(2 ** rng.uniform(0, 36))
    scores = rng.integers(-spread, spread + 1, length)
    seen = rng.random(length) < rng.choice([0, 0.5, 1, 1])
    maximum = int(scores[seen].max()) if seen.any() else 0
    exponent = int(np.clip(np.log2(spread) + rng.integers(10, 20), 16, 63))
    command = {
        "maximum": maximum + int(rng.choice([0, 0, spread])),
        "mantissa": int(rng.integers(1 << 15, 1 << 16)),
        "exponent": exponent,
        "before": int(rng.choice([0, 0, rng.integers(65535, 2**30)])),
        "limit": int(rng.choice([0, 65535 * 3, 2**32 - 1])),
    }
    return {"scores": scores, "seen": seen, "command": command}


def row_words(row: dict, lanes: int) -> list[dict[str, int]]:
    """Inputs of a row, a word a cycle; lanes behind its end are not seen and hold rubbish."""
    sizes, words = AttentionSizes(softmax_lanes=lanes), []
    command = SoftmaxCommand().const(row["command"]).as_bits()
    for start in range(0, len(row["scores"]), lanes):
        scores = row["scores"][start : start + lanes].tolist()
        seen = row["seen"][start : start + lanes]
        fill = [-12345] * (lanes - len(scores))
        word = {
            "scores": scores + fill,
            "seen": sum(int(bit) << place for place, bit in enumerate(seen)),
            "last": int(start + lanes >= len(row["scores"])),
        }
        words.append({"command": command, "i": LaneScores(sizes).const(word).as_bits(), "i_valid": 1})
    return words


def golden(row: dict) -> tuple[list[int], tuple[int, int, int, int]]:
    """Values of e of a row, and total, r, n, confident."""
    command = row["command"]
    e = row_exponentials(row["scores"], row["seen"], command["maximum"], (command["mantissa"], command["exponent"]))
    total = command["before"] + int(e.sum())
    return e.tolist(), (total, *reciprocal(total), int(total <= command["limit"]))


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("gaps", [0, 0.3])
def test_rows(lanes, gaps, seed):
    """Rows back to back or with gaps, each with a scale of its own: e, sums, and the cycles in which they come."""
    rng = np.random.default_rng(seed + lanes)
    block, cycles, entered, ends, rows = rows_of(lanes), [], [], [], [random_row(rng) for _ in range(150)]
    for row in rows:
        for word in row_words(row, lanes):
            while rng.random() < gaps:
                cycles.append({"i": int(rng.integers(1 << 60)), "command": int(rng.integers(1 << 60))})
            entered.append(len(cycles))
            cycles.append(word)
        ends.append(entered[-1])
    softmax = block.component
    out = block.run(cycles + [{}] * softmax.result_latency)

    assert [at - Softmax.LATENCY for at, show in enumerate(out) if show["o_valid"]] == entered
    assert [at - softmax.result_latency for at, show in enumerate(out) if show["result_valid"]] == ends
    words = [show["o"] for show in out if show["o_valid"]]
    results = [RowSum().from_bits(show["result"]) for show in out if show["result_valid"]]
    for row, result in zip(rows, results, strict=True):
        e, sums = golden(row)
        count = -(-len(e) // lanes)
        own, words = words[:count], words[count:]
        values = [word >> EXP_BITS * place & 0xFFFF for word in own for place in range(lanes)]
        assert values == e + [0] * (count * lanes - len(e))
        assert [word >> EXP_BITS * lanes for word in own] == [0] * (count - 1) + [1]
        assert (result.total, result.r, result.n, result.confident) == sums


def test_latencies():
    assert Softmax.LATENCY == 9
    assert rows_of(16).component.result_latency == 9 + 2 + 1 + 13

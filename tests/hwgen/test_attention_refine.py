"""Keys whose LSBs may matter, on RTL against the golden rule."""

import random
from functools import cache

import numpy as np
import pytest

from hwgen.arch.attention import SCORE_BITS, AttentionSizes
from hwgen.attention.refine import INDEX_BITS, KeySelection, RefineCommand
from hwgen.attention.serial import Single
from hwgen.attention.words import LaneScores
from models.attention_engine.row import matters
from tests.hwgen.stream_support import StreamBlock
from tests.support import at_random, every_fourth, long, never

pytestmark = pytest.mark.verilator

SIZES = {lanes: AttentionSizes(softmax_lanes=lanes) for lanes in (4, 16)}


@cache
def block(lanes: int) -> StreamBlock:
    return StreamBlock(KeySelection(SIZES[lanes]), f"key_selection_{lanes}")


class Row:
    """A row of scores and what is to come out; reaches from below 0 to beyond every score."""

    def __init__(self, source: random.Random, rng: np.random.Generator, lanes: int) -> None:
        count = source.choice([1, lanes, lanes + 1, source.randrange(1, 150)])
        spread = 2 ** source.randrange(1, 37)
        scores, seen = rng.integers(-spread, spread + 1, count), rng.random(count) < source.choice([1, 0.6])
        seen[source.randrange(count)] = True
        scores[source.randrange(count)] = source.choice([-(2**37), 0, 2**37])
        query = rng.integers(-(1 << 15) + 1, 1 << 15, 64) >> source.choice([0, 8, 15])
        total = source.choice([65535, 65536, 131072, source.randrange(65535, 1 << 32)])
        record = {"key_gap": source.randrange(2 * spread), "key_octave": source.choice([0, source.randrange(spread)])}
        job = {"key_margin": source.choice([0, 1, 16])}
        fields = {
            "maximum": int(scores[seen].max()),
            "n": total.bit_length() - 1,
            "gap": record["key_gap"],
            "octave": record["key_octave"],
            "margin": job["key_margin"],
            "magnitude": int(np.abs(query).sum()),
        }
        self.command = RefineCommand().const(fields).as_bits()
        self.words = []
        for start in range(0, count, lanes):
            part = scores[start : start + lanes].tolist()
            bits = sum(int(bit) << place for place, bit in enumerate(seen[start : start + lanes]))
            word = {"scores": part + [17] * (lanes - len(part)), "seen": bits, "last": int(start + lanes >= count)}
            self.words.append(LaneScores(SIZES[lanes]).const(word).as_bits())
        fetch = np.zeros(count, dtype=bool)
        fetch[seen] = matters(scores[seen], query, total, job, record)
        places = np.flatnonzero(fetch).tolist()
        rest = scores[seen & ~fetch]
        self.rest = int(rest.max()) if len(rest) else None
        self.wanted = [(place, int(place == places[-1]), 0) for place in places] or [(None, 1, 1)]


def run(lanes: int, rows: list[Row], stalls, sink):
    """Items that come out, the cycles in which commands and words are taken, and the rests with their cycles."""
    dut, patterns = block(lanes), [stalls(), stalls(), sink()]
    waiting = {"command": [row.command for row in rows][::-1], "i": [word for row in rows for word in row.words][::-1]}
    got, rests, taken, offering = [], [], {"command": [], "i": []}, {"command": False, "i": False}
    for cycle in range(60_000):
        inputs = {}
        for place, (name, items) in enumerate(waiting.items()):
            offering[name] = bool(items) and (offering[name] or not next(patterns[place]))
            inputs |= {name: items[-1] if offering[name] else 0, f"{name}_valid": int(offering[name])}
        ready = int(not next(patterns[2]))
        out = dut.step(o_ready=ready, **inputs)
        for name, items in waiting.items():
            if offering[name] and out[f"{name}_ready"]:
                items.pop()
                taken[name].append(cycle)
                offering[name] = False
        if out["o_valid"] and ready:
            single = Single(INDEX_BITS).from_bits(out["o"])
            got.append((None if single.none else single.item, single.last, single.none))
        if out["rest_valid"]:
            rest = out["rest"] - (out["rest"] >> SCORE_BITS - 1 << SCORE_BITS)
            rests.append((cycle, rest if out["rest_seen"] else None))
        if not any(waiting.values()) and not out["busy"] and len(rests) == len(rows):
            return got, taken, rests
    raise AssertionError("words are left")


@pytest.mark.parametrize("lanes", SIZES)
@pytest.mark.parametrize(("probability", "sink"), [(0, never), (0.3, every_fourth), (0.1, long(40))])
def test_rows(lanes, probability, sink, seed):
    source, rng = random.Random(seed + lanes), np.random.default_rng(seed + lanes)
    rows = [Row(source, rng, lanes) for _ in range(200)]
    got, _, rests = run(lanes, rows, at_random(seed, probability), sink)
    assert [rest for _, rest in rests] == [row.rest for row in rows]
    assert got == [item for row in rows for item in row.wanted]
    assert {row.wanted[0][2] for row in rows} == {0, 1}


def test_a_word_a_cycle(seed):
    """Words enter `COMMAND_LATENCY` cycles behind the command without a gap if few keys matter, the rest later."""
    source, rng = random.Random(seed), np.random.default_rng(seed)
    row = Row(source, rng, 16)
    while len(row.words) < 6 or len(row.wanted) > 16:
        row = Row(source, rng, 16)
    _, taken, rests = run(16, [row], never, never)
    first = taken["command"][0] + KeySelection.COMMAND_LATENCY
    assert taken["i"] == list(range(first, first + len(row.words)))
    assert rests[0][0] == taken["i"][-1] + block(16).component.rest_latency


def test_scores_are_as_wide_as_the_contract_says():
    assert LaneScores(SIZES[4]).size == 4 * (SCORE_BITS + 1) + 1

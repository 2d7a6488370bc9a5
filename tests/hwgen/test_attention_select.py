"""Value selection on RTL against the golden model: kept keys one by one and as words, with stalls and mixed calls."""

import random
from functools import cache

import numpy as np
import pytest

from hwgen.arch.attention import EXP_BITS, KEEP_FRACTION, AttentionSizes, keep_count, keep_share
from hwgen.attention.select import KeptRow, SelectCommand, ValueSelection
from hwgen.pruning.cycles import CycleLaw
from hwgen.pruning.words import TopKSizes
from models.attention_engine.row import kept_values
from tests.hwgen.stream_support import StreamBlock
from tests.support import at_random, long, never

pytestmark = pytest.mark.verilator

LENGTH = 128
SIZES = {lanes: AttentionSizes(softmax_lanes=lanes, max_length=LENGTH) for lanes in (4, 16)}


@cache
def block(lanes: int) -> StreamBlock:
    return StreamBlock(ValueSelection(SIZES[lanes]), f"value_selection_{lanes}")


class Row:
    """Values of e of a row with hidden keys, ties and zeros, and what is to come out."""

    def __init__(self, source: random.Random, rng: np.random.Generator, lanes: int, words: int | None = None) -> None:
        count = source.choice([1, 2, lanes, lanes + 1, LENGTH, source.randrange(1, LENGTH)])
        e = rng.integers(0, source.choice([2, 4, 100, 65536]), count)
        seen = rng.random(count) < source.choice([1, 1, 0.5])
        seen[source.randrange(count)] = True
        e = np.where(seen, e, 0)
        e[source.choice(np.flatnonzero(seen).tolist())] = 65535
        share = source.choice(
            [1 << KEEP_FRACTION, 1, keep_share(0.5), keep_count(1, count), source.randrange(1, 1 << 24)]
        )
        self.words = source.randrange(2) if words is None else words
        command = {"keys": count, "seen": int(seen.sum()), "share": share, "words": self.words}
        self.command = SelectCommand().const(command).as_bits()
        filled = e.tolist() + [source.randrange(65536) for _ in range(-count % lanes)]
        self.inputs = [
            sum(value << EXP_BITS * place for place, value in enumerate(filled[start : start + lanes]))
            for start in range(0, len(filled), lanes)
        ]
        kept = kept_values(e, seen, share) & (e > 0)
        places = np.flatnonzero(kept).tolist()
        self.kept = [(place, int(e[place]), int(place == places[-1])) for place in places]
        masked = (e * kept).tolist() + [0] * (-count % lanes)
        self.masked = [
            (tuple(masked[start : start + lanes]), int(start + lanes == len(masked)))
            for start in range(0, len(masked), lanes)
        ]
        self.e, self.k = e, -(-int(seen.sum()) * share >> KEEP_FRACTION)


def run(lanes: int, rows: list[Row], stalls, sink):
    """What comes out of both streams, and the cycles in which commands are taken and results leave."""
    dut, patterns = block(lanes), [pattern() for pattern in (stalls, stalls, sink, sink)]
    commands = [row.command for row in rows][::-1]
    inputs = [word for row in rows for word in row.inputs][::-1]
    kept, words, taken, left, offering = [], [], [], [], [False, False]
    for cycle in range(60_000):
        for place, waiting in enumerate((commands, inputs)):
            offering[place] = bool(waiting) and (offering[place] or not next(patterns[place]))
        ready = {"kept_ready": int(not next(patterns[2])), "words_ready": int(not next(patterns[3]))}
        values = {"command": commands[-1] if offering[0] else 0, "i": inputs[-1] if offering[1] else 0}
        out = dut.step(command_valid=int(offering[0]), i_valid=int(offering[1]), **values, **ready)
        for place, (name, waiting) in enumerate((("command", commands), ("i", inputs))):
            if offering[place] and out[f"{name}_ready"]:
                waiting.pop()
                offering[place] = False
                taken += [cycle] if name == "command" else []
        if out["kept_valid"] and ready["kept_ready"]:
            item = KeptRow().from_bits(out["kept"])
            kept.append((item.index, item.e, item.last))
            left.append(cycle)
        if out["words_valid"] and ready["words_ready"]:
            bits = out["words"]
            words.append((tuple(bits >> EXP_BITS * lane & 0xFFFF for lane in range(lanes)), bits >> EXP_BITS * lanes))
            left.append(cycle)
        if not commands and not inputs and not out["busy"]:
            return kept, words, taken, left
    raise AssertionError(f"{len(commands)} commands and {len(inputs)} words are left")


@pytest.mark.parametrize("lanes", SIZES)
@pytest.mark.parametrize(("probability", "sink"), [(0, never), (0.3, at_random(5, 0.4)), (0.1, long(40))])
def test_rows(lanes, probability, sink, seed):
    source, rng = random.Random(seed + lanes), np.random.default_rng(seed + lanes)
    rows = [Row(source, rng, lanes) for _ in range(150)]
    kept, words, _, _ = run(lanes, rows, at_random(seed, probability), sink)
    assert kept == [item for row in rows if not row.words for item in row.kept]
    assert words == [word for row in rows if row.words for word in row.masked]


def test_rows_of_words_take_what_the_top_k_engine_takes(seed):
    """The last word leaves as many cycles after the command as `CycleLaw` says without the eliminator, and two more."""
    source, rng = random.Random(seed), np.random.default_rng(seed)
    law = CycleLaw(TopKSizes(width=16, bits=EXP_BITS, max_length=LENGTH))
    for _ in range(40):
        row = Row(source, rng, 16, words=1)
        _, _, taken, left = run(16, [row], never, never)
        found = law.words(len(row.e)) + law.select(row.e.tolist(), row.k) + 1
        wait = ValueSelection.COMMAND_LATENCY + found + 3 + law.words(len(row.e)) - 1
        assert left[-1] - taken[0] == wait


def test_a_kept_key_a_cycle(seed):
    """Once the first kept key is out, those of its beats follow without a gap where the beats suffice."""
    source, rng = random.Random(seed), np.random.default_rng(seed)
    row = Row(source, rng, 16, words=0)
    while len(row.kept) < 100:
        row = Row(source, rng, 16, words=0)
    _, _, _, left = run(16, [row], never, never)
    assert left == list(range(left[0], left[0] + len(row.kept)))

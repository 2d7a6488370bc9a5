"""Value selection on RTL against the golden model: kept keys one by one or whole words, with stalls and mixed calls."""

import random
from functools import cache

import numpy as np
import pytest

from hwgen.arch.attention import EXP_BITS, KEEP_FRACTION, AttentionSizes, keep_count, keep_share
from hwgen.attention.select import KeptRow, SelectCommand, ValueSelection
from hwgen.attention.words import LaneExponentials
from hwgen.pruning.cycles import CycleLaw
from hwgen.pruning.words import TopKSizes
from models.attention_engine.row import kept_values
from tests.hwgen.stream_support import StreamBlock
from tests.support import at_random, long, never

pytestmark = pytest.mark.verilator

LENGTH = 128
WIDTHS = ((4, 4), (4, 1), (16, 16), (16, 8))
"""Lanes of a word, and how many of them the selection takes in a cycle."""


@cache
def block(lanes: int, width: int) -> StreamBlock:
    sizes = AttentionSizes(softmax_lanes=lanes, select_lanes=width, max_length=LENGTH)
    return StreamBlock(ValueSelection(sizes), f"value_selection_{lanes}_{width}")


class Row:
    """Values of e of a row with hidden keys, ties and zeros, and what is to come out."""

    def __init__(self, source: random.Random, rng: np.random.Generator, lanes: int, marks: int = 0) -> None:
        count = source.choice([1, 2, lanes, lanes + 1, LENGTH, source.randrange(1, LENGTH)])
        e = rng.integers(0, source.choice([2, 4, 100, 65536]), count)
        seen = rng.random(count) < source.choice([1, 1, 0.5])
        seen[source.randrange(count)] = True
        e = np.where(seen, e, 0)
        e[source.choice(np.flatnonzero(seen).tolist())] = 65535
        share = source.choice(
            [1 << KEEP_FRACTION, 1, keep_share(0.5), keep_count(1, count), source.randrange(1, 1 << 24)]
        )
        command = {"keys": count, "seen": int(seen.sum()), "share": share, "marks": marks}
        self.command = SelectCommand().const(command).as_bits()
        filled = e.tolist() + [source.randrange(65536) for _ in range(-count % lanes)]
        self.inputs = [
            sum(value << EXP_BITS * place for place, value in enumerate(filled[start : start + lanes]))
            for start in range(0, len(filled), lanes)
        ]
        kept = kept_values(e, seen, share) & (e > 0)
        places = np.flatnonzero(kept).tolist()
        self.kept = [] if marks else [(place, int(e[place]), int(place == places[-1])) for place in places]
        words = np.append(e * kept, np.zeros(-count % lanes, np.int64)).reshape(-1, lanes).tolist()
        self.marked = [(word, int(number == len(words) - 1)) for number, word in enumerate(words)] if marks else []
        self.e, self.k = e, -(-int(seen.sum()) * share >> KEEP_FRACTION)


def run(lanes: int, width: int, rows: list[Row], stalls, sink):
    """Kept keys and words, and the cycles in which commands are taken and kept keys leave."""
    dut, patterns = block(lanes, width), [pattern() for pattern in (stalls, stalls, sink, sink)]
    layout = LaneExponentials(AttentionSizes(softmax_lanes=lanes))
    commands = [row.command for row in rows][::-1]
    inputs = [word for row in rows for word in row.inputs][::-1]
    kept, marked, taken, left, offering = [], [], [], [], [False, False]
    for cycle in range(60_000):
        for place, waiting in enumerate((commands, inputs)):
            offering[place] = bool(waiting) and (offering[place] or not next(patterns[place]))
        ready = {f"{name}_ready": int(not next(patterns[place])) for place, name in ((2, "kept"), (3, "marked"))}
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
        if out["marked_valid"] and ready["marked_ready"]:
            word = layout.from_bits(out["marked"])
            marked.append(([word.e[lane] for lane in range(lanes)], word.last))
        if not commands and not inputs and not out["busy"]:
            return kept, marked, taken, left
    raise AssertionError(f"{len(commands)} commands and {len(inputs)} words are left")


@pytest.mark.parametrize(("lanes", "width"), WIDTHS)
@pytest.mark.parametrize(("probability", "sink"), [(0, never), (0.3, at_random(5, 0.4)), (0.1, long(40))])
def test_rows(lanes, width, probability, sink, seed):
    source, rng = random.Random(seed + lanes), np.random.default_rng(seed + lanes)
    rows = [Row(source, rng, lanes, source.randrange(2)) for _ in range(80)]
    kept, marked, _, _ = run(lanes, width, rows, at_random(seed, probability), sink)
    assert kept == [item for row in rows for item in row.kept]
    assert marked == [word for row in rows for word in row.marked]


@pytest.mark.parametrize(("lanes", "width"), WIDTHS)
def test_a_row_takes_what_the_top_k_engine_takes(lanes, width, seed):
    """A single kept key leaves as many cycles after the command as `CycleLaw` says, and those of the count."""
    source, rng = random.Random(seed), np.random.default_rng(seed)
    law, checked = CycleLaw(TopKSizes(width=width, bits=EXP_BITS, max_length=LENGTH)), 0
    while checked < 20:
        row = Row(source, rng, lanes)
        if row.k != 1:
            continue
        _, _, taken, left = run(lanes, width, [row], never, never)
        total = law.total(row.e.tolist(), 1, [index for index, _, _ in row.kept])
        assert left[-1] - taken[0] == ValueSelection.COMMAND_LATENCY + total - 1
        checked += 1


def test_a_kept_key_a_cycle(seed):
    """Once the first kept key is out, those of its beats follow without a gap where the beats suffice."""
    source, rng = random.Random(seed), np.random.default_rng(seed)
    row = Row(source, rng, 16)
    while len(row.kept) < 100:
        row = Row(source, rng, 16)
    _, _, _, left = run(16, 16, [row], never, never)
    assert left == list(range(left[0], left[0] + len(row.kept)))

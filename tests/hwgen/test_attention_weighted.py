"""Weighted sums of rows on RTL against the golden integers: planes, passes, factors, latency and rate."""

import itertools
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pytest

from hwgen.arch.attention import CHUNK, EXP_BITS, EXP_MAX, LOW_BITS, OUTPUT_BITS, PLANE_BITS, AttentionSizes
from hwgen.attention.weighted import WeightedSum, WeightedSums
from hwgen.attention.words import WeightedCommand
from models.attention_engine.row import Plane
from models.attention_engine.softmax import shrink
from sim.step_block import StepBlock
from tests.hwgen.attention_support import element_word, random_elements, row_words
from tests.support import at_random, every_fourth, long, never

pytestmark = pytest.mark.verilator

SIZES = {
    16: AttentionSizes(multipliers=16, output_lanes=1),
    32: AttentionSizes(multipliers=32, output_lanes=16),
    64: AttentionSizes(multipliers=64),
    256: AttentionSizes(multipliers=256, output_lanes=8),
}
HEADS = range(16, 129, 16)


@cache
def block(count: int) -> StepBlock:
    return StepBlock(WeightedSum(SIZES[count]), f"weighted_{count}")


@dataclass
class Row:
    """Inputs of all passes of a row, in order, and its sums."""

    head_size: int
    commands: list[int] = field(default_factory=list)
    words: list[int] = field(default_factory=list)
    weights: list[int] = field(default_factory=list)
    sums: np.ndarray = None


def make_row(rng: np.random.Generator, sizes: AttentionSizes, head_size: int, tiles: int, count: int = 0) -> Row:
    """A row of some tiles, each with one pass or two, and now and then a factor between tiles."""
    row, sums = Row(head_size), np.zeros(head_size, np.int64)
    for tile in range(tiles):
        keys = count or int(rng.choice([1, 2, int(rng.integers(1, 60))]))
        bits = int(rng.choice(PLANE_BITS))
        low = random_elements(rng, LOW_BITS, (keys, head_size)) if rng.random() < 0.6 else None
        plane = Plane(random_elements(rng, bits, (keys, head_size)), low)
        e = rng.choice([0, 1, EXP_MAX], keys) if rng.random() < 0.2 else rng.integers(0, EXP_MAX + 1, keys)
        factor = int(rng.choice([0, EXP_MAX, int(rng.integers(EXP_MAX))]))
        rescale = tile > 0 and rng.random() < 0.6
        exact = low is not None and rng.random() < 0.7
        sums = shrink(sums, factor) if rescale else sums
        sums = sums + e @ (plane.exact() if exact else plane.rough())
        passes = [(plane.msb, {"half": int(low is not None), "rescale": int(rescale)})]
        passes += [(plane.low, {"low": 1})] if exact else []
        for number, (own, flags) in enumerate(passes):
            first, last = tile == number == 0, tile == tiles - 1 and number == len(passes) - 1
            command = {"head_size": head_size, "first": int(first), "last": int(last), "factor": factor} | flags
            row.commands.append(WeightedCommand().const(command).as_bits())
            row.words += row_words(sizes, own)
            row.weights += weight_words(rng, sizes, head_size, e)
    row.sums = sums
    return row


def weight_words(rng: np.random.Generator, sizes: AttentionSizes, head_size: int, e: np.ndarray) -> list[int]:
    """A word for each group of rows; rubbish where a word has no row."""
    step, lanes, words = sizes.rows_per_word(head_size), sizes.multipliers // CHUNK, []
    for start in range(0, len(e), step):
        own = e[start : start + step].tolist()
        own += rng.integers(0, EXP_MAX, lanes - len(own)).tolist()
        words.append(sum(value << EXP_BITS * place for place, value in enumerate(own)))
    return words


class Run:
    """Sends rows; cycles in which inputs are taken, cycles and bits of what comes out."""

    def __init__(self, count: int, rows: list[Row], stalls, sink) -> None:
        dut = block(count)
        waiting = {
            name: list(itertools.chain.from_iterable(getattr(row, part) for row in rows))[::-1]
            for name, part in (("command", "commands"), ("i", "words"), ("weights", "weights"))
        }
        patterns = {name: stalls() for name in waiting}
        for skip, pattern in enumerate(patterns.values()):
            list(itertools.islice(pattern, 3 * skip))
        sinks, offered, held = sink(), dict.fromkeys(waiting, False), None
        self.taken, self.cycles, self.items = {name: [] for name in waiting}, [], []
        for _ in range(60_000):
            inputs, ready = {}, int(not next(sinks))
            for name, items in waiting.items():
                offered[name] = bool(items) and (offered[name] or not next(patterns[name]))
                inputs |= {name: items[-1] if offered[name] else 0, f"{name}_valid": int(offered[name])}
            out = dut.step(o_ready=ready, **inputs)
            for name, items in waiting.items():
                if offered[name] and out[f"{name}_ready"]:
                    items.pop()
                    self.taken[name].append(dut.cycle - 1)
                    offered[name] = False
            assert held is None or (out["o_valid"] and out["o"] == held), "not held"
            held = out["o"] if out["o_valid"] and not ready else None
            if out["o_valid"] and ready:
                self.cycles.append(dut.cycle - 1)
                self.items.append(out["o"])
            if not any(waiting.values()) and not any(inputs[f"{name}_valid"] for name in waiting) and not out["busy"]:
                return
        raise AssertionError({name: len(items) for name, items in waiting.items()})


def check(count: int, rows: list[Row], run: Run) -> None:
    layout, lanes, place = WeightedSums(SIZES[count]), SIZES[count].output_lanes, 0
    for number, row in enumerate(rows):
        words = [layout.from_bits(bits) for bits in run.items[place : place + row.head_size // lanes]]
        place += len(words)
        got = [word.sums[lane] for word in words for lane in range(lanes)]
        assert got == row.sums.tolist(), f"row {number} of {row.head_size}"
        assert [word.last for word in words] == [0] * (len(words) - 1) + [1]
    assert place == len(run.items)


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize(("stalls", "sink"), [(never, never), (at_random(3, 0.3), every_fourth), (never, long(70))])
def test_rows(count, stalls, sink, seed):
    """Rows of every head size and up to three tiles, one behind the other."""
    rng = np.random.default_rng(seed + count)
    heads = [*HEADS, *rng.choice(HEADS, 30).tolist()]
    rows = [make_row(rng, SIZES[count], head, int(rng.integers(1, 4))) for head in heads]
    check(count, rows, Run(count, rows, stalls, sink))


def test_sums_are_as_wide_as_the_contract_says(seed):
    """The largest sums: 65,535 values of 16 bits would need all bits; here 2,000 of them, as tiles of one row."""
    rng, sizes = np.random.default_rng(seed), SIZES[64]
    row = make_row(rng, sizes, 16, 1, count=4)
    plane, e = np.full((2000, 16), -(1 << 11)), np.full(2000, EXP_MAX)
    command = {"head_size": 16, "first": 1, "last": 1, "half": 1}
    row.commands = [WeightedCommand().const(command).as_bits()]
    row.words, row.weights = row_words(sizes, plane), weight_words(rng, sizes, 16, e)
    row.sums = e @ Plane(plane, plane * 0).rough()
    assert abs(int(row.sums[0])) < 1 << OUTPUT_BITS - 1
    check(64, [row], Run(64, [row], never, never))


def test_pass_of_no_values(seed):
    """A word without rows ends a row and adds nothing, also where operands would end in a 1."""
    rng, sizes = np.random.default_rng(seed), SIZES[64]
    row = make_row(rng, sizes, 32, 1, count=5)
    last = WeightedCommand()["last"].offset
    row.commands = [command & ~(1 << last) for command in row.commands]
    row.commands.append(WeightedCommand().const({"head_size": 32, "half": 1, "last": 1}).as_bits())
    row.words.append(element_word(sizes, np.zeros(0, np.int64), last=1))
    row.weights.append((1 << 4 * EXP_BITS) - 1)
    check(64, [row], Run(64, [row], never, never))


@pytest.mark.parametrize("count", SIZES)
def test_a_word_a_cycle(count, seed):
    """Rows that are as long as their way out follow one another without a gap; the first sums come `latency` later."""
    rng, sizes = np.random.default_rng(seed + count), SIZES[count]
    keys = {head: head // sizes.output_lanes * sizes.rows_per_word(head) for head in HEADS}
    rows = [make_row(rng, sizes, head, 1, count=keys[head]) for head in HEADS]
    run = Run(count, rows, never, never)
    check(count, rows, run)
    taken = run.taken["i"]
    assert taken == list(range(taken[0], taken[0] + len(taken)))
    ends = [taken[at - 1] for at in itertools.accumulate(len(row.words) for row in rows)]
    starts = [
        run.cycles[at]
        for at in itertools.accumulate([0, *(row.head_size // sizes.output_lanes for row in rows)])
        if at < len(run.cycles)
    ]
    latency = block(count).component.latency
    assert starts == [cycle + latency for cycle in ends]


def test_short_rows_leave_without_a_gap(seed):
    """Rows of one value: `output_lanes` sums a cycle."""
    rng = np.random.default_rng(seed)
    rows = [make_row(rng, SIZES[64], head, 1, count=1) for head in HEADS]
    run = Run(64, rows, never, never)
    check(64, rows, run)
    assert run.cycles == list(range(run.cycles[0], run.cycles[0] + sum(row.head_size for row in rows) // 4))


def test_factor_takes_the_cycles_that_it_says(seed):
    """Two rows of two tiles, with and without a factor."""
    rng, sizes, cycles = np.random.default_rng(seed), SIZES[64], []
    row = make_row(rng, sizes, 64, 2, count=20)
    layout = WeightedCommand()
    for rescale in (0, 1):
        row.commands = [
            command & ~(1 << layout["rescale"].offset)
            | (rescale and not layout.from_bits(command).first and not layout.from_bits(command).low)
            << layout["rescale"].offset
            for command in row.commands
        ]
        run = Run(64, [row], never, never)
        cycles.append(run.cycles[0] - run.taken["i"][0])
    assert cycles[1] - cycles[0] == block(64).component.rescale_cycles


def test_latencies():
    assert block(64).component.latency == 5
    assert block(64).component.rescale_cycles == 34

"""Scores, maxima and magnitudes of rows on RTL against the golden integers, latency and rate included."""

from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pytest

from hwgen.arch.attention import CHUNK, LOW_BITS, PLANE_BITS, QUERY_BITS, AttentionSizes
from hwgen.attention.products import ProductResult, Products
from hwgen.attention.scores import StoredScores
from hwgen.attention.words import ProductCommand, ScoreWord
from models.attention_engine.row import Plane
from sim.step_block import StepBlock
from tests.hwgen.attention_support import random_elements, row_words
from tests.support import at_random, every_fourth, never

pytestmark = pytest.mark.verilator

SIZES = {count: AttentionSizes(multipliers=count, max_length=128) for count in (16, 32, 64, 128)}
HEADS = range(16, 129, 16)


@cache
def block(count: int) -> StepBlock:
    return StepBlock(Products(SIZES[count]), f"products_{count}")


@dataclass
class Pass:
    """Inputs of a pass, and what the buffer and the result are to hold behind it."""

    buffer: int
    command: int
    words: list[int]
    masks: list[int]
    scores: np.ndarray
    seen: np.ndarray
    written: np.ndarray
    magnitude: int
    query: list[int] = field(default_factory=list)
    after: int | None = None
    """Pass whose result comes before this one starts."""


def row_passes(rng: np.random.Generator, sizes: AttentionSizes, head_size: int, buffer: int) -> list[Pass]:
    """The MSB pass of a row, and an LSB pass of all keys or some of them where there is a partner."""
    keys = int(rng.choice([1, 2, int(rng.integers(1, 40)), int(rng.integers(1, 100))]))
    # A buffer holds whole words, also where the range of the row ends within one.
    step = sizes.rows_per_word(head_size)
    rows = -(-keys // step) * step if rng.random() < 0.5 else keys
    query = random_elements(rng, int(rng.choice(QUERY_BITS)), (head_size,))
    low = random_elements(rng, LOW_BITS, (rows, head_size)) if rng.random() < 0.6 else None
    plane = Plane(random_elements(rng, int(rng.choice(PLANE_BITS)), (rows, head_size)), low)
    visible = rng.random(rows) < rng.choice([0, 0.5, 1, 1])
    seen, magnitude = visible[:keys], int(np.abs(query).sum())

    def make(plane_rows: np.ndarray, places: np.ndarray, scores: np.ndarray, single: bool, **flags: int) -> Pass:
        words = row_words(sizes, plane_rows, places, single=single)
        group, parts = 1 if single else step, sizes.words_per_row(head_size)
        masks = [
            sum(int(bit) << at for at, bit in enumerate(visible[places[start : start + group]]))
            for start in range(0, len(places), group)
            for _ in range(parts)
        ]
        command = {"head_size": head_size, "keys": keys, "buffer": buffer, "half": 0, "low": 0} | flags
        bits = ProductCommand(sizes).const(command).as_bits()
        written = np.isin(np.arange(keys), places)
        return Pass(buffer, bits, words, masks, scores[:keys], seen, written, magnitude)

    every = np.arange(rows)
    result = [make(plane.msb, every, plane.rough() @ query, False, half=int(low is not None))]
    result[0].query = row_words(sizes, query[None], query=True)
    if low is not None:
        single = rng.random() < 0.5
        chosen = np.flatnonzero(rng.random(keys) < 0.5) if single else every
        if len(chosen):
            scores = np.where(np.isin(every, chosen), plane.exact() @ query, plane.rough() @ query)
            result.append(make(low[chosen], chosen, scores, single, low=1))
    return result


def passes_of(rng: np.random.Generator, sizes: AttentionSizes, heads: list[int]) -> list[Pass]:
    """MSB 0, MSB 1, LSB 0, ...: a second pass comes behind the first one of the next row."""
    result, waiting = [], None
    for number, head_size in enumerate(heads):
        own = row_passes(rng, sizes, head_size, number % sizes.rows_in_flight)
        result.append(own[0])
        place = len(result) - 1
        if waiting:
            result.append(waiting)
        waiting = own[1] if len(own) > 1 else None
        if waiting:
            waiting.after = place
    return result


class Run:
    """Sends passes through the products with score buffers in Python beside them."""

    def __init__(self, count: int, passes: list[Pass], stalls) -> None:
        self.sizes, self.dut, self.passes = SIZES[count], block(count), passes
        rows = self.sizes.rows_in_flight
        self.scores, self.seen = np.zeros((rows, 256), np.int64), np.zeros((rows, 256), bool)
        self.pattern, self.word_pattern = stalls(), stalls()
        next(self.pattern)
        self.old, self.taken, self.out, self.results = 0, [], [], []
        self.written, self.sent = 0, 0

    def queries(self) -> list[tuple[int, int, int]]:
        """Pass, bits and buffer of every word of a query."""
        return [(at, bits, item.buffer) for at, item in enumerate(self.passes) for bits in item.query]

    def run(self) -> "Run":
        queries, current, place, offered, started = self.queries(), 0, 0, False, False
        for _ in range(60_000):
            inputs = {"old": self.old}
            if queries and self.free(*queries[0]) and not next(self.pattern):
                at, bits, buffer = queries.pop(0)
                inputs |= {"query": bits, "query_valid": 1, "query_buffer": buffer}
            queried = queries[0][0] if queries and not inputs.get("query_valid") else len(self.passes)
            if inputs.get("query_valid"):
                queried = at
            if current < len(self.passes):
                item = self.passes[current]
                ready = current < queried and (item.after is None or len(self.results) > item.after)
                started = started or not next(self.pattern)
                offered = offered or (ready and not next(self.word_pattern))
                inputs |= {"command": item.command, "command_valid": int(started)}
                if offered:
                    inputs |= {"i": item.words[place], "mask": item.masks[place], "i_valid": 1}
            out = self.dut.step(**inputs)
            self.watch(out)
            if offered and out["i_ready"]:
                self.taken.append((self.dut.cycle - 1, current, place))
                offered, place = False, place + 1
                assert out["command_ready"] == int(place == len(item.words))
                if out["command_ready"]:
                    current, place, started = current + 1, 0, False
            if len(self.results) == len(self.passes):
                return self
        raise AssertionError(f"pass {current}, word {place}: {len(self.results)} results")

    def free(self, number: int, _: int, buffer: int) -> bool:
        """All passes that use the buffer before this one have given their results."""
        return all(item.buffer != buffer for item in self.passes[len(self.results) : number])

    def watch(self, out: dict[str, int]) -> None:
        """Read old scores, then write and check."""
        rows, cycle = self.sizes.multipliers // CHUNK, self.dut.cycle - 1
        self.old = 0
        if out["old_valid"]:
            part = slice(out["old_index"], out["old_index"] + rows)
            assert out["old_index"] % rows == 0
            scores = self.scores[out["old_buffer"], part].tolist()
            self.old = StoredScores(rows).const({"scores": scores, "seen": 0}).as_bits()
        if out["o_valid"]:
            self.out.append(cycle)
            word, buffer = ScoreWord(self.sizes).from_bits(out["o"]), out["o_buffer"]
            for lane in range(rows):
                if word.write >> lane & 1:
                    self.scores[buffer, word.index + lane] = word.scores[lane]
                    self.seen[buffer, word.index + lane] = word.seen >> lane & 1
                    self.sent += 1
            if word.last:
                self.check(self.passes[self.written])
                self.written += 1
        if out["result_valid"]:
            self.results.append((cycle, out["result"]))

    def check(self, item: Pass) -> None:
        keys = len(item.scores)
        assert self.scores[item.buffer, :keys].tolist() == item.scores.tolist(), f"pass {self.written}"
        assert self.seen[item.buffer, :keys].tolist() == item.seen.tolist(), f"pass {self.written}"
        assert self.sent == item.written.sum(), "scores behind the end of the row"
        self.sent = 0


def check_results(run: Run) -> None:
    for item, (_, bits) in zip(run.passes, run.results, strict=True):
        result, own = ProductResult(run.sizes).from_bits(bits), item.seen & item.written
        assert (result.seen, result.magnitude, result.buffer) == (int(own.any()), item.magnitude, item.buffer)
        if own.any():
            assert result.maximum == item.scores[own].max()


def check_cycles(run: Run) -> None:
    """Every score `latency` cycles behind the last word of its key, every result behind its pass."""
    products = run.dut.component
    parts = {at: run.sizes.words_per_row(head_of(item)) for at, item in enumerate(run.passes)}
    complete = [cycle for cycle, at, place in run.taken if place % parts[at] == parts[at] - 1]
    assert run.out == [cycle + products.latency for cycle in complete]
    ends = [cycle for cycle, at, place in run.taken if place == len(run.passes[at].words) - 1]
    assert [cycle for cycle, _ in run.results] == [cycle + products.result_latency for cycle in ends]


def head_of(item: Pass) -> int:
    return ProductCommand(SIZES[16]).from_bits(item.command).head_size


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("stalls", [never, every_fourth, at_random(7, 0.5)])
def test_rows(count, stalls, seed):
    """Rows of every head size, one behind the other, MSBs alone, with a partner, and LSBs of all or single keys."""
    rng = np.random.default_rng(seed + count)
    run = Run(count, passes_of(rng, SIZES[count], [*rng.choice(HEADS, 40).tolist(), *HEADS]), stalls).run()
    check_results(run)
    check_cycles(run)
    assert any(item.after is not None for item in run.passes)


@pytest.mark.parametrize("count", SIZES)
def test_a_word_a_cycle(count, seed):
    """No cycle is lost between passes whose queries are there in time."""
    rng = np.random.default_rng(seed + count)
    passes = [row_passes(rng, SIZES[count], head, at % 4)[0] for at, head in enumerate([*HEADS] * 2)]
    # The query of a pass comes during the passes before: those before must be as long.
    passes = [item for item in passes if len(item.words) > 8][:4]
    for at, item in enumerate(passes):
        fields = ProductCommand(SIZES[count]).from_bits(item.command)
        item.buffer = at
        item.command = fields.as_bits() & ~(3 << bit_of(count)) | at << bit_of(count)
    run = Run(count, passes, never).run()
    cycles = [cycle for cycle, _, _ in run.taken]
    assert cycles == list(range(cycles[0], cycles[0] + sum(len(item.words) for item in passes)))
    check_results(run)
    check_cycles(run)


def bit_of(count: int) -> int:
    return ProductCommand(SIZES[count])["buffer"].offset


def test_latencies():
    assert block(64).component.latency == 7
    assert block(64).component.result_latency == 7 + 2 + 1

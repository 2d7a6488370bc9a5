"""Fetched rows on RTL against NumPy: ranges and gathered rows of every format, beats asked once, bursts, rate."""

import itertools
from collections import deque
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from hwgen.arch.attention import CHUNK, LOW_BITS, PLANE_BITS, QUERY_BITS, AttentionSizes
from hwgen.attention.fetch import RowFetch
from hwgen.attention.spans import PAGE_BYTES
from hwgen.attention.words import FetchCommand, ReadRequest, RowIndex
from models.attention_engine.planes import beats, row_bytes, unpack_plane
from sim.step_block import StepBlock
from tests.hwgen.attention_support import row_words
from tests.support import at_random, every_fourth, long, never

pytestmark = pytest.mark.verilator

SIZES = {
    "small": AttentionSizes(multipliers=16, beat_bytes=16, reads_in_flight=16),
    "narrow": AttentionSizes(multipliers=32, beat_bytes=64, reads_in_flight=4),
    "full": AttentionSizes(multipliers=64, beat_bytes=64),
    "wide": AttentionSizes(multipliers=128, beat_bytes=32, reads_in_flight=32),
}
HEADS = range(CHUNK, 129, CHUNK)
MEMORY_BYTES = 1 << 18
LATENCY = 20


@cache
def block(name: str) -> StepBlock:
    return StepBlock(RowFetch(SIZES[name]), f"row_fetch_{name}")


@dataclass
class Fetch:
    """A command with its indices, and the words that are to come."""

    command: int
    indices: list[int]
    words: list[int]
    beats: int


def make_fetch(rng: np.random.Generator, sizes: AttentionSizes, memory: bytes, head_size: int, kind: str) -> Fetch:
    """Rows of a plane at a random place. kind : range, gather, single (low and gathered), query."""
    bits = int(rng.choice({"single": [LOW_BITS], "query": QUERY_BITS}.get(kind, PLANE_BITS)))
    size, limit = row_bytes(head_size, bits), 1 if kind == "query" else int(rng.choice([1, 2, 9, 80]))
    count = int(rng.integers(1, limit + 1))
    first = int(rng.integers(0, 300))
    address = 4 * int(rng.integers(0, (MEMORY_BYTES - (first + 4 * count) * size) // 4))
    places = np.arange(first, first + count)
    if kind in ("gather", "single"):
        places = np.sort(rng.choice(np.arange(first, first + int(rng.integers(1, 4)) * count), count, replace=False))
    rows = np.concatenate([unpack_plane(memory[address + at * size :][:size], 1, head_size, bits) for at in places])
    fields = {"address": address, "bits": bits, "head_size": head_size, "first": int(places[0]), "rows": count}
    fields |= {"gather": int(kind in ("gather", "single")), "single": int(kind == "single")}
    command = FetchCommand().const(fields | {"query": int(kind == "query")}).as_bits()
    indices = [RowIndex().const({"index": int(at), "last": int(at == places[-1])}).as_bits() for at in places]
    words = row_words(sizes, rows, places, single=kind == "single", query=kind == "query")
    total = beats(address, size, places, sizes.beat_bytes)
    return Fetch(command, indices if fields["gather"] else [], words, total)


class Run:
    """Sends commands; memory answers `LATENCY` cycles after a request, a beat a cycle, in order."""

    def __init__(self, name: str, memory: bytes, fetches: list[Fetch], stalls=never, sink=never, answers=None) -> None:
        self.sizes, self.memory, self.dut = SIZES[name], memory, block(name)
        self.waiting = {
            "command": [item.command for item in fetches][::-1],
            "indices": [bits for item in fetches for bits in item.indices][::-1],
        }
        self.words = [bits for item in fetches for bits in item.words]
        self.requests, self.answers, self.arrivals, self.cycles = [], deque(), [], []
        self.taken, self.items = {"command": [], "indices": []}, []
        patterns = [stalls() for _ in range(3)] + [(answers or stalls)()]
        for skip, pattern in enumerate(patterns):
            list(itertools.islice(pattern, 3 * skip))
        self.run(patterns, sink())

    def run(self, patterns: list, sinks) -> None:
        offered = dict.fromkeys(self.waiting, False)
        held = {"o": None, "request": None}
        for _ in range(100_000):
            readies = {"o": int(not next(sinks)), "request": int(not next(patterns[2]))}
            inputs = {f"{name}_ready": ready for name, ready in readies.items()}
            for name, pattern in zip(self.waiting, patterns):
                offered[name] = bool(self.waiting[name]) and (offered[name] or not next(pattern))
                inputs |= {name: self.waiting[name][-1] if offered[name] else 0, f"{name}_valid": int(offered[name])}
            arrives = bool(self.answers) and self.answers[0][0] <= self.dut.cycle and not next(patterns[3])
            if arrives:
                inputs |= {"data": self.beat(self.answers[0][1]), "data_valid": 1}
            out = self.dut.step(**inputs)
            cycle = self.dut.cycle - 1
            if arrives:
                assert out["data_ready"], "a beat was asked for without room"
                self.arrivals.append(cycle)
                self.answers.popleft()
            for name, ready in readies.items():
                assert held[name] is None or (out[f"{name}_valid"] and out[name] == held[name]), f"{name} was not held"
                held[name] = out[name] if out[f"{name}_valid"] and not ready else None
            self.watch(cycle, out, readies)
            for name in self.waiting:
                if offered[name] and out[f"{name}_ready"]:
                    self.waiting[name].pop()
                    self.taken[name].append(cycle)
                    offered[name] = False
            shown = any(inputs[f"{name}_valid"] for name in self.waiting)
            if not shown and not any(self.waiting.values()) and not self.answers and not out["busy"]:
                return
        raise AssertionError(f"{len(self.items)} of {len(self.words)} words came out")

    def beat(self, address: int) -> int:
        return int.from_bytes(self.memory[address : address + self.sizes.beat_bytes], "little")

    def watch(self, cycle: int, out: dict[str, int], readies: dict[str, int]) -> None:
        """Note requests and words."""
        size = self.sizes.beat_bytes
        if out["request_valid"] and readies["request"]:
            request = ReadRequest().from_bits(out["request"])
            address, count = request.address, request.beats + 1
            assert address % size == 0
            assert address // PAGE_BYTES == (address + count * size - 1) // PAGE_BYTES, "a burst crosses 4 KiB"
            self.requests.append((cycle, address, count))
            self.answers.extend((cycle + LATENCY, address + size * number) for number in range(count))
            assert len(self.answers) <= self.sizes.reads_in_flight
        if out["o_valid"] and readies["o"]:
            assert out["o"] == self.words[len(self.items)], f"word {len(self.items)}"
            self.items.append(out["o"])
            self.cycles.append(cycle)


def image(seed: int) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, MEMORY_BYTES + 4096, np.uint8).tobytes()


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize(
    ("stalls", "sink"),
    [(never, never), (at_random(5, 0.4), every_fourth), (never, long(60))],
)
def test_rows(name, stalls, sink, seed):
    """Every kind with every head size, one behind the other: words, and each beat asked for once a command."""
    rng, memory = np.random.default_rng(seed), image(seed)
    kinds = [(kind, head) for kind in ("range", "gather", "single", "query") for head in HEADS] * 2
    rng.shuffle(kinds)
    fetches = [make_fetch(rng, SIZES[name], memory, int(head), str(kind)) for kind, head in kinds]
    run = Run(name, memory, fetches, stalls, sink)
    assert len(run.items) == len(run.words)
    assert sum(count for _, _, count in run.requests) == sum(item.beats for item in fetches)


@pytest.mark.parametrize("name", ["small", "full"])
def test_indices_that_come_later_than_data(name, seed):
    """Whether the next row shares a beat is not known when a row is complete."""
    rng, memory = np.random.default_rng(seed), image(seed)
    fetches = [make_fetch(rng, SIZES[name], memory, int(head), "gather") for head in HEADS for _ in range(3)]
    run = Run(name, memory, fetches, long(60), never, answers=never)
    assert len(run.items) == len(run.words)


def plane_fetch(memory: bytes, head_size: int, bits: int, places: np.ndarray, gather: bool, address: int = 0) -> Fetch:
    """Rows of a plane, of the full size."""
    sizes, size = SIZES["full"], row_bytes(head_size, bits)
    fields = {"address": address, "bits": bits, "head_size": head_size, "rows": len(places), "gather": int(gather)}
    rows = np.concatenate([unpack_plane(memory[address + at * size :][:size], 1, head_size, bits) for at in places])
    indices = [RowIndex().const({"index": int(at), "last": int(at == places[-1])}).as_bits() for at in places]
    command, words = FetchCommand().const(fields).as_bits(), row_words(sizes, rows, places)
    return Fetch(command, indices if gather else [], words, beats(address, size, places, sizes.beat_bytes))


@pytest.mark.parametrize(("head_size", "bits"), [(64, 4), (64, 6), (64, 8), (32, 8), (16, 8), (48, 10), (128, 4)])
def test_a_word_a_cycle(head_size, bits, seed):
    """Two ranges back to back whose words have at most the bits of a beat."""
    memory, places = image(seed), np.arange(120)
    first = plane_fetch(memory, head_size, bits, places, False)
    run = Run("full", memory, [first, first])
    assert run.cycles == list(range(run.cycles[0], run.cycles[0] + len(run.words)))


@pytest.mark.parametrize(("head_size", "bits"), [(64, 10), (64, 12), (128, 12)])
@pytest.mark.parametrize("address", [0, 4])
def test_a_beat_a_cycle(head_size, bits, address, seed):
    memory, places = image(seed), np.arange(120)
    run = Run("full", memory, [plane_fetch(memory, head_size, bits, places, False, address)])
    assert run.arrivals == list(range(run.arrivals[0], run.arrivals[0] + len(run.arrivals)))
    assert run.cycles[-1] == run.arrivals[-1] + RowFetch.WORD_LATENCY


@pytest.mark.parametrize(("head_size", "bits"), [(64, 6), (16, 6), (32, 12)])
def test_a_gathered_row_a_cycle(head_size, bits, seed):
    """Rows of at most a beat, every third: as many cycles as rows, or as beats where they are more."""
    memory, places = image(seed), np.arange(0, 360, 3)
    item = plane_fetch(memory, head_size, bits, places, True)
    run = Run("full", memory, [item])
    assert run.cycles[-1] - run.arrivals[0] <= max(item.beats, len(places)) + 4 + RowFetch.WORD_LATENCY


def test_latencies(seed):
    memory = image(seed)
    run = Run("full", memory, [plane_fetch(memory, 64, 8, np.arange(1), False)])
    assert run.requests[0][0] == run.taken["command"][0] + RowFetch.REQUEST_LATENCY
    assert run.cycles[0] == run.arrivals[0] + RowFetch.WORD_LATENCY

"""Row buffers on RTL against arrays: planes written and read in the same cycles, whole, by index and row by row."""

import itertools
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from hwgen.arch.attention import CHUNK, LOW_BITS, PLANE_BITS, AttentionSizes
from hwgen.attention.buffer import BufferLoad, BufferRead, RowBuffer
from hwgen.attention.words import RowIndex
from sim.step_block import StepBlock
from tests.hwgen.attention_support import element_word, row_words
from tests.support import at_random, every_fourth, long, never

pytestmark = pytest.mark.verilator

SIZES = {
    16: AttentionSizes(multipliers=16, buffer_words=512),
    64: AttentionSizes(multipliers=64, buffer_words=128),
    128: AttentionSizes(multipliers=128, buffer_words=64),
}
HEADS = range(CHUNK, 129, CHUNK)
STREAMS = ("load", "i", "read", "indices")


@cache
def block(count: int) -> StepBlock:
    return StepBlock(RowBuffer(SIZES[count]), f"row_buffer_{count}")


@dataclass
class Head:
    """Planes of a head, and where they are in the buffer."""

    base: int
    msb: np.ndarray
    low: np.ndarray


def make_head(rng: np.random.Generator, sizes: AttentionSizes, side: int) -> Head:
    """Random planes that fit half of the buffer."""
    head_size, half = int(rng.choice(HEADS)), sizes.buffer_words // 2
    most = half // sizes.words_per_row(head_size) * sizes.rows_per_word(head_size)
    rows, bits = int(rng.integers(1, min(most, 70) + 1)), int(rng.choice(PLANE_BITS))
    msb = rng.integers(-(1 << bits - 1), 1 << bits - 1, (rows, head_size))
    return Head(side * half, msb, rng.integers(-(1 << LOW_BITS - 1), 1 << LOW_BITS - 1, (rows, head_size)))


def loads(sizes: AttentionSizes, head: Head) -> dict[str, list[int]]:
    """Inputs that load both planes."""
    commands = [BufferLoad(sizes).const({"base": head.base, "low": low}).as_bits() for low in (0, 1)]
    return {"load": commands, "i": row_words(sizes, head.msb) + row_words(sizes, head.low)}


def reads(rng: np.random.Generator, sizes: AttentionSizes, head: Head, kind: str) -> tuple[dict, list[int]]:
    """Inputs of a read and its words. kind : range (of the first rows), gather (whole words), single."""
    low, (count, head_size) = int(rng.integers(2)), head.msb.shape
    plane, step = head.low if low else head.msb, sizes.rows_per_word(head_size)
    rows = int(rng.integers(1, count + 1))
    fields = {"base": head.base, "head_size": head_size, "rows": rows, "low": low}
    fields |= {"gather": int(kind != "range"), "single": int(kind == "single")}
    groups, indices = np.arange(0, rows, step), []
    if kind != "range":
        named = np.arange(rows) if kind == "single" else groups
        named = np.sort(rng.choice(named, int(rng.integers(1, len(named) + 1)), replace=False))
        groups = named
        # Any row of the word names it.
        inside = 0 if kind == "single" else rng.integers(0, np.minimum(step, rows - named))
        places = (named + inside).tolist()
        indices = [RowIndex().const({"index": at, "last": int(at == places[-1])}).as_bits() for at in places]
    words = []
    for start in groups.tolist():
        shown = 1 if kind == "single" else min(step, rows - start)
        # The rest of a word is as it was loaded.
        whole = plane[start : start + (1 if kind == "single" else step)]
        words += read_words(sizes, whole, start, shown, start == groups[-1])
    return {"read": [BufferRead(sizes).const(fields).as_bits()], "indices": indices}, words


def read_words(sizes: AttentionSizes, rows: np.ndarray, start: int, shown: int, last: bool) -> list[int]:
    """The words of rows that share one, of which `shown` are in the range."""
    head_size, count, words = rows.shape[1], sizes.multipliers, []
    parts = sizes.words_per_row(head_size)
    for part in range(parts):
        elements = np.zeros((len(rows), count if parts > 1 else sizes.slots(head_size)), np.int64)
        own = rows[:, part * count : (part + 1) * count]
        elements[:, : own.shape[1]] = own
        fields = {"index": start, "rows": shown, "part": part, "last": int(last and part == parts - 1)}
        words.append(element_word(sizes, elements.reshape(-1), **fields))
    return words


@dataclass
class Transfer:
    """Cycles in which inputs were taken; cycles and bits of what came out."""

    taken: dict[str, list[int]]
    cycles: list[int]
    items: list[int]


def transfer(count: int, inputs: dict[str, list[int]], stalls=never, sink=never, bypass: int = 0) -> Transfer:
    """Send all inputs, and take words until nothing is left."""
    dut, sinks, held = block(count), sink(), None
    waiting = {name: inputs.get(name, [])[::-1] for name in STREAMS}
    patterns = {name: stalls() for name in STREAMS}
    for skip, pattern in enumerate(patterns.values()):
        list(itertools.islice(pattern, 3 * skip))
    offered, result = dict.fromkeys(STREAMS, False), Transfer({name: [] for name in STREAMS}, [], [])
    for _ in range(20_000):
        ready = int(not next(sinks))
        shown = {"o_ready": ready, "bypass": bypass}
        for name, items in waiting.items():
            offered[name] = bool(items) and (offered[name] or not next(patterns[name]))
            shown |= {name: items[-1] if offered[name] else 0, f"{name}_valid": int(offered[name])}
        out = dut.step(**shown)
        cycle = dut.cycle - 1
        assert held is None or (out["o_valid"] and out["o"] == held), "a word was not held"
        held = out["o"] if out["o_valid"] and not ready else None
        if out["o_valid"] and ready:
            result.cycles.append(cycle)
            result.items.append(out["o"])
        assert out["loaded"] == out["load_ready"]
        for name, items in waiting.items():
            if offered[name] and out[f"{name}_ready"]:
                items.pop()
                result.taken[name].append(cycle)
                offered[name] = False
        if not any(waiting.values()) and not out["busy"] and not any(shown[f"{name}_valid"] for name in STREAMS):
            return result
    raise AssertionError({name: len(items) for name, items in waiting.items()})


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize(("stalls", "sink"), [(never, never), (at_random(9, 0.4), every_fourth), (never, long(30))])
def test_heads(count, stalls, sink, seed):
    """A head is read in every way while the next one is loaded into the other half."""
    rng, sizes = np.random.default_rng(seed + count), SIZES[count]
    heads = [make_head(rng, sizes, side % 2) for side in range(25)]
    transfer(count, loads(sizes, heads[0]), stalls, sink)
    for head, following in itertools.pairwise(heads):
        inputs, words = loads(sizes, following), []
        inputs |= {"read": [], "indices": []}
        for kind in rng.choice(["range", "gather", "single"], 6):
            own, shown = reads(rng, sizes, head, str(kind))
            words += shown
            for name, items in own.items():
                inputs[name] += items
        assert transfer(count, inputs, stalls, sink).items == words


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("kind", ["range", "gather", "single"])
def test_a_word_a_cycle(count, kind, seed):
    """Reads follow one another, and the words of two planes that are written meanwhile."""
    rng, sizes = np.random.default_rng(seed + count), SIZES[count]
    head, following = make_head(rng, sizes, 0), make_head(rng, sizes, 1)
    transfer(count, loads(sizes, head))
    inputs, words = loads(sizes, following) | {"read": [], "indices": []}, []
    for _ in range(4):
        own, shown = reads(rng, sizes, head, kind)
        words += shown
        for name, items in own.items():
            inputs[name] += items
    start = block(count).cycle
    run = transfer(count, inputs)
    assert run.items == words
    assert run.cycles == list(range(start + RowBuffer.LATENCY, start + RowBuffer.LATENCY + len(words)))
    assert run.taken["i"] == list(range(start, start + len(inputs["i"])))


def test_bypass(seed):
    """Words go through in the same cycle, queries of 16 bits, too."""
    rng, sizes = np.random.default_rng(seed), SIZES[64]
    words = row_words(sizes, rng.integers(-(1 << 15), 1 << 15, (40, 48)), query=True)
    run = transfer(64, {"i": words}, at_random(seed, 0.3), every_fourth, bypass=1)
    assert run.items == words
    assert run.cycles == run.taken["i"]

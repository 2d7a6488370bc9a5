"""Score buffers against arrays: random writes of parts of words, reads of both kinds in the same cycles."""

from functools import cache

import numpy as np
import pytest

from hwgen.arch.attention import CHUNK, AttentionSizes
from hwgen.attention.scores import ScoreBuffers, StoredScores
from hwgen.attention.words import ScoreWord
from tests.hwgen.cycle_support import CycleBlock

pytestmark = pytest.mark.verilator

SIZES = {
    "four": AttentionSizes(multipliers=64, softmax_lanes=16, max_length=64, rows_in_flight=4),
    "all": AttentionSizes(multipliers=64, softmax_lanes=4, max_length=16, rows_in_flight=2),
    "one": AttentionSizes(multipliers=16, softmax_lanes=8, max_length=32, rows_in_flight=2),
}
"""Parts of a word that products write in one cycle: a quarter, all, one score."""


@cache
def block(name: str) -> CycleBlock:
    return CycleBlock(ScoreBuffers(SIZES[name]), f"score_buffers_{name}")


def write_inputs(rng: np.random.Generator, sizes: AttentionSizes, scores: np.ndarray, seen: np.ndarray) -> dict:
    """Write some scores of an aligned word, and do the same in the arrays."""
    rows = sizes.multipliers // CHUNK
    buffer, index = int(rng.integers(sizes.rows_in_flight)), rows * int(rng.integers(sizes.max_length // rows))
    values, bits, enables = rng.integers(-(2**38), 2**38, rows), rng.random(rows) < 0.5, rng.random(rows) < 0.8
    part = slice(index, index + rows)
    scores[buffer, part] = np.where(enables, values, scores[buffer, part])
    seen[buffer, part] = np.where(enables, bits, seen[buffer, part])

    def number(flags: np.ndarray) -> int:
        return sum(int(flag) << place for place, flag in enumerate(flags))

    word = {"scores": values.tolist(), "write": number(enables), "seen": number(bits), "index": index, "last": 0}
    return {"write": ScoreWord(sizes).const(word).as_bits(), "write_buffer": buffer, "write_valid": 1}


def stored(scores: np.ndarray, seen: np.ndarray) -> int:
    flags = sum(int(flag) << place for place, flag in enumerate(seen))
    return StoredScores(len(scores)).const({"scores": scores.tolist(), "seen": flags}).as_bits()


@pytest.mark.parametrize("name", SIZES)
def test_reads_give_what_was_written(name, seed):
    rng, sizes = np.random.default_rng(seed), SIZES[name]
    rows, lanes, count = sizes.multipliers // CHUNK, sizes.softmax_lanes, sizes.rows_in_flight
    scores, seen = np.zeros((count, sizes.max_length), np.int64), np.zeros((count, sizes.max_length), bool)
    block(name).run([{}])
    cycles, wanted = [], []
    for buffer in range(count):
        for index in range(0, sizes.max_length, rows):
            word = {"scores": [0] * rows, "write": (1 << rows) - 1, "seen": 0, "index": index, "last": 0}
            bits = ScoreWord(sizes).const(word).as_bits()
            cycles.append({"write": bits, "write_buffer": buffer, "write_valid": 1})
            wanted.append({})
    for _ in range(3000):
        buffer, old_buffer = rng.choice(count, 2, replace=False).tolist()
        address, old_index = (
            int(rng.integers(sizes.max_length // lanes)),
            rows * int(rng.integers(sizes.max_length // rows)),
        )
        # Of the arrays before this cycle's write: the old word is read.
        whole, part = slice(lanes * address, lanes * (address + 1)), slice(old_index, old_index + rows)
        wanted.append(
            {
                "o": stored(scores[buffer, whole], seen[buffer, whole]),
                "old": stored(scores[old_buffer, part], seen[old_buffer, part]),
            }
        )
        reads = {"address": address, "buffer": buffer, "old_index": old_index, "old_buffer": old_buffer, "old_valid": 1}
        write = write_inputs(rng, sizes, scores, seen) if rng.random() < 0.7 else {}
        cycles.append(reads | write)
    out = block(name).run([*cycles, {}])[ScoreBuffers.LATENCY :]
    for number, (got, words) in enumerate(zip(out, wanted, strict=True)):
        assert {port: got[port] for port in words} == words, f"cycle {number}"

"""SELECT and TOPK on RTL against the golden model: ties, protected tokens, heads that are gone, every k."""

import numpy as np
import pytest

from hwgen.arch.services import Job, Key, Score
from models.formats import CORNERS_FP32
from tests.core_support import timing
from tests.hwgen.services_support import BASES, SIZES, State, compare, fields_of

pytestmark = pytest.mark.verilator


def contents_of(rng: np.random.Generator, size: int, **parts: bytes) -> dict[int, bytes]:
    """Lists hold something else before; `parts` are named as the fields of their addresses."""
    lists = {"index_addr": rng.bytes(2 * size + 64), "value_addr": rng.bytes(4 * size + 64)}
    return {BASES[name]: data for name, data in (lists | parts).items()}


@pytest.mark.parametrize("name", SIZES)
def test_tokens(name, seed):
    most = SIZES[name].max_length
    for case in range(60):
        rng = np.random.default_rng([seed, case])
        length = int(rng.choice([1, most, rng.integers(1, most + 1)]))
        compact, dropped = ((0, 0), (1, 0), (0, 1))[rng.integers(3)]
        fields = fields_of(
            Job.SELECT,
            length=length,
            keep=int(rng.choice([1, length, rng.integers(1, length + 1)])),
            first=int(rng.choice([0, 1, rng.integers(length + 1)])),
            protected=int(rng.integers(2)),
            compact=compact,
            dropped=dropped,
        )
        state = State.drawn(rng, SIZES[name])
        bits = np.packbits(rng.random(most + 8 * 64) < 0.1).tobytes()
        print(f"case {case}: {fields}")
        compare(name, Job.SELECT, fields, contents_of(rng, most, protect_addr=bits), state, **timing(rng, case))


@pytest.mark.parametrize("name", SIZES)
def test_heads(name, seed):
    most = SIZES[name].max_heads
    for case in range(60):
        rng = np.random.default_rng([seed, case])
        length = int(rng.integers(1, most + 1))
        keep, dropped = int(rng.integers(1, length + 1)), int(rng.integers(2))
        fields = fields_of(Job.SELECT, score=Score.HEADS, length=length, keep=keep, dropped=dropped)
        state = State.drawn(rng, SIZES[name])
        print(f"case {case}: {fields}, {state}")
        compare(name, Job.SELECT, fields, contents_of(rng, most), state, **timing(rng, case))


def drawn_values(rng: np.random.Generator, length: int) -> np.ndarray:
    """Random, constant, sorted, reversed, of few different values, or corner values and random bits."""
    normal = rng.normal(size=length).astype(np.float32)
    bits = rng.integers(0, 1 << 32, length, dtype=np.uint32)
    bits[rng.random(length) < 0.5] = rng.choice(CORNERS_FP32)
    few = rng.choice(np.array([0, -0.0, 1, -1, np.inf, np.nan], np.float32), length)
    kinds = [normal, np.full(length, normal[0]), np.sort(normal), -np.sort(normal), few, bits.view(np.float32)]
    return kinds[rng.integers(len(kinds))]


@pytest.mark.parametrize(("name", "cases"), [("16", 600), ("32", 600), ("64", 60)])
def test_top_k(name, cases, seed):
    most, state = SIZES[name].max_length, State.drawn(np.random.default_rng(seed), SIZES[name])
    for case in range(cases):
        rng = np.random.default_rng([seed, case])
        length = int(rng.choice([1, most, *rng.integers(1, most + 1, 3)]))
        k = int(rng.choice([0, 1, length, *rng.integers(length + 1, size=3)]))
        fields = fields_of(Job.TOPK, key=int(rng.choice(Key)), length=length, k=k)
        values = drawn_values(rng, length)
        print(f"case {case}: {fields}")
        contents = contents_of(rng, most, src_addr=values.tobytes())
        compare(name, Job.TOPK, fields, contents, state, **timing(rng, case))

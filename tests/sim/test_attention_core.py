"""The attention core on RTL against the golden model: random jobs, memories of any latency, with stalls."""

from functools import cache

import numpy as np
import pytest

from hwgen.arch.attention import (
    JOB,
    JOB_BYTES,
    KEEP_FRACTION,
    RECORD_BYTES,
    AttentionSizes,
    KeyMode,
    keep_count,
    keep_share,
    pack,
)
from models.attention_engine.engine import AttentionEngine, JobResult
from models.attention_engine.planes import beats, row_bytes
from models.memory import Memory
from sim.attention_block import AttentionBlock
from tests.models.attention_engine.support import SPAN, Layer, random_layer
from tests.support import at_random, never

pytestmark = pytest.mark.verilator

SIZES = {
    "16": AttentionSizes(
        multipliers=16, beat_bytes=16, softmax_lanes=4, output_lanes=2, max_length=64, buffer_words=256, max_heads=4,
        rows_in_flight=2, reads_in_flight=16,
    ),
    "32": AttentionSizes(
        multipliers=32, beat_bytes=32, softmax_lanes=8, output_lanes=4, max_length=64, buffer_words=256, max_heads=4,
        rows_in_flight=4, reads_in_flight=16,
    ),
}  # fmt: skip
FULL = AttentionSizes()
DESCRIPTOR = 8 * SPAN
WHOLE = 1 << KEEP_FRACTION


@cache
def block(name: str) -> AttentionBlock:
    return AttentionBlock(SIZES.get(name, FULL), f"attention_{name}")


def random_job(rng: np.random.Generator, **choices: object) -> Layer:
    """A job that the small cores take."""
    keys = int(rng.choice([1, 2, 5, 16, 33, 64, rng.integers(1, 65)]))
    small = {
        "queries": int(rng.integers(1, 5)),
        "keys": keys,
        "key_mode": int(rng.choice([KeyMode.NEVER, KeyMode.ROW, KeyMode.ROW, KeyMode.ALWAYS])),
        "value_keep": int(rng.choice([WHOLE, keep_share(0.5), keep_share(0.1)])),
        "forget": int(rng.choice([256, 200, 0])),
    }
    layer = random_layer(rng, **small | choices)
    if rng.random() < 0.5:
        layer.job["out_stride"] += 4 * int(rng.integers(1, 9))
    return layer


def images(layer: Layer, sizes: AttentionSizes) -> dict[int, bytes]:
    descriptor = pack(JOB, JOB_BYTES, layer.job)
    return layer.images(sizes) | {DESCRIPTOR: descriptor + bytes(-len(descriptor) % sizes.beat_bytes)}


def wanted_reads(layer: Layer, sizes: AttentionSizes, result: JobResult) -> int:
    """Golden's beats, but with queries one by one; and those of the descriptor, of records and mask."""
    job, beat = layer.job, sizes.beat_bytes
    size = row_bytes(job["head_size"], job["query_bits"])

    def query_beats(head: int, queries: range) -> int:
        return beats(job["q_addr"] + head * job["q_stride"], size, queries, beat)

    single = sum(query_beats(row.head, range(row.query, row.query + 1)) for row in result.rows)
    shared = sum(query_beats(head, range(job["queries"])) for head in {row.head for row in result.rows})
    tables = -(-job["heads"] * RECORD_BYTES // beat) + (-(-job["keys"] // (8 * beat)) if job["masked"] else 0)
    return max(1, JOB_BYTES // beat) + tables + result.read_beats - shared + single


def check(name: str, layer: Layer, alive: int, tokens: list[int], **memory: object) -> None:
    """Run a job on both; outputs, importance and traffic are the same."""
    sizes, core = SIZES.get(name, FULL), block(name)
    contents = images(layer, sizes)
    golden, image = AttentionEngine(sizes, Memory(contents)), Memory(contents)
    golden.importance.tokens[:] = tokens
    golden.importance.alive[:] = [alive >> head & 1 for head in range(sizes.max_heads)]
    result = golden.run(layer.job)
    core.clear()
    core.set_tokens(tokens)
    core.alive = alive
    run = core.run(DESCRIPTOR, image, **memory)
    assert not run.error
    out = layer.job["out_addr"], len(contents[layer.job["out_addr"]])
    assert image.read(*out) == golden.memory.read(*out)
    assert core.tokens() == golden.importance.tokens.tolist()
    assert core.heads() == golden.importance.heads.tolist()
    assert run.read_beats == wanted_reads(layer, sizes, result)


def check_cases(name: str, seed: int, cases: int, **choices: object) -> None:
    for case in range(cases):
        rng = np.random.default_rng([seed, case])
        layer = random_job(rng, **choices)
        alive = int(rng.integers(16)) if rng.random() < 0.3 else 15
        tokens = rng.integers(0, 1 << 20, SIZES[name].max_length).tolist()
        probability = float(rng.choice([0, 0.2, 0.6]))
        stalls = at_random(case, probability) if probability else never
        print(f"case {case}: {layer.job}, alive {alive:04b}")
        check(name, layer, alive, tokens, latency=int(rng.choice([1, 7, 40])), stalls=stalls)


@pytest.mark.parametrize("name", SIZES)
def test_decoder_jobs(name, seed):
    check_cases(name, seed, 25, hold=0)


@pytest.mark.parametrize("name", SIZES)
def test_jobs_that_hold_keys_and_values(name, seed):
    """Half of them have room for two heads; query heads share keys in many."""
    for case in range(25):
        rng = np.random.default_rng([seed, case])
        size = int(rng.choice([16, 32, 48, 64, 80, 128]))
        fits = 256 // SIZES[name].words(size, 16) * 16
        keys = max(1, min(64, int(fits * rng.choice([0.5, 1])) - int(rng.integers(3))))
        check_cases(name, seed + case, 1, hold=1, head_size=size, keys=keys, queries=int(rng.integers(1, 8)))


@pytest.mark.parametrize(
    "change",
    [
        {"heads": 5},
        {"head_size": 24},
        {"keys": 65},
        {"key_bits": 5},
        {"value_bits": 2},
        {"query_bits": 3},
        {"queries": 0},
        {"key_mode": KeyMode.KEY, "key_low": 1},
        {"value_keep": 0},
        {"hold": 1, "head_size": 128, "keys": 33},
    ],
)
def test_jobs_that_are_refused(change, seed):
    """The core says so, reads the descriptor only and writes nothing; the next job runs as if nothing had been."""
    plain = {"heads": 2, "group": 1, "head_size": 32, "keys": 9, "queries": 2}
    layer = random_job(np.random.default_rng(seed), **plain)
    contents = images(layer, SIZES["16"])
    bits, place = 0, 0
    for item in JOB:
        bits |= (layer.job | change)[item.name] << place
        place += item.width
    image = Memory(contents | {DESCRIPTOR: bits.to_bytes(JOB_BYTES, "little")})
    run = block("16").run(DESCRIPTOR, image)
    assert run.error
    assert (run.read_beats, run.write_beats) == (JOB_BYTES // 16, 0)
    check("16", layer, 15, [0] * 64)


def test_held_back_until_lsbs_are_there(seed):
    """Every row needs LSBs of keys and values: a second pass for each, behind the first one of the next."""
    layer = random_job(
        np.random.default_rng(seed), heads=2, queries=4, keys=40, key_low=1, key_mode=KeyMode.ROW, threshold=2,
        value_low=1, value_mode=1, masked=0, causal=0,
    )  # fmt: skip
    check("32", layer, 15, [5] * 64)
    words = SIZES["32"].words(layer.job["head_size"], 40)
    run = block("32").run(DESCRIPTOR, Memory(images(layer, SIZES["32"])))
    assert run.products_busy == 2 * 8 * words


PLAIN = {"group": 1, "masked": 0, "causal": 0, "value_low": 0, "importance": 1, "forget": 256}
DENSE = PLAIN | {
    **{"queries": 1, "keys": 993, "head_size": 64, "hold": 0, "query_bits": 10, "key_bits": 10, "value_bits": 10},
    **{"key_low": 0, "key_mode": KeyMode.NEVER, "value_keep": WHOLE},
}
PRUNED = DENSE | {
    **{"keys": 921, "query_bits": 12, "key_bits": 6, "value_bits": 6, "key_low": 1, "key_mode": KeyMode.ROW},
    **{"threshold": 2, "spread": 1, "value_keep": keep_count(184, 921)},
}
ENCODER = DENSE | {
    **{"queries": 128, "keys": 128, "hold": 1, "query_bits": 6, "key_bits": 6, "value_bits": 6},
    "value_keep": keep_count(64, 128),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workload", "limit"),
    [
        (DENSE | {"heads": 1}, 2_900),
        (DENSE | {"heads": 4}, 10_500),
        (PRUNED | {"heads": 12}, 24_500),
        (ENCODER | {"heads": 2}, 34_500),
        (ENCODER | {"heads": 4, "head_size": 32, "queries": 64, "keys": 64, "value_keep": keep_count(32, 64)}, 14_500),
    ],
    ids=["dense query", "dense, 4 heads", "pruned, 12 heads", "encoder, 2 heads of 64", "encoder, 4 heads of 32"],
)
def test_cycles_of_published_sizes(workload, limit):
    """64 + 64 multipliers, memory latency 40; the table in hwgen/attention/README.md."""
    layer = random_layer(np.random.default_rng(3), **workload)
    check("64", layer, 15 if layer.job["heads"] <= 4 else 0xFFF, [0] * 1024)
    run = block("64").run(DESCRIPTOR, Memory(images(layer, FULL)))
    print(f"{run.cycles:,} cycles, memory busy {run.read_beats:,}, products busy {run.products_busy:,}")
    assert run.cycles <= limit

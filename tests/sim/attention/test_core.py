"""The attention core on RTL against the golden model: random jobs, memories of any latency, with stalls."""

import numpy as np
import pytest

from hwgen.arch.attention import JOB, JOB_BYTES, AttentionSizes, KeyMode, keep_count
from models.attention_engine.engine import AttentionEngine
from models.memory import Memory
from sim.attention.model import ModelJob, run_jobs
from tests.models.attention_engine.support import SPAN, Layer, random_layer
from tests.sim.attention.support import (
    DESCRIPTOR,
    FULL,
    SIZES,
    SMALL,
    WHOLE,
    block,
    check,
    check_cases,
    images,
    random_job,
    wanted_reads,
)

pytestmark = pytest.mark.verilator


@pytest.mark.parametrize("name", SMALL)
def test_decoder_jobs(name, seed):
    check_cases(name, seed, 25, hold=0)


@pytest.mark.parametrize("name", SMALL)
def test_jobs_that_hold_keys_and_values(name, seed):
    """Half of them have room for two heads; query heads share keys in many."""
    for case in range(25):
        rng = np.random.default_rng([seed, case])
        size = int(rng.choice([16, 32, 48, 64, 80, 128]))
        fits = 256 // SIZES[name].words(size, 16) * 16
        keys = max(1, min(64, int(fits * rng.choice([0.5, 1])) - int(rng.integers(3))))
        check_cases(name, seed + case, 1, hold=1, head_size=size, keys=keys, queries=int(rng.integers(1, 8)))


@pytest.mark.parametrize("latency", [1, 40, 200])
@pytest.mark.parametrize("name", SMALL)
def test_a_job_without_a_living_head_ends_when_its_tables_are_there(name, latency, seed):
    """Its rows of zeros leave long before; RTL and model count the beats of its records and its mask."""
    rng, sizes = np.random.default_rng(seed), SIZES[name]
    layer = random_job(rng, heads=int(rng.integers(1, 5)), queries=1, head_size=16, masked=1)
    check(name, layer, 0, [7] * sizes.max_length, latency=latency)
    run = block(name).run(DESCRIPTOR, Memory(images(layer, sizes)), latency=latency)
    (model,) = run_jobs(sizes, [ModelJob(layer.job, [], 0)], latency=latency)
    assert (model.cycles, model.read_beats) == (run.cycles, run.read_beats)


def raw_descriptor(job: dict[str, int]) -> bytes:
    """The bytes of a job that `pack` may refuse."""
    bits, place = 0, 0
    for item in JOB:
        bits |= job[item.name] << place
        place += item.width
    return bits.to_bytes(JOB_BYTES, "little")


MISPLACED = {
    **{item.name: 2 for item in JOB if item.name.endswith("_stride")},
    **{item.name: SPAN + 1 for item in JOB if item.name.endswith("_addr")},
    **{"mask_addr": SPAN + 8, "heads_addr": SPAN + 4},
}


@pytest.mark.parametrize(
    "change",
    [
        {"heads": 5},
        {"heads": 0},
        {"heads": 4, "group": 3},
        {"heads": 2, "group": 4},
        {"head_size": 24},
        {"keys": 65, "masked": 1, "importance": 0, "key_mode": KeyMode.NEVER},
        {"keys": 65, "masked": 0, "importance": 1, "key_mode": KeyMode.NEVER},
        {"keys": 65, "masked": 0, "importance": 0, "key_mode": KeyMode.ROW},
        {"keys": 65, "masked": 0, "importance": 0, "key_mode": KeyMode.KEY},
        {"key_bits": 5},
        {"value_bits": 2},
        {"query_bits": 3},
        {"queries": 0},
        {"key_margin": 17},
        {"value_mode": 3},
        {"value_keep": 0},
        {"value_keep": WHOLE + 1},
        {"forget": 257},
        *({name: place} for name, place in MISPLACED.items()),
        {"hold": 1, "head_size": 128, "keys": 33},
    ],
)
def test_jobs_that_are_refused(change, seed):
    """The core says so, reads the descriptor only and writes nothing; the next job runs as if nothing had been."""
    plain = {"heads": 2, "group": 1, "head_size": 32, "keys": 9, "queries": 2}
    layer = random_job(np.random.default_rng(seed), **plain)
    contents = images(layer, SIZES["16"])
    image = Memory(contents | {DESCRIPTOR: raw_descriptor(layer.job | change)})
    run = block("16").run(DESCRIPTOR, image)
    assert run.error
    assert (run.read_beats, run.write_beats) == (JOB_BYTES // 16, 0)
    check("16", layer, 15, [0] * 64)


def test_descriptor_in_the_middle_of_a_beat_is_refused(seed):
    layer = random_job(np.random.default_rng(seed), keys=5, queries=1)
    run = block("16").run(DESCRIPTOR + 8, Memory(images(layer, SIZES["16"])))
    assert run.error
    assert run.write_beats == 0


def chained(layers: list[Layer], sizes: AttentionSizes) -> tuple[dict[int, bytes], list[int]]:
    """Memory with layers at addresses of their own, and the addresses of their descriptors."""
    contents, places = {}, []
    for number, layer in enumerate(layers):
        own, offset = layer.images(sizes), 16 * SPAN * number
        layer.job |= {name: layer.job[name] + offset for name in layer.job if name.endswith("_addr")}
        own[DESCRIPTOR] = raw_descriptor(layer.job)
        contents |= {address + offset: data for address, data in own.items()}
        places.append(DESCRIPTOR + offset)
    return contents, places


@pytest.mark.parametrize("latency", [1, 40])
@pytest.mark.parametrize("name", SMALL)
def test_jobs_one_behind_the_other(name, latency, seed):
    """Descriptors are read ahead; jobs do what they do alone, and one that is refused says so when its turn comes."""
    rng, sizes = np.random.default_rng([seed, latency]), SIZES[name]
    bad = int(rng.integers(10))
    sizes_of = [{"head_size": int(rng.choice([16, 32, 48])), "keys": int(rng.integers(1, 65))} for _ in range(10)]
    layers = [random_job(rng, **own, importance=int(number % 3 != 0)) for number, own in enumerate(sizes_of)]
    layers[bad].job["group"] = 0
    contents, places = chained(layers, sizes)
    golden, image, core = AttentionEngine(sizes, Memory(contents)), Memory(contents), block(name)
    core.clear()
    core.alive = 15
    runs = core.run_all(places, image, latency=latency)
    results = [golden.run(layer.job) for number, layer in enumerate(layers) if number != bad]
    assert [run.error for run in runs] == [number == bad for number in range(10)]
    good = [layer for number, layer in enumerate(layers) if number != bad]
    for layer in good:
        out = layer.job["out_addr"], layer.job["queries"] * layer.job["out_stride"]
        assert image.read(*out) == golden.memory.read(*out)
    assert core.tokens() == golden.importance.tokens.tolist()
    assert core.heads() == golden.importance.heads.tolist()
    wanted = sum(wanted_reads(layer, sizes, result) for layer, result in zip(good, results))
    assert sum(run.read_beats for run in runs) == wanted + JOB_BYTES // sizes.beat_bytes


def test_descriptor_is_read_ahead(seed):
    """A job begins when the one before ends, without the latency of its descriptor, whose beats may delay that one."""
    rng = np.random.default_rng(seed)
    layers = [random_job(rng, heads=4, queries=1, keys=20, head_size=32, hold=0) for _ in range(4)]
    contents, places = chained(layers, SIZES["32"])
    core, latency = block("32"), 40
    core.alive = 15
    alone = [core.run(place, Memory(contents), latency=latency).cycles for place in places]
    together = [run.cycles for run in core.run_all(places, Memory(contents), latency=latency)]
    print(f"alone {alone}, together {together}")
    assert 0 <= together[0] - alone[0] <= 3
    assert all(one >= other + latency for one, other in zip(alone[1:], together[1:]))


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
SHORT = ENCODER | {"heads": 4, "head_size": 32, "queries": 64, "keys": 64, "value_keep": keep_count(32, 64)}
"""Rows of 64 keys: products are busy in at least 85 % of the cycles, with heads of 16 the selection is."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workload", "limit"),
    [
        (DENSE | {"heads": 1}, 2_900),
        (DENSE | {"heads": 4}, 10_500),
        (PRUNED | {"heads": 12}, 24_500),
        (ENCODER | {"heads": 2}, 34_500),
        (SHORT, 9_300),
        (SHORT | {"value_keep": WHOLE}, 8_900),
        (SHORT | {"head_size": 64}, 17_500),
        (SHORT | {"key_low": 1, "key_mode": KeyMode.ROW, "threshold": 2}, 17_500),
        (SHORT | {"head_size": 16}, 9_000),
        (SHORT | {"head_size": 16, "keys": 128, "value_keep": keep_count(64, 128)}, 13_500),
    ],
    ids=[
        *("dense query", "dense, 4 heads", "pruned, 12 heads", "encoder, 2 heads of 64", "encoder, 4 heads of 32"),
        *("the same, all values", "4 heads of 64, 64 tokens", "4 heads of 32, LSBs of every row"),
        *("4 heads of 16, 64 tokens", "4 heads of 16, 128 tokens"),
    ],
)
def test_cycles_of_published_sizes(workload, limit):
    """64 + 64 multipliers, memory latency 40; the table in hwgen/attention/README.md."""
    layer = random_layer(np.random.default_rng(3), **workload)
    check("64", layer, 15 if layer.job["heads"] <= 4 else 0xFFF, [0] * 1024)
    run = block("64").run(DESCRIPTOR, Memory(images(layer, FULL)))
    print(f"{run.cycles:,} cycles, memory busy {run.read_beats:,}, products busy {run.products_busy:,}")
    assert run.cycles <= limit
    if layer.job["hold"] and layer.job["head_size"] > 16:
        assert run.products_busy > 0.85 * run.cycles


@pytest.mark.slow
def test_cycles_of_decoder_steps(seed):
    """Jobs of one query of 12 heads, as the layers of a decoder: offered one by one, and one behind the other."""
    rng = np.random.default_rng(seed)
    step = PRUNED | {"heads": 12, "keys": 128, "value_keep": keep_count(26, 128), "importance": 0}
    contents, places = chained([random_layer(rng, **step) for _ in range(4)], FULL)
    core = block("64")
    core.alive = 0xFFF
    alone = [core.run(place, Memory(contents)).cycles for place in places]
    together = [run.cycles for run in core.run_all(places, Memory(contents))]
    print(f"alone {alone}, together {together}")
    assert all(one >= other + 45 for one, other in zip(alone[1:], together[1:]))

"""The attention core on RTL against the golden model: random jobs, memories of any latency, with stalls."""

import numpy as np
import pytest

from hwgen.arch.attention import JOB, JOB_BYTES, KeyMode, keep_count
from models.memory import Memory
from tests.models.attention_engine.support import SPAN, random_layer
from tests.sim.attention_support import DESCRIPTOR, FULL, SIZES, WHOLE, block, check, check_cases, images, random_job

pytestmark = pytest.mark.verilator


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
        {"keys": 65},
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
    bits, place = 0, 0
    for item in JOB:
        bits |= (layer.job | change)[item.name] << place
        place += item.width
    image = Memory(contents | {DESCRIPTOR: bits.to_bytes(JOB_BYTES, "little")})
    run = block("16").run(DESCRIPTOR, image)
    assert run.error
    assert (run.read_beats, run.write_beats) == (JOB_BYTES // 16, 0)
    check("16", layer, 15, [0] * 64)


def test_descriptor_in_the_middle_of_a_beat_is_refused(seed):
    layer = random_job(np.random.default_rng(seed), keys=5, queries=1)
    run = block("16").run(DESCRIPTOR + 8, Memory(images(layer, SIZES["16"])))
    assert run.error
    assert run.write_beats == 0


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

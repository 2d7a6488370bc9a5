"""The cycle model of the attention core against RTL: every counter of every job, in any memory."""

from itertools import pairwise

import numpy as np
import pytest

from hwgen.arch.attention import AttentionSizes, KeyMode, keep_count
from hwgen.arch.errors import UserError
from models.attention_engine.engine import AttentionEngine
from models.memory import Memory
from sim.attention_block import JobRun
from sim.attention_model import ModelJob, RowFacts, golden_job, run_jobs
from tests.models.attention_engine.support import Layer, random_layer
from tests.sim.attention_support import DESCRIPTOR, FULL, SIZES, block, images, random_job
from tests.sim.test_attention_core import DENSE, ENCODER, PRUNED
from tests.support import at_random, every_fourth, never

MODES = (KeyMode.NEVER, KeyMode.ROW, KeyMode.ROW, KeyMode.KEY, KeyMode.KEY, KeyMode.ALWAYS)


def model_job(layer: Layer, sizes: AttentionSizes, alive: int) -> ModelJob:
    """A job and what golden says of its rows."""
    engine = AttentionEngine(sizes, Memory(images(layer, sizes)))
    engine.importance.alive[:] = [alive >> head & 1 for head in range(sizes.max_heads)]
    return golden_job(engine, layer.job)


def check(name: str, layer: Layer, alive: int, **memory: object) -> JobRun:
    """RTL and model count the same."""
    sizes, core = SIZES.get(name, FULL), block(name)
    core.alive = alive
    run = core.run(DESCRIPTOR, Memory(images(layer, sizes)), **memory)
    (cycles,) = run_jobs(sizes, [model_job(layer, sizes, alive)], limit=100_000, **memory)
    names = ("cycles", "products_busy", "read_beats", "write_beats")
    assert {name: getattr(cycles, name) for name in names} == {name: getattr(run, name) for name in names}
    return run


def held_job(rng: np.random.Generator, sizes: AttentionSizes, **choices: object) -> Layer:
    """A job that holds keys and values; half of them have room for two heads."""
    size = int(rng.choice([16, 32, 48, 64, 80, 128]))
    fits = 256 // sizes.words(size, 16) * 16
    keys = max(1, min(64, int(fits * rng.choice([0.5, 1])) - int(rng.integers(3))))
    return random_job(rng, hold=1, head_size=size, keys=keys, queries=int(rng.integers(1, 8)), **choices)


@pytest.mark.verilator
@pytest.mark.parametrize("hold", [0, 1])
@pytest.mark.parametrize("name", SIZES)
def test_random_jobs(name, hold, seed):
    """Heads that are gone, masks, causal rows, LSBs in every mode, pruned values; memories near, far and stalling."""
    for case in range(24):
        rng = np.random.default_rng([seed, case])
        mode = int(rng.choice(MODES))
        layer = held_job(rng, SIZES[name], key_mode=mode) if hold else random_job(rng, hold=0, key_mode=mode)
        alive = int(rng.integers(16)) | 1 << int(rng.integers(layer.job["heads"])) if rng.random() < 0.3 else 15
        stalls = [never, never, every_fourth, at_random(case, 0.2), at_random(case, 0.6)][rng.integers(5)]
        print(f"case {case}: {layer.job}, alive {alive:04b}")
        check(name, layer, alive, latency=int(rng.choice([1, 7, 40])), stalls=stalls)


@pytest.mark.slow
@pytest.mark.verilator
@pytest.mark.parametrize(
    ("workload", "cycles"),
    [
        (DENSE | {"heads": 1}, 2_718),
        (PRUNED | {"heads": 12}, 23_055),
        (ENCODER | {"heads": 2}, 33_394),
        (ENCODER | {"heads": 4, "head_size": 32, "queries": 64, "keys": 64, "value_keep": keep_count(32, 64)}, 14_007),
    ],
    ids=["dense query", "pruned, 12 heads", "encoder, 2 heads of 64", "encoder, 4 heads of 32"],
)
def test_published_sizes(workload, cycles):
    """64 + 64 multipliers; the cycles are those of the table in hwgen/attention/README.md."""
    layer = random_layer(np.random.default_rng(3), **workload)
    assert check("64", layer, (1 << layer.job["heads"]) - 1).cycles == cycles


def test_jobs_one_after_the_other(seed):
    """A job takes as long as alone, and the next command is taken when it has ended."""
    sizes = SIZES["32"]
    layers = [random_job(np.random.default_rng([seed, case]), key_mode=KeyMode.ROW, hold=0) for case in range(4)]
    jobs = [model_job(layer, sizes, 15) for layer in layers]
    together = run_jobs(sizes, jobs)
    assert [job.cycles for job in together] == [run_jobs(sizes, [job])[0].cycles for job in jobs]
    for one, following in pairwise(together):
        assert following.begins == one.begins + one.cycles + 1


def test_a_row_costs_what_it_fetches():
    """Made-up facts: LSBs are a second pass, kept values are words of the weighted sums."""
    fields = random_layer(np.random.default_rng(0), **PRUNED | {"heads": 1}).job
    kept = tuple(range(0, 921, 5))
    plain, low = (
        run_jobs(FULL, [ModelJob(fields, [RowFacts(low=low, kept=kept, passes=(300,))], 1)])[0] for low in (False, True)
    )
    assert low.products_busy == 2 * plain.products_busy == 2 * 921
    assert low.read_beats - plain.read_beats == 921 * 32 // 64 + 1
    assert low.cycles > plain.cycles + 921


@pytest.mark.parametrize(
    ("change", "rows", "text"),
    [
        ({"keys": 2_000}, 1, "no jobs of more than 1024 keys, not 2000"),
        ({"heads": 17}, 1, "heads must be"),
        ({"queries": 2}, 1, "the job has 2 rows in heads that are alive, not 1"),
    ],
)
def test_jobs_that_the_model_refuses(change, rows, text):
    fields = random_layer(np.random.default_rng(0), **DENSE | {"heads": 1}).job | {"importance": 0} | change
    with pytest.raises(UserError, match=text):
        run_jobs(FULL, [ModelJob(fields, [RowFacts()] * rows, 1)])


def test_jobs_that_do_not_end_in_time():
    fields = random_layer(np.random.default_rng(0), **DENSE | {"heads": 1}).job
    with pytest.raises(AssertionError, match="not ended after 1000 cycles"):
        run_jobs(FULL, [ModelJob(fields, [RowFacts()], 1)], limit=1_000)

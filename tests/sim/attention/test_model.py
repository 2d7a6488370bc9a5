"""The cycle model of the attention core against RTL: every counter of every job, in any memory."""

from itertools import pairwise

import numpy as np
import pytest

from hwgen.arch.attention import AttentionSizes, KeyMode, keep_count
from hwgen.arch.errors import UserError
from models.attention_engine.engine import AttentionEngine
from models.memory import Memory
from sim.attention.block import JobRun
from sim.attention.model import JobCycles, ModelJob, RowFacts, golden_job, run_jobs
from tests.models.attention_engine.support import SPAN, Layer, random_layer
from tests.sim.attention.support import DESCRIPTOR, FULL, SIZES, SMALL, block, images, random_job
from tests.sim.attention.test_core import DENSE, ENCODER, PRUNED
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
    assert counts(cycles) == counts(run)
    return run


def counts(job: JobRun | JobCycles) -> dict[str, int]:
    """What is compared."""
    return {name: getattr(job, name) for name in ("cycles", "products_busy", "read_beats", "write_beats")}


def held_job(rng: np.random.Generator, sizes: AttentionSizes, **choices: object) -> Layer:
    """A job that holds keys and values; half of them have room for two heads."""
    size = int(rng.choice([16, 32, 48, 64, 80, 128]))
    fits = 256 // sizes.words(size, 16) * 16
    keys = max(1, min(64, int(fits * rng.choice([0.5, 1])) - int(rng.integers(3))))
    return random_job(rng, hold=1, head_size=size, keys=keys, queries=int(rng.integers(1, 8)), **choices)


@pytest.mark.verilator
@pytest.mark.parametrize("hold", [0, 1])
@pytest.mark.parametrize("name", SMALL)
def test_random_jobs(name, hold, seed):
    """Heads that are gone, masks, causal rows, LSBs in every mode, pruned values; memories near, far and stalling."""
    for case in range(24):
        rng = np.random.default_rng([seed, case])
        mode = int(rng.choice(MODES))
        layer = held_job(rng, SIZES[name], key_mode=mode) if hold else random_job(rng, hold=0, key_mode=mode)
        alive = int(rng.integers(16)) if rng.random() < 0.3 else 15
        stalls = [never, never, every_fourth, at_random(case, 0.2), at_random(case, 0.6)][rng.integers(5)]
        print(f"case {case}: {layer.job}, alive {alive:04b}")
        check(name, layer, alive, latency=int(rng.choice([1, 7, 40])), stalls=stalls)


@pytest.mark.verilator
@pytest.mark.parametrize("hold", [0, 1])
@pytest.mark.parametrize("name", SMALL)
def test_long_rows(name, hold, seed):
    """Rows of up to five tiles: their maxima grow or not, tiles far below the maximum keep nothing."""
    sizes = SIZES[name]
    for case in range(12):
        rng = np.random.default_rng([seed, case, hold])
        size = int(rng.choice([16, 32, 48, 80]))
        most = min(320, sizes.buffer_words // sizes.words(size, 16) * 16) if hold else 320
        own = {"keys": int(rng.integers(min(65, most), most + 1)), "queries": int(rng.integers(1, 4)), "masked": 0}
        own |= {"head_size": size, "hold": hold, "importance": 0, "spread": [1, 40][case % 2]}
        layer = random_job(rng, **own, key_mode=int(rng.choice([KeyMode.NEVER, KeyMode.ALWAYS])))
        print(f"case {case}: {layer.job}")
        check(
            name, layer, 15, latency=int(rng.choice([1, 7, 40])), stalls=[never, at_random(case, 0.3)][rng.integers(2)]
        )


@pytest.mark.slow
@pytest.mark.verilator
@pytest.mark.parametrize(
    ("workload", "cycles"),
    [
        (DENSE | {"heads": 1}, 2_718),
        (PRUNED | {"heads": 12}, 22_841),
        (ENCODER | {"heads": 2}, 33_421),
        (ENCODER | {"heads": 4, "head_size": 32, "queries": 64, "keys": 64, "value_keep": keep_count(32, 64)}, 8_857),
    ],
    ids=["dense query", "pruned, 12 heads", "encoder, 2 heads of 64", "encoder, 4 heads of 32"],
)
def test_published_sizes(workload, cycles):
    """64 + 64 multipliers; the table in hwgen/attention/README.md."""
    layer = random_layer(np.random.default_rng(3), **workload)
    assert check("64", layer, (1 << layer.job["heads"]) - 1).cycles <= cycles


@pytest.mark.verilator
@pytest.mark.parametrize("latency", [1, 40])
def test_jobs_one_after_the_other(latency, seed):
    """The next job is read while one runs, and begins when it has ended."""
    sizes, core, contents, jobs = SIZES["32"], block("32"), {}, []
    for number in range(6):
        layer = random_job(np.random.default_rng([seed, number]), hold=number % 2, keys=20)
        jobs.append(model_job(layer, sizes, 15))
        place = number * 16 * SPAN
        layer.job |= {name: value + place for name, value in layer.job.items() if name.endswith("_addr")}
        contents |= {address + place: data for address, data in images(layer, sizes).items()}
    core.alive = 15
    runs = core.run_all([DESCRIPTOR + number * 16 * SPAN for number in range(6)], Memory(contents), latency=latency)
    together = run_jobs(sizes, jobs, latency=latency)
    assert [counts(job) for job in together] == [counts(run) for run in runs]
    for one, following in pairwise(together):
        assert following.begins == one.begins + one.cycles


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
        ({"keys": 2_049}, 2, "the job has 3 rows or tiles"),
        ({"keys": 2_049, "masked": 1}, 3, "a mask covers"),
        ({"heads": 17}, 1, "heads must be"),
        ({"queries": 2}, 1, "the job has 2 rows or tiles in heads that are alive, not 1"),
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

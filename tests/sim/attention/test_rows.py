"""What rows of the attention core may meet: LSBs key by key, rows that see no key, rows of several tiles."""

import numpy as np
import pytest

from hwgen.arch.attention import KEEP_FRACTION, KeyMode, keep_share
from models.attention_engine.engine import JobResult
from models.attention_engine.planes import join, split
from models.attention_engine.row import Plane, attend_row, tile_scores
from tests.models.attention_engine.support import Layer
from tests.sim.attention.support import SIZES, SMALL, check, random_job
from tests.support import at_random

pytestmark = pytest.mark.verilator

WHOLE = 1 << KEEP_FRACTION


def outcomes(layer: Layer, result: JobResult) -> set[str]:
    """Which cases of KEY the rows of a job are, all of them unsure."""
    found = set()
    for row in result.rows:
        planes = Plane(*split(layer.key[row.head // layer.job["group"], : row.keys]))
        seen = layer.mask[: row.keys]
        query, record = layer.query[row.head, row.query], layer.records[row.head]
        scores, picked = tile_scores(query, planes, seen, layer.job, record)
        if not seen.any():
            found.add("nothing seen")
        elif not picked.any():
            found.add("none")
        elif (picked == seen).all():
            found.add("all")
        else:
            highest = scores[picked].max() >= scores[seen & ~picked].max()
            found.add("picked are highest" if highest else "the rest is highest")
    return found


def spoil(layer: Layer) -> None:
    """LSBs that lower the scores of the first query of each head as far as they can."""
    for head in range(layer.job["heads"]):
        group, query = head // layer.job["group"], layer.query[head, 0]
        layer.key[group] = join(split(layer.key[group])[0], np.where(query > 0, -8, 7))


@pytest.mark.parametrize("hold", [0, 1])
@pytest.mark.parametrize("name", SMALL)
def test_lsbs_key_by_key(name, hold, seed):
    """The second softmax takes the maximum of all seen keys, also where it is of a key that was not picked."""
    found = set()
    for case in range(24):
        rng = np.random.default_rng([seed, case])
        own = {"cutoff": float(rng.choice([0.9, 0.4, 0.01])), "key_margin": int(rng.choice([0, 0, 16]))}
        own |= {"spread": float(rng.choice([0.5, 6])), "head_size": int(rng.choice([16, 32, 48])), "threshold": 2}
        if case % 2:
            own |= {"spread": 6, "cutoff": 0.9, "key_margin": 0, "key_bits": 4, "masked": 0}
        keys, queries = int(rng.integers(1, 65)), int(rng.integers(1, 5))
        layer = random_job(rng, key_low=1, key_mode=KeyMode.KEY, hold=hold, keys=keys, queries=queries, **own)
        if case % 2:
            spoil(layer)
        if case % 8 == 0:
            layer.job["masked"], layer.mask = 1, np.zeros(keys, dtype=np.bool_)
        tokens = rng.integers(0, 1 << 20, SIZES[name].max_length).tolist()
        stalls = at_random(case, float(rng.choice([0.1, 0.5])))
        found |= outcomes(layer, check(name, layer, 15, tokens, latency=int(rng.choice([1, 40])), stalls=stalls))
    assert found == {"none", "all", "picked are highest", "the rest is highest", "nothing seen"}


def tiles_of(layer: Layer, result: JobResult, length: int) -> set[str]:
    """What happens in the tiles of the rows of a job."""
    found = set()
    for row in result.rows:
        group, query, record = row.head // layer.job["group"], layer.query[row.head, row.query], layer.records[row.head]
        planes = [
            Plane(*split(integers[group, : row.keys]) if layer.job[f"{name}_low"] else [integers[group, : row.keys]])
            for name, integers in (("key", layer.key), ("value", layer.value))
        ]
        seen = np.ones(row.keys, dtype=np.bool_)
        scores = tile_scores(query, planes[0], seen, layer.job, record)[0]
        highest = [int(scores[start : start + length].max()) for start in range(0, row.keys, length)]
        found |= {"grows" if now > max(before) else "stays" for before, now in tile_maxima(highest)}
        fetched = attend_row(query, *planes, seen, layer.job, record, length).fetched
        found |= {"one tile" if len(highest) == 1 else "tiles"}
        found |= {"nothing kept" for values in fetched.values if len(values) == 0}
    return found


def tile_maxima(highest: list[int]) -> list[tuple[list[int], int]]:
    return [(highest[:number], highest[number]) for number in range(1, len(highest))]


@pytest.mark.parametrize("hold", [0, 1])
@pytest.mark.parametrize("name", SMALL)
def test_long_rows(name, hold, seed):
    """Rows of up to five tiles: the maximum grows or stays; pruned tiles far below the maximum keep nothing."""
    found, sizes = set(), SIZES[name]
    for case in range(16):
        rng = np.random.default_rng([seed, case, hold])
        own = {"head_size": int(rng.choice([16, 16, 32, 48, 80, 128])), "masked": 0, "importance": 0, "hold": hold}
        most = min(330, sizes.buffer_words // sizes.words(own["head_size"], 16) * 16) if hold else 330
        own |= {"keys": int(rng.integers(min(65, most - 1), most + 1)), "queries": int(rng.integers(1, 4))}
        own |= {"causal": int(rng.integers(2)), "offset": int(rng.integers(most)), "spread": [1, 40][case % 2]}
        own |= {"key_mode": int(rng.choice([KeyMode.NEVER, KeyMode.ALWAYS])), "heads": int(rng.choice([1, 2, 4]))}
        own |= {"value_keep": int(rng.choice([WHOLE, keep_share(0.5), keep_share(0.1)])), "group": 1}
        layer = random_job(rng, **own)
        print(f"case {case}: {layer.job}")
        stalls = at_random(case, float(rng.choice([0, 0.3])))
        result = check(name, layer, int(rng.choice([15, 13])), [0] * sizes.max_length, latency=20, stalls=stalls)
        found |= tiles_of(layer, result, sizes.max_length)
    assert found == {"grows", "stays", "one tile", "tiles", "nothing kept"}


@pytest.mark.parametrize("hold", [0, 1])
@pytest.mark.parametrize("share", [WHOLE, keep_share(0.3)])
@pytest.mark.parametrize("name", SMALL)
def test_rows_that_see_no_key(name, share, hold, seed):
    """Masks without a key, in every mode of keys, and causal ones whose first keys are hidden: outputs of +0."""
    for mode in KeyMode:
        rng = np.random.default_rng([seed, mode])
        hidden, own = int(rng.integers(3, 30)), {"head_size": 32, "masked": 1, "threshold": 2, "importance": 1}
        own |= {"value_keep": share, "key_low": 1, "value_low": 1, "value_mode": 1, "hold": hold, "key_mode": mode}
        none = random_job(rng, keys=hidden, mask=[False] * hidden, **own)
        some = np.arange(hidden + 1) == hidden
        late = random_job(rng, keys=hidden + 1, mask=some, causal=1, queries=3, offset=hidden - 2, **own)
        for layer in (none, late):
            tokens = rng.integers(0, 1 << 20, SIZES[name].max_length).tolist()
            result = check(name, layer, 15, tokens, stalls=at_random(seed, 0.3))
            assert any(row.values == 0 for row in result.rows)

"""Whole jobs against PyTorch's scaled_dot_product_attention in float64: inputs at the edge, short rows and tiled ones.

Bounds are the errors of the parts, as the contract page has them, carried through sums and tiles.
"""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from hwgen.arch.attention import KEEP_FRACTION, KeyMode, ValueMode, keep_share, key_limits, softmax_scale, sum_limit
from models.attention_engine.row import Plane, attend_row, matters
from models.attention_engine.softmax import row_exponentials
from tests.models.attention_engine.support import SIZES, Layer, random_layer

UNIT = 2.0**-16
MODES = {"key_low": 1, "value_low": 1, "key_mode": KeyMode.ALWAYS, "value_mode": ValueMode.ALWAYS}
"""All bits, so that the engine computes what PyTorch does."""
WHOLE = {**MODES, "value_keep": 1 << KEEP_FRACTION, "query_bits": 12, "key_bits": 8, "value_bits": 8, "head_size": 32}
LIMIT = 2**11 - 1
"""Largest integer of queries, keys and values with these bits."""


def as_drawn(layer: Layer) -> None:
    """Normal values."""


def equal_keys(layer: Layer) -> None:
    layer.key[:] = layer.key[:, :1]


def equal_values(layer: Layer) -> None:
    layer.value[:] = LIMIT


def no_query(layer: Layer) -> None:
    layer.query[:] = 0


def near_ties(layer: Layer) -> None:
    """Keys that differ in the last bit of one element."""
    layer.key[:] = layer.key[:, :1] // 2
    layer.key[:, 1::2, 0] += 1


def saturated(layer: Layer) -> None:
    """Largest magnitudes everywhere: rows with one probability of 1 among zeros."""
    for tensor in (layer.query, layer.key, layer.value):
        tensor[:] = np.where(tensor < 0, -LIMIT, LIMIT)
    rescale(layer, 0.5)


def huge_key(layer: Layer) -> None:
    """One key as long as it can be among small ones, the last of them."""
    layer.key //= 64
    layer.key[:, -1] = np.where(layer.query[0, 0] < 0, -LIMIT, LIMIT)


def rising(layer: Layer) -> None:
    """Each key scores more than the one before it, so every tile raises the maximum."""
    layer.query[:], layer.key[:] = 0, 0
    layer.query[..., 0] = 1
    layer.key[..., 0] = np.arange(layer.key.shape[1]) * LIMIT // layer.key.shape[1]
    rescale(layer, 40 / LIMIT)


def tail(depth: float):
    """All keys but one are `depth` powers of two below it; near 17 all of them round up, or all of them down."""

    def change(layer: Layer) -> None:
        rising(layer)
        layer.key[..., 0] = 0
        layer.key[:, -1, 0] = LIMIT
        rescale(layer, depth * math.log(2) / LIMIT)

    return change


INPUTS = {
    "as drawn": as_drawn,
    "equal keys": equal_keys,
    "equal values": equal_values,
    "no query": no_query,
    "near ties": near_ties,
    "saturated": saturated,
    "huge key": huge_key,
    "rising": rising,
    "tail that rounds up": tail(16.98),
    "tail that rounds down": tail(17.02),
}


def rescale(layer: Layer, scale: float) -> None:
    """The same softmax scale for all heads."""
    for record in layer.records:
        record["scale_mantissa"], record["scale_exponent"] = softmax_scale(scale)


def pytorch(layer: Layer) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Seen keys [queries, keys], octaves of scores [heads, queries, keys], outputs [heads, queries, D], token sums."""
    job, group = layer.job, layer.job["group"]
    octave = np.array([one["scale_mantissa"] * 2.0 ** -one["scale_exponent"] for one in layer.records])[:, None, None]
    seen = np.broadcast_to(layer.mask, (job["queries"], job["keys"])).copy()
    if job["causal"]:
        seen &= np.tri(job["queries"], job["keys"], job["offset"], dtype=bool)
    query, key, value = (torch.from_numpy(one.astype(float))[None] for one in (layer.query, layer.key, layer.value))
    options = {"attn_mask": torch.from_numpy(seen), "scale": 1.0, "enable_gqa": True}
    query = query * torch.from_numpy(octave * math.log(2))
    output = scaled_dot_product_attention(query, key, value, **options)[0].numpy()
    tokens = np.zeros(job["keys"])
    if job["importance"]:  # Probabilities are outputs for values of which each has an element of its own.
        single = torch.eye(job["keys"], dtype=torch.float64).expand(1, len(layer.key), -1, -1)
        tokens = scaled_dot_product_attention(query, key, single, **options)[0][:, seen.any(1)].sum((0, 1)).numpy()
    scores = layer.query @ layer.key.repeat(group, axis=0).transpose(0, 2, 1) * octave
    return seen, scores, output * layer.value_step.astype(float)[:, None, None], tokens


def slack(power: np.ndarray) -> np.ndarray:
    """How far e may be from `power`, in units of 2^-16; what is below half a unit is 0."""
    return np.where(power < 0.4999 * UNIT, power / UNIT, 0.5 + 1.25 * power)


def bounds(scores: np.ndarray, values: np.ndarray, tile: int) -> tuple[np.ndarray, np.ndarray]:
    """Largest errors of the probabilities [n] (of rows of one tile) and outputs [D] of a row that sees all `scores`."""
    top, total, total_off, sums_off = -math.inf, 0.0, 0.0, np.zeros(values.shape[1])
    sums = np.zeros(values.shape[1])
    for start in range(0, len(scores), tile):
        part, largest = slice(start, start + tile), np.abs(values[start : start + tile])
        if scores[part].max() > top:
            factor = 2.0 ** (top - scores[part].max())
            off = float(slack(np.float64(factor))) if start else 0.0
            total_off = total_off * (factor + off * UNIT) + total * off + 0.5 * bool(start)
            sums_off = sums_off * (factor + off * UNIT) + np.abs(sums) * off + 0.5 * bool(start)
            total, sums, top = total * factor, sums * factor, scores[part].max()
        power = np.exp2(scores[part] - top)
        total, sums = total + power.sum(), sums + power @ values[part]
        total_off, sums_off = total_off + slack(power).sum(), sums_off + slack(power) @ largest
    least, share = total - total_off * UNIT, np.exp2(scores - top) / total
    p_off = ((slack(np.exp2(scores - top)) + share * total_off) / least + 0.5 + share / 4) * UNIT
    return p_off, (sums_off + np.abs(sums / total) * total_off) / least * UNIT + np.abs(sums / total) * 2.0**-17.9


def compare(layer: Layer) -> None:
    """Run a job; outputs, importance of tokens and importance of heads are those of PyTorch."""
    job, found, engine = layer.job, [], layer.engine()
    seen, scores, outputs, tokens = pytorch(layer)
    engine.importance.tokens[:] = 12345
    engine.run(job, found.append)
    written, tokens_off = layer.outputs(engine).astype(float), np.zeros(job["keys"])
    for number, row in enumerate(found):
        head, query = divmod(number, job["queries"])
        here = seen[query]
        if not here.any():
            assert not written[head, query].any()
            continue
        step = float(layer.value_step[head])
        p_off, off = bounds(scores[head, query, here], layer.value[head // job["group"]][here], SIZES.max_length)
        wanted = outputs[head, query]
        assert (np.abs(row.output - wanted) <= off * step + 1e-12).all(), f"head {head}, query {query}"
        rounding = np.abs(wanted) * 2.0**-11 + off * step * (1 + 2.0**-10) + 2.0**-24
        assert (np.abs(written[head, query] - wanted) <= rounding).all()
        tokens_off[here] += p_off / UNIT
    if job["importance"]:
        found_tokens = engine.importance.tokens[: job["keys"]] * UNIT
        assert (np.abs(found_tokens - tokens) <= tokens_off * UNIT + 1e-9).all()
        assert (engine.importance.tokens[job["keys"] :] == 12345).all()
        magnitudes = np.abs(written).sum((1, 2))
        limit = magnitudes * 2.0**-11 + (2.0**-9 + 2.0**-24) * job["queries"] * job["head_size"]
        assert (np.abs(engine.importance.heads[: job["heads"]] / 256 - magnitudes) <= limit).all()


@pytest.mark.parametrize("keys", [1, 2, 512])
@pytest.mark.parametrize("kind", INPUTS)
def test_jobs_are_attention_in_float64(kind, keys, seed):
    """With masks, causal ranges and grouped heads as they are drawn; what was known of the keys is forgotten."""
    for case in range(4):
        sizes = {"heads": 4, "queries": 3, "keys": keys, "importance": 1, "forget": 0, "hold": 0}
        layer = random_layer(np.random.default_rng([seed, case, keys]), **sizes, **WHOLE)
        INPUTS[kind](layer)
        compare(layer)


@pytest.mark.parametrize("kind", INPUTS)
def test_long_rows_are_attention_in_float64(kind, seed):
    """16,384 keys in 16 tiles."""
    sizes = {"heads": 1, "queries": 1, "keys": 16384, "importance": 0, "masked": 0, "causal": 0, "hold": 0}
    layer = random_layer(np.random.default_rng(seed), **sizes, **WHOLE)
    INPUTS[kind](layer)
    compare(layer)


@pytest.mark.parametrize("masked", [0, 1])
def test_one_seen_key_is_its_value(masked, seed):
    """Whatever its score: probability 1, and outputs that are the value, off by the step to FP16 and 2^-17."""
    sizes = {"keys": 40, "masked": 1, "mask": np.arange(40) == 23} if masked else {"keys": 1, "masked": 0}
    layer = random_layer(np.random.default_rng(seed), causal=0, importance=1, forget=0, **sizes, **WHOLE)
    saturated(layer)
    engine = layer.engine()
    engine.run(layer.job)
    place, rows = 23 * masked, layer.job["heads"] * layer.job["queries"]
    assert engine.importance.tokens[place] == rows << 16
    assert engine.importance.tokens.sum() == rows << 16
    value = layer.value[:, place].repeat(layer.job["group"], axis=0) * layer.value_step.astype(float)[:, None]
    assert (np.abs(layer.outputs(engine) - value[:, None]) <= np.abs(value[:, None]) * (2.0**-11 + 2.0**-17)).all()


def kept_by_sorting(row, tile: int, share: int) -> list[int]:
    """What a row keeps by the definition: of each tile the largest e, lower indices first among equals."""
    kept = []
    for number, one in enumerate(row.tiles):
        places = sorted(np.flatnonzero(one.seen).tolist(), key=lambda place, e=one.e: (-int(e[place]), place))
        count = -(-len(places) * share // (1 << KEEP_FRACTION))
        kept += sorted(number * tile + place for place in places[:count] if one.e[place])
    return kept


@pytest.mark.parametrize("kind", ["as drawn", "equal keys", "near ties", "saturated", "huge key"])
@pytest.mark.parametrize(("keys", "tile"), [(100, 1024), (100, 16), (2500, 1024)])
def test_kept_values_are_the_first_of_the_largest(kind, keys, tile, seed):
    """Many equal e, in whole rows with masks and in tiles; sums are those of the kept values alone."""
    for share in (0.01, 0.3, 0.999):
        choices = WHOLE | {"value_keep": keep_share(share), "heads": 1, "group": 1, "queries": 2, "keys": keys}
        layer = random_layer(np.random.default_rng([seed, keys]), **choices, causal=0, masked=int(tile > keys))
        INPUTS[kind](layer)
        keys_plane, values_plane = Plane(layer.key[0]), Plane(layer.value[0])
        for query in layer.query[0]:
            row = attend_row(query, keys_plane, values_plane, layer.mask, layer.job, layer.records[0], tile)
            kept = np.concatenate(row.fetched.values).tolist()
            assert kept == kept_by_sorting(row, tile, layer.job["value_keep"])
            if len(row.tiles) == 1:
                assert row.sums.tolist() == (row.tiles[0].e[kept] @ layer.value[0][kept]).tolist()
        if kind == "equal keys":
            firsts = []
            for start in range(0, keys, tile):
                seen = start + np.flatnonzero(layer.mask[start : start + tile])
                firsts += seen[: math.ceil(share * len(seen))].tolist()
            assert kept == firsts


@pytest.mark.parametrize("mode", [KeyMode.ROW, KeyMode.KEY])
def test_a_probability_that_is_the_threshold_is_confident(mode):
    """m equal keys have 1 / m each: no LSBs at that threshold, and LSBs with one more of them that is seen."""
    for m in [*range(1, 60), 100, 999, 1023]:
        zeros = Plane(np.zeros((1024, 16), np.int64), np.zeros((1024, 16), np.int64))
        mantissa, exponent = softmax_scale(0.1)
        record = {"scale_mantissa": mantissa, "scale_exponent": exponent, "sum_limit": sum_limit(1 / m)}
        record |= {"key_gap": 1000, "key_octave": 1, "value_scale": 0}
        job = {"key_mode": mode, "key_margin": 16, "value_mode": 0, "value_keep": 1 << KEEP_FRACTION}
        for count in (m, m + 1):
            seen = np.arange(1024) >= 1024 - count
            row = attend_row(np.ones(16, np.int64), zeros, zeros, seen, job, record, 1024)
            fetched = {KeyMode.ROW: 1024, KeyMode.KEY: count}[mode] * (count > m)
            assert len(row.fetched.key_lows[0]) == fetched, f"{count} keys at 1 / {m}"


def test_the_key_bound_is_off_by_no_more_than_the_sum():
    """A row whose S just reaches an octave that the exact sum does not: the most that a key left out can come to."""
    scale, cutoff, most = 1e-4, 0.001, 0.0
    octave, (mantissa, exponent) = math.log(2) / scale, softmax_scale(scale)
    gap, less = key_limits(cutoff, scale)
    scores = np.full(1024, -round(16.99 * octave))
    scores[0], scores[2] = 0, less - gap - 17  # one unit farther than the reach of a row of two
    for share in np.arange(0.98, 1, 0.0005):
        scores[1] = round(math.log2(share) * octave)
        total = int(row_exponentials(scores, np.ones(1024, bool), 0, (mantissa, exponent)).sum())
        job, record = {"key_margin": 16}, {"key_gap": gap, "key_octave": less}
        if not matters(scores, np.array([1]), total, job, record)[2]:
            p = np.exp(scores[2] * scale) / np.exp(scores * scale).sum()
            up, down = p * math.exp(8 * scale), (1 - p) * math.exp(-8 * scale)
            most = max(most, up / (up + down))
    assert 1.0025 * cutoff < most < 1.004 * cutoff

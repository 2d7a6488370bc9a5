"""Whole jobs against attention in float64 on the same integers, and what must not change a bit."""

from dataclasses import replace

import numpy as np
import pytest

from hwgen.arch.attention import KEEP_FRACTION, AttentionSizes, KeyMode, ValueMode, keep_count
from models.attention_engine.planes import join, middle, row_bytes, split
from models.attention_engine.row import Plane, attend_row
from tests.models.attention_engine.support import SIZES, Layer, random_integers, random_layer

CASES = 150


def seen_keys(layer: Layer, query: int) -> np.ndarray:
    """Mask over the keys in the range of a row."""
    job = layer.job
    length = min(job["keys"], job["offset"] + query + 1) if job["causal"] else job["keys"]
    return layer.mask[:length]


def softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def planes(layer: Layer, head: int) -> tuple[Plane, Plane]:
    kv = head // layer.job["group"]
    return tuple(
        Plane(*split(integers[kv])) if layer.job[f"{word}_low"] else Plane(integers[kv])
        for word, integers in (("key", layer.key), ("value", layer.value))
    )


def rows(layer: Layer, sizes: AttentionSizes = SIZES):
    """Every row of a layer with its place, without the engine around it."""
    for head in range(layer.job["heads"]):
        keys, values = planes(layer, head)
        for query in range(layer.job["queries"]):
            seen = seen_keys(layer, query)
            parts = (plane.part(slice(len(seen))) for plane in (keys, values))
            arguments = (seen, layer.job, layer.records[head], sizes.max_length)
            yield head, query, seen, attend_row(layer.query[head, query], *parts, *arguments)


def reference(layer: Layer, head: int, query: int, seen: np.ndarray, refined: np.ndarray, kept: np.ndarray, low: bool):
    """Probabilities and outputs in float64, given which LSBs and values were used."""
    keys, values = planes(layer, head)
    exact, rough = keys.exact()[: len(seen)], keys.rough()[: len(seen)]
    scores = np.where(refined[:, None], exact, rough).astype(float) @ layer.query[head, query] * layer.scale[head]
    weights = np.zeros(len(seen))
    weights[seen] = softmax(scores[seen])
    used = (values.exact() if low else values.rough())[: len(seen)] * float(layer.value_step[head])
    return weights, (weights * kept) @ used, np.abs(used).max()


def as_mask(places: np.ndarray, length: int) -> np.ndarray:
    mask = np.zeros(length, dtype=bool)
    mask[places] = True
    return mask


def test_against_float64(seed):
    """Outputs within n errors of e in the sum and in the weights, 2^-16 each, and the rounding to FP32."""
    for case in range(CASES):
        layer = random_layer(np.random.default_rng([seed, case]))
        for head, query, seen, row in rows(layer):
            if not seen.any():
                assert not row.output.any()
                assert not row.probabilities.any()
                assert row.total == 0
                continue
            length = len(seen)
            refined, kept = as_mask(row.fetched.key_lows[0], length), as_mask(row.fetched.values[0], length)
            low = len(row.fetched.value_lows[0]) > 0
            weights, output, largest = reference(layer, head, query, seen, refined, kept, low)
            limit = (1.9 * (1 + length * weights) * weights.max() + 2) * 2**-16
            assert (np.abs(row.probabilities * 2.0**-16 - weights) <= limit).all(), f"case {case}"
            assert np.abs(row.output - output).max() <= largest * (limit.sum() + 1e-6), f"case {case}"


def test_rows_fetch_low_bits_as_their_mode_says(seed):
    """Row test against the exact probability, ROW and ALWAYS whole rows; KEY: all that might reach the cutoff."""
    tested = set()
    for case in range(CASES):
        rng = np.random.default_rng([seed, case, 1])
        cutoff, threshold = 0.01, 0.3
        choices = {"key_low": 1, "key_margin": 16, "cutoff": cutoff, "threshold": threshold}
        layer = random_layer(rng, **choices)
        mode = layer.job["key_mode"]
        for head, query, seen, row in rows(layer):
            refined = as_mask(row.fetched.key_lows[0], len(seen))
            weights, *_ = reference(layer, head, query, seen, refined & False, seen, False) if seen.any() else (seen,)
            largest = weights.max()
            if mode == KeyMode.NEVER or not seen.any() or (mode != KeyMode.ALWAYS and largest > threshold + 0.01):
                assert not refined.any()
            elif mode == KeyMode.ALWAYS or (mode == KeyMode.ROW and largest < threshold - 0.01):
                assert refined.all()
            elif largest < threshold - 0.01:
                margin = 8 * np.abs(layer.query[head, query]).sum() * layer.scale[head]
                highest = weights * np.exp(2 * margin)
                possible = seen & (highest / (highest + 1 - weights) >= cutoff * 1.02)
                assert refined[possible].all()
                assert not refined[~seen].any()
                tested.add(bool(refined[seen].all()))
    assert tested == {True, False}, "KEY was never partial"


def test_kept_values_are_the_largest(seed):
    for case in range(CASES):
        rng = np.random.default_rng([seed, case, 2])
        layer = random_layer(rng, masked=0, value_keep=int(rng.integers(1, (1 << KEEP_FRACTION) - 1)))
        for _, _, seen, row in rows(layer):
            share = layer.job["value_keep"] / (1 << KEEP_FRACTION)
            kept, weights = as_mask(row.fetched.values[0], len(seen)), row.probabilities
            assert kept.sum() <= np.ceil(share * len(seen))
            if kept.any() and not kept.all():
                assert weights[kept].min() >= weights[~kept].max()
                if kept.sum() < np.ceil(share * len(seen)):
                    assert weights[~kept].max() <= 1


@pytest.mark.parametrize("keys", [1, 7, 204, 921, 1024])
def test_counts_of_values(keys):
    for count in {1, 2, keys // 3, keys - 1, keys} & set(range(1, keys + 1)):
        assert -(-keys * keep_count(count, keys) >> KEEP_FRACTION) == count


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_both_planes_equal_one_wide_plane(bits, seed):
    """4 + 4 bits with LSBs always fetched are 8 bits in one plane."""
    rng = np.random.default_rng(seed)
    for _ in range(20):
        choices = {"key_bits": bits, "value_bits": bits, "key_low": 1, "value_low": 1}
        modes = {"key_mode": KeyMode.ALWAYS, "value_mode": ValueMode.ALWAYS}
        layer = random_layer(rng, **choices, **modes)
        wide = replace(layer, job=layer.job | {"key_bits": bits + 4, "value_bits": bits + 4})
        wide.job.update(key_low=0, value_low=0)
        for (_, _, _, first), (_, _, _, second) in zip(rows(layer), rows(wide), strict=True):
            assert first.sums.tolist() == second.sums.tolist()
            assert first.probabilities.tolist() == second.probabilities.tolist()


def test_order_of_keys_does_not_matter(seed):
    """Without ties at the edge of the values kept: sums are exact, so nothing but places changes."""
    rng = np.random.default_rng(seed)
    for _ in range(40):
        layer = random_layer(rng, causal=0, value_keep=1 << KEEP_FRACTION)
        order = rng.permutation(layer.job["keys"])
        moved = replace(layer, key=layer.key[:, order], value=layer.value[:, order], mask=layer.mask[order])
        for (_, _, _, first), (_, _, _, second) in zip(rows(layer), rows(moved), strict=True):
            assert first.sums.tolist() == second.sums.tolist()
            assert first.probabilities[order].tolist() == second.probabilities.tolist()


@pytest.mark.parametrize("tile", [16, 64])
def test_tiles_agree_with_one_row(tile, seed):
    """The running maximum costs one rounding of the sums for each tile that raises it."""
    rng, differ = np.random.default_rng(seed), 0
    for _ in range(40):
        layer = random_layer(rng, keys=200, importance=0, key_mode=0, value_keep=1 << KEEP_FRACTION)
        for (_, _, seen, whole), (_, _, _, parts) in zip(rows(layer), rows(layer, AttentionSizes(max_length=tile))):
            assert abs(whole.total - parts.total) <= len(seen) + 16
            largest = np.abs(layer.value).max() * 2.0 ** (4 * layer.job["value_low"])
            assert (np.abs(whole.sums - parts.sums) <= (len(seen) + 16) * largest).all()
            differ += whole.sums.tolist() != parts.sums.tolist()
    assert differ, "no tile raised the maximum"


def test_middle_is_off_by_half_a_step_at_most(seed):
    msb, low = split(random_integers(np.random.default_rng(seed), (1000,), 10))
    assert np.abs(join(msb, low) - middle(msb)).max() == 8
    assert row_bytes(64, 6) == 48

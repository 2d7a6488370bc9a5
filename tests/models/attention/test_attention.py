"""One layer against float64 loops and against PyTorch, with masks, ties and every bit split."""

import math

import numpy as np
import pytest
import torch

from models.attention import Quantization, Schedule
from models.attention.attention import Magnitudes, attend
from models.attention.quantize import SPLITS
from tests.models.attention import support


def operands(seed, batch=2, heads=4, groups=2, queries=5, keys=9, dim=16):
    print(f"seed {seed}")
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(batch, heads, queries, dim, generator=generator)
    k, v = (torch.randn(batch, groups, keys, dim, generator=generator) for _ in range(2))
    visible = torch.rand(batch, 1, queries, keys, generator=generator) < 0.8
    visible[0, 0, 2] = False
    visible[1, 0, :, 4] = False
    return q, k, v, visible


def magnitudes(q, k, v):
    return Magnitudes(*(tensor.abs().amax((2, 3)) for tensor in (q, k, v)))


def integers(tensor, bits, lsb, msb_only):
    """Quantise a head [n, D] in numpy, in float32 as the contract says."""
    step = np.float32(np.abs(tensor).max()) / np.float32(2 ** (bits - 1) - 1)
    q = np.rint(tensor * (np.float32(1) / step)).astype(np.int64)
    return (np.floor_divide(q, 2**lsb) * 2**lsb + 2 ** (lsb - 1) if msb_only else q), float(step)


def row_reference(q, k, v, seen, scaling, share, quantization):
    """Output, probabilities, kept and LSB keys of one row in float64."""
    if quantization is None:
        scores = k.astype(float) @ q.astype(float) * scaling
    else:
        (qi, sq), (kf, sk) = q, k[0]
        scores = k[1][0] @ qi * (sq * sk * scaling)
        exact = kf @ qi * (sq * sk * scaling)
    p = np.zeros(len(seen))
    lsb = np.zeros(len(seen), dtype=bool)
    if not seen.any():
        return np.zeros(v.shape[1]), p, lsb, lsb
    p[seen] = support.softmax_rows(scores[seen])
    if quantization is not None and p.max() < quantization.threshold:
        lsb = seen.copy()
        if quantization.cutoff is not None:
            bound = np.abs(qi).sum() * 2 ** (quantization.lsb - 1) * sq * sk * scaling
            lsb &= p * math.exp(2 * bound) >= quantization.cutoff
        p[seen] = support.softmax_rows(np.where(lsb, exact, scores)[seen])
    places = np.flatnonzero(seen)
    kept = np.zeros(len(seen), dtype=bool)
    kept[places[support.largest(p[places], math.ceil(round(share * len(places), 9)))]] = True
    return (p * kept) @ v, p, kept, lsb


def reference(q, k, v, visible, scaling, share, quantization):
    found = [np.zeros((*q.shape[:3], n)) for n in (q.shape[3], k.shape[2], k.shape[2], k.shape[2])]
    for b, h in np.ndindex(*q.shape[:2]):
        g = h * k.shape[1] // q.shape[1]
        query, key, value = q[b, h], k[b, g], v[b, g].astype(float)
        if quantization is not None:
            bits, lsb = quantization.bits, quantization.lsb
            query, step = integers(query, bits, lsb, False)
            key = [integers(key, bits, lsb, msb_only) for msb_only in (False, True)]
            value, value_step = integers(v[b, g], bits, lsb, quantization.value_lsb == "never")
            value = value * value_step
        for i in range(q.shape[2]):
            row = query[i] if quantization is None else (query[i], step)
            parts = row_reference(row, key, value, visible[b, 0, i], scaling, share, quantization)
            for whole, part in zip(found, parts):
                whole[b, h, i] = part
    return found


QUANTIZATIONS = [
    None,
    *(Quantization(msb=msb, lsb=lsb, threshold=0.5) for msb, lsb in SPLITS),
    Quantization(threshold=0),
    Quantization(threshold=2),
    Quantization(threshold=0.6, cutoff=0.1),
    Quantization(msb=4, threshold=0.6, cutoff=0.02, value_lsb="never"),
]


@pytest.mark.parametrize("quantization", QUANTIZATIONS, ids=str)
@pytest.mark.parametrize("share", [1.0, 0.6, 0.1])
def test_equals_float64_loops(quantization, share):
    q, k, v, visible = operands(11)
    found = attend(
        q,
        k,
        v,
        visible,
        0.25,
        values=(Schedule(shares=(share,)), 0),
        quantization=quantization,
        magnitudes=magnitudes(q, k, v),
    )
    output, p, kept, lsb = reference(*(t.numpy() for t in (q, k, v, visible)), 0.25, share, quantization)
    np.testing.assert_array_equal(found.lsb_keys.numpy(), lsb)
    np.testing.assert_array_equal(found.values_kept.numpy(), kept)
    np.testing.assert_allclose(found.probabilities.numpy(), p, atol=2e-6)
    np.testing.assert_allclose(found.output.numpy(), output, atol=1e-5)


def test_equals_pytorch_without_pruning():
    q, k, v, visible = operands(12)
    visible[0, 0, 2, 0] = True
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, visible, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(attend(q, k, v, visible, 0.3).output, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("quantization", [None, Quantization(), Quantization(cutoff=0.1)], ids=str)
def test_rows_without_keys_are_zero(quantization):
    q, k, v, visible = operands(13)
    visible[:] = False
    found = attend(
        q,
        k,
        v,
        visible,
        0.25,
        values=(Schedule(shares=(0.5,)), 0),
        quantization=quantization,
        magnitudes=magnitudes(q, k, v),
    )
    for tensor in (found.output, found.probabilities, found.values_kept, found.lsb_keys):
        assert not tensor.any()


def test_equal_probabilities_keep_the_lower_index():
    q, k, v = torch.ones(1, 1, 1, 16), torch.ones(1, 1, 8, 16), torch.ones(1, 1, 8, 16)
    visible = torch.ones(1, 1, 1, 8, dtype=torch.bool)
    visible[..., 1] = False
    kept = attend(q, k, v, visible, 0.25, values=(Schedule(caps=(3,)), 0)).values_kept
    assert kept[0, 0, 0].int().tolist() == [1, 0, 1, 1, 0, 0, 0, 0]


def test_thresholds_of_values_are_shares_of_the_mean():
    q, k, v, visible = operands(14)
    found = attend(q, k, v, visible, 0.25, values=(Schedule(thresholds=(0.5,)), 0))
    p = found.probabilities
    expected = visible & (p >= 0.5 / visible.sum(-1, keepdim=True).clamp(min=1))
    assert torch.equal(found.values_kept, expected)
    assert 0 < expected.sum() < visible.expand_as(expected).sum()


def test_lsbs_of_values_with_those_of_keys():
    q, k, v, visible = operands(15)
    arguments = (q, k, v, visible, 0.25)
    kinds = {
        when: attend(
            *arguments, quantization=Quantization(threshold=0.4, value_lsb=when), magnitudes=magnitudes(q, k, v)
        )
        for when in ("never", "with_keys", "always")
    }
    rows = kinds["with_keys"].lsb_keys.any(-1)
    assert 0 < rows.sum() < rows.numel()
    mixed = torch.where(rows[..., None], kinds["always"].output, kinds["never"].output)
    torch.testing.assert_close(kinds["with_keys"].output, mixed, atol=1e-6, rtol=1e-6)
    assert torch.equal(kinds["with_keys"].values_lsb, visible & rows[..., None])


def test_keys_alone_fetch_a_part_of_what_rows_do():
    q, k, v, visible = operands(16)
    row, key = (
        attend(
            q,
            k,
            v,
            visible,
            0.25,
            quantization=Quantization(cutoff=cutoff, threshold=0.5),
            magnitudes=magnitudes(q, k, v),
        )
        for cutoff in (None, 0.1)
    )
    assert not (key.lsb_keys & ~row.lsb_keys).any()
    assert 0 < key.lsb_keys.sum() < row.lsb_keys.sum()

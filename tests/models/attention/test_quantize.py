"""Planes, scales and the bound on probabilities, against numpy and against the definition."""

import numpy as np
import pytest
import torch

from models.attention.quantize import SPLITS, join, margin, may_reach, middle, planes, products, quantize, scale_of


def values(seed, *shape):
    print(f"seed {seed}")
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("msb", "lsb"), SPLITS)
def test_planes_join_to_the_integers(msb, lsb):
    bits = msb + lsb
    x = values(1, 400)
    q = quantize(x, scale_of(x.abs().max(), bits), bits)
    high, low = planes(q, lsb)
    assert torch.equal(join(high, low, lsb), q)
    assert q.abs().max() == 2 ** (bits - 1) - 1
    assert -(2 ** (msb - 1)) <= high.min() <= high.max() < 2 ** (msb - 1)
    assert 0 <= low.min() <= low.max() < 2**lsb


@pytest.mark.parametrize(("msb", "lsb"), SPLITS)
def test_equals_numpy_in_float32(msb, lsb):
    x = values(2, 999)
    step = np.float32(x.abs().max().item()) / np.float32(2 ** (msb + lsb - 1) - 1)
    expected = np.rint(x.numpy() * (np.float32(1) / step))
    np.testing.assert_array_equal(quantize(x, scale_of(x.abs().max(), msb + lsb), msb + lsb).numpy(), expected)


def test_values_beyond_the_scale_saturate():
    assert quantize(torch.tensor([9.0, -9.0, 0.0, 0.6]), torch.tensor(0.01), 8).tolist() == [127, -127, 0, 60]


def test_a_tensor_of_zeros_has_a_scale():
    assert scale_of(torch.zeros(2), 8).tolist() == [1, 1]


def test_middle_is_the_middle():
    high, _ = planes(torch.arange(-127, 128), 4)
    error = middle(high, 4) - torch.arange(-127, 128)
    assert (int(error.min()), int(error.max())) == (-7, 8)


def test_products_are_exact():
    seed = 4
    print(f"seed {seed}")
    random = np.random.default_rng(seed)
    q, k = (random.integers(-32767, 32768, (5, 128)) for _ in range(2))
    exact = [[sum(int(a) * int(b) for a, b in zip(row, column)) for column in k] for row in q]
    assert products(torch.from_numpy(q), torch.from_numpy(k)).tolist() == exact


@pytest.mark.parametrize(("msb", "lsb"), SPLITS)
@pytest.mark.parametrize("cutoff", [0.001, 0.05, 0.3])
def test_keys_left_out_cannot_reach_the_cutoff(msb, lsb, cutoff):
    bits, unit = msb + lsb, 2.0 ** -(msb + lsb + 4)
    x, y = values(5, 40, 16), values(6, 70, 16)
    q, k = (quantize(t, scale_of(t.abs().max(), bits), bits) for t in (x, y))
    coarse = products(q, middle(planes(k, lsb)[0], lsb)) * unit
    exact = products(q, k) * unit
    assert ((coarse - exact).abs() <= margin(q, lsb) * unit).all()
    may = may_reach(coarse.softmax(-1), margin(q, lsb) * unit, cutoff)
    assert (exact.softmax(-1)[~may] < cutoff).all()
    assert may[exact.softmax(-1) >= cutoff].all()


def test_the_bound_leaves_keys_out():
    q, k = torch.full((1, 4), 100), torch.tensor([[1, 1, 1, 1], [9, 9, 9, 9]]) * 16
    coarse = products(q, middle(planes(k, 4)[0], 4)) * 1e-3
    assert may_reach(coarse.softmax(-1), margin(q, 4) * 1e-4, 0.01).tolist() == [[False, True]]

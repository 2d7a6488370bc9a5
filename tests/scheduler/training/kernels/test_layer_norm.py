"""Layer normalisation and its gradients on the golden machine against PyTorch in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hwgen.arch.isa import Format
from scheduler.training.kernels.layer_norm import layer_norm, layer_norm_grad
from tests.scheduler.training.machine_support import TINY, Bench, arch8, operands, read_row

CASES = {
    # name: arch, shape [N, H, W, C], gamma, beta, mean of the input
    "whole words": (TINY, (3, 1, 5, 16), True, True, 0),
    "padding": (TINY, (5, 1, 3, 10), True, True, 1),
    "one word": (TINY, (2, 1, 9, 3), True, True, 0),
    "plain": (TINY, (2, 1, 4, 6), False, False, 2),
    "no beta": (TINY, (2, 2, 2, 8), True, False, 0),
    "no gamma": (TINY, (2, 2, 2, 7), False, True, 0),
    "wide": (arch8(), (9, 1, 20, 100), True, True, -3),
}
EPS = 1e-5


@pytest.fixture(params=CASES)
def case(request, seed):
    arch, shape, gamma, beta, mean = CASES[request.param]
    rng = np.random.default_rng(seed)
    values = [operands(rng, *shape) * 2 + mean, operands(rng, *shape), *rng.standard_normal((2, shape[3]))]
    x, g, *rows = (value.astype(np.float16).astype(np.float32) for value in values)
    return Bench(arch), x, g, rows[0] if gamma else None, rows[1] if beta else None


def exact(x, g, gamma, beta):
    """Output and gradients of x, gamma and beta in float64."""
    leaves = [
        None if value is None else torch.tensor(value, dtype=torch.float64, requires_grad=True)
        for value in (x, gamma, beta)
    ]
    y = F.layer_norm(leaves[0], x.shape[3:], leaves[1], leaves[2], EPS)
    y.backward(torch.tensor(g, dtype=torch.float64))
    return [y.detach().numpy(), *(None if leaf is None else leaf.grad.numpy() for leaf in leaves)]


def test_forward(case):
    bench, x, g, gamma, beta = case
    fx, fy = bench.feature("x", x), bench.feature("y", shape=x.shape)
    rows = [
        None if value is None else bench.kept_row(name, value) for name, value in (("gamma", gamma), ("beta", beta))
    ]
    layer_norm(bench.em, fx, fy, *rows, EPS)
    found = bench.read(bench.run(scheduled=True), fy)
    np.testing.assert_allclose(found, exact(x, g, gamma, beta)[0], rtol=6e-4, atol=2e-5)


@pytest.mark.parametrize("needs_input", [True, False])
def test_gradients(case, needs_input):
    bench, x, g, gamma, beta = case
    fx, fg = bench.feature("x", x), bench.feature("g", g)
    fdx = bench.feature("dx", shape=x.shape) if needs_input else None
    row = None if gamma is None else bench.kept_row("gamma", gamma)
    places = [bench.memory.row(name, x.shape[3], "gradient") for name in ("dgamma", "dbeta")]
    for block, place in zip(layer_norm_grad(bench.em, fg, fx, fdx, row, EPS), places):
        bench.em.store(block, place.address, 0, place.region, Format.FP32)
    machine = bench.run(scheduled=True)
    _, dx, dgamma, dbeta = exact(x, g, gamma, beta)
    if needs_input:
        np.testing.assert_allclose(bench.read(machine, fdx), dx, rtol=1e-3, atol=3e-5)
    for wanted, place in zip((dgamma, dbeta), places):
        if wanted is not None:
            np.testing.assert_allclose(read_row(machine, place), wanted, rtol=1e-4, atol=1e-4)

"""Pooling and its gradients on the golden machine against PyTorch in float64."""

import numpy as np
import pytest
import torch

from scheduler.training.graph.base import Window
from scheduler.training.kernels.pooling import avg_pool, avg_pool_grad, max_pool, max_pool_grad
from tests.scheduler.training.machine_support import TINY, Bench, arch8, operands

CASES = {
    # name: arch, batch, height, width, channels, kernel, stride, padding
    "2x2": (TINY, 5, 8, 8, 8, (2, 2), (2, 2), (0, 0)),
    "2x2 of odd images": (TINY, 4, 7, 5, 3, (2, 2), (2, 2), (0, 0)),
    "2x2 in pieces": (TINY, 3, 12, 12, 8, (2, 2), (2, 2), (0, 0)),
    "3x3 stride 2": (TINY, 5, 9, 8, 4, (3, 3), (2, 2), (1, 1)),
    "3x3 stride 2 in pieces": (TINY, 2, 13, 7, 3, (3, 3), (2, 2), (1, 1)),
    "3x3 stride 1": (TINY, 3, 5, 6, 4, (3, 3), (1, 1), (1, 1)),
    "5x5 stride 2 in pieces": (TINY, 2, 17, 4, 4, (5, 5), (2, 2), (2, 2)),
    "2x3 stride 3x2": (TINY, 4, 8, 9, 4, (2, 3), (3, 2), (1, 0)),
    "gaps": (TINY, 2, 13, 7, 4, (1, 2), (3, 4), (0, 1)),
    "global": (TINY, 6, 4, 5, 10, (4, 5), (4, 5), (0, 0)),
    "on 8x8": (arch8(), 9, 14, 14, 16, (3, 3), (2, 2), (1, 1)),
}


@pytest.fixture(params=CASES, scope="module")
def case(request):
    arch, n, h, w, c, kernel, stride, padding = CASES[request.param]
    window = Window(kernel=kernel, stride=stride, padding=padding)
    sizes = [(size + 2 * p - k) // s + 1 for size, k, s, p in zip((h, w), kernel, stride, padding)]
    rng = np.random.default_rng(7)
    x, g = np.round(operands(rng, n, h, w, c)), operands(rng, n, *sizes, c)  # rounded: many equal values
    return arch, window, x, g


def torch_pool(case, function):
    """Output and input gradient, channels last."""
    _, window, x, g = case
    inputs = torch.tensor(x, dtype=torch.float64).permute(0, 3, 1, 2).requires_grad_()
    outputs = function(inputs, window.kernel, window.stride, window.padding)
    outputs.backward(torch.tensor(g, dtype=torch.float64).permute(0, 3, 1, 2))
    return [value.detach().permute(0, 2, 3, 1).numpy() for value in (outputs, inputs.grad)]


def run(case, forward, backward, *, saved):
    arch, window, x, g = case
    bench = Bench(arch)
    fx, fg = bench.feature("x", x), bench.feature("g", g)
    fy, fdx = bench.feature("y", shape=g.shape), bench.feature("dx", shape=x.shape)
    forward(bench.em, fx, fy, window)
    backward(bench.em, fg, *([fx] if saved else []), fdx, window)
    machine = bench.run(scheduled=True)
    return bench.read(machine, fy), bench.read(machine, fdx)


def test_max_pool(case):
    y, dx = run(case, max_pool, max_pool_grad, saved=True)
    wanted_y, wanted_dx = torch_pool(case, torch.nn.functional.max_pool2d)
    np.testing.assert_array_equal(y, wanted_y)
    np.testing.assert_allclose(dx, wanted_dx, rtol=1e-3, atol=1e-3)


def test_avg_pool(case):
    y, dx = run(case, avg_pool, avg_pool_grad, saved=False)
    wanted_y, wanted_dx = torch_pool(case, torch.nn.functional.avg_pool2d)
    np.testing.assert_allclose(y, wanted_y, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(dx, wanted_dx, rtol=1e-3, atol=1e-3)

"""Activation functions and their slopes against PyTorch in float64, over everything that FP16 can hold."""

import numpy as np
import pytest
import torch

from scheduler.training.kernels import activations
from tests.scheduler.training.kernels.test_functions import COUNT, evaluate


def exact(function, x):
    """Value and derivative in float64."""
    points = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    values = function(points)
    values.sum().backward()
    return values.detach().numpy(), points.grad.numpy()


def points(seed):
    """Dense where the functions bend, sparse up to the ends of FP16."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-9, 9, COUNT)
    x[::4] = np.exp2(rng.uniform(-24, 16, COUNT // 4)) * rng.choice([-1, 1], COUNT // 4)
    x[:6] = 0, -0.0, 65504, -65504, 5.05, -5.05
    return x.astype(np.float32)


CASES = {
    # name: function, slope, PyTorch's, passes of both, absolute error of both
    "gelu": (activations.gelu, activations.gelu_slope, torch.nn.functional.gelu, (16, 16), (2.2e-6, 8.5e-6)),
    "gelu_tanh": (
        activations.gelu_tanh,
        activations.gelu_tanh_slope,
        lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
        (20, 25),
        (1e-5, 1e-5),
    ),
    "silu": (activations.silu, activations.silu_slope, torch.nn.functional.silu, (17, 19), (1e-5, 1e-5)),
}


@pytest.mark.parametrize("name", CASES)
def test_value_and_slope(name, seed):
    function, slope, reference, passes, bounds = CASES[name]
    x = points(seed)
    wanted = exact(reference, x)
    for part, (made, cost, bound) in enumerate(zip((function, slope), passes, bounds)):
        found, used = evaluate(made, x)
        error = np.abs(found - wanted[part]) / np.maximum(np.abs(wanted[part]), 1)
        worst = error.argmax()
        assert error[worst] < bound, f"{name}({x[worst]}) is {found[worst]}, not {wanted[part][worst]}: {error[worst]}"
        assert used == cost


def test_gelu_ends():
    x = np.resize(np.array([6, 1000, -6, -1000, 0], np.float32), COUNT)
    found, _ = evaluate(activations.gelu, x)
    np.testing.assert_array_equal(found[:5], [6, 1000, 0, 0, 0])


def test_zero_stays_zero():
    """Channels that only fill up words stay zeros."""
    x = np.zeros(COUNT, np.float32)
    for function in (activations.gelu, activations.gelu_tanh, activations.silu):
        assert (evaluate(function, x)[0] == 0).all()

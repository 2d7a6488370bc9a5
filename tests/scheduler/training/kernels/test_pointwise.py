"""Chains of pointwise operators on a block against PyTorch in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from scheduler.training.graph.operators import Add, Bias, Gelu, GeluGrad, Mul, Relu, ReluGrad, Scale, Silu, SiluGrad
from scheduler.training.kernels.pointwise import apply_chain
from tests.scheduler.training.block_support import Blocks, read

SHAPE = (6, 5, 4)


def slope(function):
    """Gradient `g` through a function at `y`."""

    def backward(g, y):
        point = y.clone().requires_grad_()
        function(point).backward(g)
        return point.grad

    return backward


def tanh_gelu(x):
    return F.gelu(x, approximate="tanh")


CASES = {
    # name: chain from x with the other operand y or the row b, what it computes
    "add": ([Add("a", "x", "y")], lambda x, y, b: x + y),
    "add on the right": ([Add("a", "y", "x")], lambda x, y, b: x + y),
    "mul": ([Mul("a", "x", "y")], lambda x, y, b: x * y),
    "scale": ([Scale("a", "x", 0.125)], lambda x, y, b: x * 0.125),
    "bias, relu": ([Bias("a", "x", "b"), Relu("c", "a")], lambda x, y, b: F.relu(x + b)),
    "relu, relu, add": ([Relu("a", "x"), Relu("c", "a"), Add("d", "c", "y")], lambda x, y, b: F.relu(x) + y),
    "gradient of relu": ([ReluGrad("a", "x", "y")], lambda x, y, b: x * (y > 0)),
    "gelu": ([Gelu("a", "x", False)], lambda x, y, b: F.gelu(x)),
    "gelu, relu": ([Gelu("a", "x", False), Relu("c", "a")], lambda x, y, b: F.relu(F.gelu(x))),
    "tanh gelu": ([Gelu("a", "x", True)], lambda x, y, b: tanh_gelu(x)),
    "silu": ([Silu("a", "x")], lambda x, y, b: F.silu(x)),
    "gradient of gelu": ([GeluGrad("a", "x", "y", False)], lambda x, y, b: slope(F.gelu)(x, y)),
    "gradient of tanh gelu": ([GeluGrad("a", "x", "y", True)], lambda x, y, b: slope(tanh_gelu)(x, y)),
    "gradient of silu": ([SiluGrad("a", "x", "y")], lambda x, y, b: slope(F.silu)(x, y)),
}


@pytest.mark.parametrize("name", CASES)
def test_chain(name, seed):
    chain, function = CASES[name]
    rng = np.random.default_rng(seed)
    values = {"x": SHAPE, "y": SHAPE, "b": (1, *SHAPE[1:])}
    values = {key: (3 * rng.standard_normal(shape)).astype(np.float32) for key, shape in values.items()}
    bench = Blocks()
    blocks = {key: bench.put(value) for key, value in values.items()}
    result = apply_chain(bench.em, blocks["x"], "x", chain, blocks.__getitem__)
    wanted = function(*(torch.tensor(value, dtype=torch.float64) for value in values.values()))
    np.testing.assert_allclose(read(bench.run(), result), wanted.numpy(), rtol=1e-5, atol=1e-4)

"""Softmax, its gradient and the losses on the golden machine against PyTorch in float64."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from scheduler.training.kernels.losses import cross_entropy, mse
from scheduler.training.kernels.softmax import softmax, softmax_grad
from tests.scheduler.training.machine_support import TINY, Bench, arch8, operands, read_row

CASES = {
    # name: arch, shape [N, H, W, C], spread and mean of the values
    "few": (TINY, (6, 1, 1, 3), 1, 0),
    "whole words": (TINY, (5, 1, 1, 8), 3, 0),
    "ten": (TINY, (9, 1, 1, 10), 20, 0),
    "attention": (arch8(), (3, 2, 7, 37), 5, 0),
    "many words": (arch8(), (10, 1, 1, 150), 4, 0),
    "far apart": (TINY, (4, 1, 1, 10), 3000, 0),
    "far below the zeros that fill the word": (TINY, (5, 1, 1, 10), 2, -60),
}
SCALES = (1.0, 0.125)


@pytest.fixture(params=CASES, scope="module")
def case(request):
    arch, shape, spread, mean = CASES[request.param]
    rng = np.random.default_rng(3)
    x = (operands(rng, *shape) * spread + mean).astype(np.float16).astype(np.float32)
    return Bench(arch), x, operands(rng, *shape)


def fresh(case):
    bench, x, g = case
    return Bench(bench.arch), x, g


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("curve", [False, True])
def test_softmax(case, curve, scale):
    bench, x, _ = fresh(case)
    if curve:
        bench = Bench(
            dataclasses.replace(bench.arch, vector=dataclasses.replace(bench.arch.vector, curve_entries=1024))
        )
        bench.place_curve("exp2")
    fx, fy = bench.feature("x", x), bench.feature("y", shape=x.shape)
    softmax(bench.em, fx, fy, scale)
    found = bench.read(bench.run(scheduled=True), fy)
    wanted = torch.softmax(scale * torch.tensor(x, dtype=torch.float64), -1).numpy()
    np.testing.assert_allclose(found, wanted, rtol=6e-4, atol=1e-7)


@pytest.mark.parametrize("scale", SCALES)
def test_softmax_gradient(case, scale):
    bench, x, g = fresh(case)
    y = torch.softmax(torch.tensor(x), -1).half().float()
    fg, fy, fdx = bench.feature("g", g), bench.feature("y", y), bench.feature("dx", shape=x.shape)
    softmax_grad(bench.em, fg, fy, fdx, scale)
    found = bench.read(bench.run(scheduled=True), fdx)
    y, g = y.double().numpy(), g.astype(np.float64)
    np.testing.assert_allclose(found, scale * y * (g - (g * y).sum(-1, keepdims=True)), rtol=6e-4, atol=1e-6)


def loss_case(case, rng):
    """Features for a loss: x, one-hot labels, room for gradient and loss."""
    bench, x, g = fresh(case)
    x = x.reshape(-1, 1, 1, x.shape[-1])
    labels = np.eye(x.shape[-1], dtype=np.float32)[rng.integers(x.shape[-1], size=len(x))].reshape(x.shape)
    return bench, x, labels, g.reshape(x.shape), bench.memory.row("loss", 1, "loss")


@pytest.mark.parametrize("loss_scale", [1.0, "loss scale"])
def test_cross_entropy(case, loss_scale, seed):
    bench, x, labels, _, loss = loss_case(case, np.random.default_rng(seed))
    fx, fl, fd = bench.feature("x", x), bench.feature("labels", labels), bench.feature("dx", shape=x.shape)
    cross_entropy(bench.em, fx, fl, fd, loss, scale=1 / len(x), loss_scale=loss_scale)
    machine = bench.run(scheduled=True, scalars={"loss scale": 256.0})
    logits = torch.tensor(x[:, 0, 0], dtype=torch.float64, requires_grad=True)
    wanted = F.cross_entropy(logits, torch.tensor(labels[:, 0, 0]).argmax(-1))
    wanted.backward()
    assert read_row(machine, loss)[0] == pytest.approx(wanted.item(), rel=5e-6, abs=1e-6)
    scale = 1.0 if loss_scale == 1.0 else 256.0
    bound = 5e-6 * scale / len(x) + 3e-8
    np.testing.assert_allclose(bench.read(machine, fd)[:, 0, 0], scale * logits.grad, rtol=1e-3, atol=bound)


def test_mse(case):
    bench, x, _, target, loss = loss_case(case, np.random.default_rng(1))
    fx, ft, fd = bench.feature("x", x), bench.feature("target", target), bench.feature("dx", shape=x.shape)
    mse(bench.em, fx, ft, fd, loss, scale=1 / x.size)
    machine = bench.run(scheduled=True)
    inputs = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    wanted = F.mse_loss(inputs, torch.tensor(target, dtype=torch.float64))
    wanted.backward()
    assert read_row(machine, loss)[0] == pytest.approx(wanted.item(), rel=2e-6)
    np.testing.assert_allclose(bench.read(machine, fd), inputs.grad, rtol=6e-4, atol=3e-8)

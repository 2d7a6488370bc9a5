"""Update rules on the golden machine against PyTorch's optimisers in float64, and the SR-STE term against N:M masks."""

import numpy as np
import pytest
import torch

from hwgen.arch import UserError
from models.pattern import Pattern
from models.sparsity import nm_mask
from scheduler.training.graph.updates import Adam, Sgd
from scheduler.training.kernels.dropped import decay_dropped
from scheduler.training.kernels.rules import LOSS_SCALE, STEP, apply_update, derived_scalars
from tests.scheduler.training.block_support import Blocks, read
from tests.scheduler.training.machine_support import TINY, arch8

SHAPE = (8, 5, 4)
VALUES = {"lr": 0.05, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.02, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8}


def sgd(**settings):
    names = {name: None for name in ("velocity", "momentum", "dampening", "weight_decay")} | settings
    return Sgd(parameter="w", gradient="g", lr="lr", nesterov=names.pop("nesterov", False), **names)


def adam(**settings):
    names = {"weight_decay": None, "decoupled": False} | settings
    return Adam(
        parameter="w", gradient="g", first="m", second="v", lr="lr", beta1="beta1", beta2="beta2", eps="eps", **names
    )


SGD, ADAM, ADAMW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
MOMENTUM = {"velocity": "u", "momentum": "momentum"}
CASES = {
    # name: rule, PyTorch's optimiser and its settings, passes without unscaling
    "plain": (sgd(), SGD, {}, 1),
    "decay": (sgd(weight_decay="weight_decay"), SGD, {"weight_decay": 0.02}, 2),
    "momentum": (
        sgd(**MOMENTUM, weight_decay="weight_decay"),
        SGD,
        {"momentum": 0.9, "weight_decay": 0.02},
        3,
    ),
    "nesterov": (sgd(**MOMENTUM, nesterov=True), SGD, {"momentum": 0.9, "nesterov": True}, 3),
    "dampening": (sgd(**MOMENTUM, dampening="dampening"), SGD, {"momentum": 0.9, "dampening": 0.3}, 3),
    "adam": (adam(), ADAM, {}, 22),
    "adam with decay": (adam(weight_decay="weight_decay"), ADAM, {"weight_decay": 0.02}, 23),
    "adamw": (adam(weight_decay="weight_decay", decoupled=True), ADAMW, {"weight_decay": 0.02}, 23),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("loss_scale", [1.0, 128.0])
def test_steps_equal_those_of_pytorch(name, loss_scale, seed):
    rule, optimiser, settings, passes = CASES[name]
    rng = np.random.default_rng(seed)
    names = [field for field in rule.names("in place")]
    state = {field: np.zeros(SHAPE, np.float32) for field in names}
    state["w"] = rng.standard_normal(SHAPE).astype(np.float32)
    parameter = torch.tensor(state["w"], dtype=torch.float64, requires_grad=True)
    if optimiser is not SGD:
        settings = settings | {"betas": (0.9, 0.99), "eps": 1e-8}
    torch_rule = optimiser([parameter], lr=0.05, **settings)
    for step in range(1, 5):
        gradient = rng.standard_normal(SHAPE).astype(np.float32) * 1e-2
        gradient[step] = 0  # also in the first step, where the second moment stays 0
        state, cost = run(rule, state, gradient * np.float32(loss_scale), loss_scale, step)
        assert cost == passes + (loss_scale != 1)
        parameter.grad = torch.tensor(gradient, dtype=torch.float64)
        torch_rule.step()
        np.testing.assert_allclose(state["w"], parameter.detach().numpy(), rtol=2e-6, atol=1e-6)


def run(rule, state, gradient, loss_scale, step):
    bench = Blocks()
    blocks = {name: bench.put(values) for name, values in state.items()}
    g = bench.put(gradient)
    apply_update(bench.em, rule, blocks, g, scaled=loss_scale != 1)
    values = VALUES | {LOSS_SCALE: loss_scale, STEP: step}
    machine = bench.run(derived_scalars([rule], values))
    return {name: read(machine, block).copy() for name, block in blocks.items()}, bench.passes(g)


@pytest.mark.parametrize("arch", [TINY, arch8()], ids=["4 columns", "8 columns"])
@pytest.mark.parametrize(("pattern", "passes"), [("2:4", 12), ("2:8", None), ("1:2", 7), ("4:16", None), ("2:2", 0)])
def test_dropped_weights_decay(arch, pattern, passes, seed):
    n, m = Pattern.parse(pattern).n, Pattern.parse(pattern).m
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((4, 8, arch.array.cols)).astype(np.float32)
    weight[:2] = np.round(weight[:2] * 2) / 2  # many equal magnitudes
    gradient = rng.standard_normal(weight.shape).astype(np.float32)
    bench = Blocks(arch)
    w, g = bench.put(weight), bench.put(gradient)
    decay_dropped(bench.em, w, g, Pattern(n, m), 0.25)
    found = read(bench.run(), g)
    if passes is not None:
        assert bench.passes(w) == passes
    mask = nm_mask(weight.reshape(4, -1), n, m, 1).reshape(weight.shape)
    np.testing.assert_array_equal(found, gradient + np.where(mask, np.float32(0), np.float32(0.25) * weight))


def test_dropped_weights_of_odd_groups_are_refused():
    bench = Blocks()
    w = bench.em.take(4, 6)
    with pytest.raises(UserError, match=r"^the weights that 2:6 drops are only found if M is a power of two$"):
        decay_dropped(bench.em, w, w, Pattern(2, 6), 0.1)

"""Updates of several steps are those of `torch.optim`, with every hyper-parameter, and continue where it stopped."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW

from hwgen.arch import UserError
from scheduler.training.capture import capture_training
from scheduler.training.graph.ir import Kind
from scheduler.training.graph.reference import Reference
from scheduler.training.graph.updates import Update
from tests.scheduler.training.support import check_steps, close

OPTIMIZERS = {
    "sgd": lambda p: SGD(p, lr=0.1),
    "momentum": lambda p: SGD(p, lr=0.1, momentum=0.9),
    "dampening": lambda p: SGD(p, lr=0.1, momentum=0.9, dampening=0.3, weight_decay=0.01),
    "nesterov": lambda p: SGD(p, lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.02),
    "decay alone": lambda p: SGD(p, lr=0.1, weight_decay=0.02),
    "adam": lambda p: Adam(p, lr=0.01, betas=(0.8, 0.95), eps=1e-3),
    "adam with decay": lambda p: Adam(p, lr=0.01, weight_decay=0.1),
    "adamw": lambda p: AdamW(p, lr=0.01, weight_decay=0.1),
    "two groups": lambda p: SGD([{"params": p[:1], "momentum": 0.5}, {"params": p[1:], "lr": 0.01}], lr=0.1),
}
RATES = [0.1, 0.05, 0.2, 0.01]


def net():
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def batches(count):
    return [((torch.randn(4, 6),), (torch.randint(3, (4,)),)) for _ in range(count)]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_those_of_torch_optim(name, seed):
    torch.manual_seed(seed)
    check_steps(net(), batches(4), optimizer=OPTIMIZERS[name], rates=RATES)


@pytest.mark.parametrize("name", ["sgd", "dampening", "adam with decay", "adamw"])
def test_capture_continues_a_training_that_has_begun(name, seed):
    torch.manual_seed(seed)
    module, (first, *rest) = net(), batches(4)
    optimizer = OPTIMIZERS[name](list(module.parameters()))
    for (x,), (y,) in (first, rest[0]):
        step(module, optimizer, x, y)
    graph = capture_training(module, "cross_entropy", *first, optimizer)
    reference, twin = Reference(graph, np.float32), module
    for (x,), (y,) in rest[1:]:
        reference.step({"input": x.numpy(), "target": y.numpy()})
        step(twin, optimizer, x, y)
    for name, parameter in twin.named_parameters():
        assert np.allclose(reference.torch_values()[name], parameter.detach().numpy(), rtol=1e-5, atol=1e-6), name


def step(module, optimizer, x, y):
    optimizer.zero_grad()
    nn.functional.cross_entropy(module(x), y).backward()
    optimizer.step()


def test_terms_that_are_zero_are_absent():
    module, (batch,) = net(), batches(1)
    graph = capture_training(module, "cross_entropy", *batch, SGD(module.parameters(), lr=0.1, nesterov=False))
    updates = [item for item in graph.operators if isinstance(item, Update)]
    assert graph.scalars == {"lr": 0.1}
    assert {(item.momentum, item.weight_decay, item.velocity) for item in updates} == {(None, None, None)}
    assert graph.of_kind(Kind.STATE) == ()


def test_frozen_and_foreign_parameters_are_not_trained(seed):
    torch.manual_seed(seed)
    module, (batch,) = net(), batches(1)
    module[0].bias.requires_grad_(False)
    held = SGD([module[0].weight, module[0].bias, module[2].bias], lr=0.1)
    graph = capture_training(module, "cross_entropy", *batch, held)
    assert sorted(graph.gradients) == ["0.weight", "2.bias"]
    before = module[2].weight.detach().clone()
    reference = Reference(graph)
    reference.step({"input": batch[0][0].numpy(), "target": batch[1][0].numpy()})
    close(reference.torch_values()["2.weight"], before.double(), "frozen weight")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: torch.optim.RMSprop(p), r"^the optimizer must be torch.optim.SGD, Adam or AdamW, not RMSprop$"),
        (lambda p: SGD(p, lr=0.1, maximize=True), r"^an optimizer with maximize has no lowering$"),
        (lambda p: Adam(p, amsgrad=True), r"^an optimizer with amsgrad has no lowering$"),
        (
            lambda p: SGD([*p, nn.Parameter(torch.ones(7))], lr=0.1),
            r"^the optimizer has a parameter \[7\] that the model does not have$",
        ),
        (lambda p: SGD([nn.Parameter(torch.ones(7))], lr=0.1), r"^the optimizer has a parameter \[7\] that the model"),
    ],
)
def test_an_optimizer_without_a_lowering_is_refused(make, message):
    module, (batch,) = net(), batches(1)
    with pytest.raises(UserError, match=message):
        capture_training(module, "cross_entropy", *batch, make(list(module.parameters())))

"""PyTorch's own training step beside that of the reference interpreter, in float64."""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from scheduler.training.capture import LOSSES, capture_training
from scheduler.training.graph.ir import Kind, TrainingGraph
from scheduler.training.graph.reference import Reference

TOLERANCE = 1e-9
"""Relative to the largest value of each tensor; both sides compute in float64."""
Optimizers = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def sgd(parameters) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def capture(module: nn.Module, inputs: tuple, targets: tuple, loss: str = "cross_entropy") -> TrainingGraph:
    return capture_training(module, loss, inputs, targets, sgd(list(module.parameters())))


def close(actual: np.ndarray, expected: torch.Tensor, what: str, scale: float = 0.0) -> None:
    wanted = expected.detach().numpy()
    assert actual.shape == wanted.shape, f"{what} has shape {actual.shape} instead of {wanted.shape}"
    limit = TOLERANCE * max(np.abs(wanted).max(), scale, 1e-30)
    error = np.abs(actual - wanted).max()
    assert error <= limit, f"{what} is off by {error:.2e}, allowed is {limit:.2e}"


def doubled(values: tuple) -> tuple:
    return tuple(value.double() if value.is_floating_point() else value for value in values)


def check_steps(
    module: nn.Module,
    batches: list[tuple[tuple, tuple]],
    loss: str | nn.Module = "cross_entropy",
    optimizer: Optimizers = sgd,
    rates: list[float] | None = None,
    replace_dropout: Callable[[nn.Module, dict], None] | None = None,
) -> TrainingGraph:
    """Train on (inputs, targets) of each batch; loss, output, gradients and everything that is kept must agree."""
    graph = capture_training(module, loss, *batches[0], optimizer(list(module.parameters())))
    twin = copy.deepcopy(module).double().train()
    judge = LOSSES[loss]() if isinstance(loss, str) else loss
    held, reference = optimizer(list(twin.parameters())), Reference(graph)
    for number, (inputs, targets) in enumerate(batches):
        names = graph.of_kind(Kind.INPUT, Kind.LABEL)
        given = {name: value.numpy() for name, value in zip(names, doubled((*inputs, *targets)), strict=True)}
        scalars = {"lr": rates[number]} if rates else {}
        held.param_groups[0].update(scalars)
        seen = reference.step(given, scalars)
        if replace_dropout:
            replace_dropout(twin, seen)
        held.zero_grad()
        output = twin(*doubled(inputs))
        value = judge(output, *doubled(targets))
        value.backward()
        _compare_step(graph, seen, twin, output, value)
        held.step()
        _compare_kept(graph, reference, twin, held)
    return graph


def _compare_step(graph: TrainingGraph, seen: dict, twin: nn.Module, output: torch.Tensor, loss: torch.Tensor) -> None:
    for label, value in (("loss", loss), ("output", output)):
        name = graph.outputs[label]
        close(graph.layouts[name].to_torch(seen[name]), value, label)
    parameters = dict(twin.named_parameters())
    largest = max(float(value.grad.abs().max()) for value in parameters.values() if value.grad is not None)
    for name, gradient in graph.gradients.items():
        close(graph.layouts[name].to_torch(seen[gradient]), parameters[name].grad, f"gradient of {name}", largest)


def _compare_kept(graph: TrainingGraph, reference: Reference, twin: nn.Module, held: torch.optim.Optimizer) -> None:
    state = {**dict(twin.named_parameters()), **dict(twin.named_buffers())}
    fields = {"velocity": "momentum_buffer", "first": "exp_avg", "second": "exp_avg_sq"}
    for name, values in reference.torch_values().items():
        if graph.tensors[name].kind == Kind.STATE:
            parameter, field = name.rsplit(".", 1)
            close(values, held.state[state[parameter]][fields[field]], name, 1.0)
        elif name in graph.values and name not in state:
            np.testing.assert_array_equal(graph.layouts[name].from_torch(values), graph.values[name], err_msg=name)
        else:
            close(values, state[name], name, 1.0)

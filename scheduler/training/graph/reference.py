"""A readable interpreter of training graphs in NumPy, for checking: what each operator means, in any float type."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from scheduler.training.graph.base import Operator
from scheduler.training.graph.dropout import dropout_mask
from scheduler.training.graph.ir import GIVEN, TrainingGraph
from scheduler.training.graph.moves import Broadcast, Concat, Pad, Permute, Reshape, Slice
from scheduler.training.graph.operators import DropoutMask
from scheduler.training.graph.reference_layers import LAYERS
from scheduler.training.graph.reference_products import PRODUCTS
from scheduler.training.graph.shapes import Shape
from scheduler.training.graph.updates import Adam, Sgd

Arrays = dict[str, NDArray]


class Reference:
    """Runs steps of a training graph; `kept` holds parameters, states and statistics, and `steps` counts."""

    def __init__(self, graph: TrainingGraph, dtype: type = np.float64, seed: int = 0) -> None:
        self.graph, self.dtype, self.seed = graph, dtype, seed
        self.kept: Arrays = {name: values.astype(dtype) for name, values in graph.values.items()}
        self.steps = graph.steps

    def step(
        self, given: Mapping[str, NDArray], scalars: Mapping[str, float] | None = None, masks: Arrays | None = None
    ) -> Arrays:
        """Make one step with PyTorch's arrays of the given tensors; gives all tensors, those kept as before the step.

        `scalars` replaces hyper-parameters, `masks` replaces dropout masks, by name.
        """
        self.steps += 1
        run = _Run(self, {**self.graph.scalars, **(scalars or {})}, masks or {})
        kept, run.values = self.kept, dict(self.kept)
        for name in self.graph.of_kind(*GIVEN):
            run.values[name] = self.graph.layouts[name].from_torch(np.asarray(given[name])).astype(self.dtype)
        for item in self.graph.operators:
            for name, value in RULES[type(item)](item, run).items():
                if value.shape != self.graph.tensors[name].shape:
                    raise ValueError(f"{name} has shape {list(value.shape)}, not {list(run.shape(name))}")
                run.values[name] = value.astype(self.dtype)
        self.kept = {name: run.values[name] for name in kept}
        return {**run.values, **kept}

    def torch_values(self) -> Arrays:
        """What is kept, as PyTorch's arrays."""
        return {name: self.graph.layouts[name].to_torch(values) for name, values in self.kept.items()}


class _Run:
    """One step under way: values by name, and what rules need to know of the step."""

    def __init__(self, owner: Reference, scalars: Mapping[str, float], masks: Arrays) -> None:
        self.values: Arrays = {}
        self.scalars, self.masks = scalars, masks
        self.steps, self.seed = owner.steps, owner.seed
        self.tensors = owner.graph.tensors

    def __getitem__(self, name: str | None) -> NDArray | None:
        return None if name is None else self.values[name]

    def shape(self, name: str) -> Shape:
        """Shape of a tensor."""
        return self.tensors[name].shape

    def scalar(self, name: str | None) -> float:
        """A hyper-parameter, 0 where there is none."""
        return 0.0 if name is None else self.scalars[name]


Rule = Callable[[Operator, _Run], Arrays]


def _reshape(item: Reshape, run: _Run) -> Arrays:
    return {item.output: run[item.input].reshape(run.shape(item.output))}


def _permute(item: Permute, run: _Run) -> Arrays:
    return {item.output: run[item.input].reshape(item.split).transpose(item.order).reshape(run.shape(item.output))}


def _broadcast(item: Broadcast, run: _Run) -> Arrays:
    return {item.output: np.broadcast_to(run[item.input], run.shape(item.output))}


def _range(item: Slice | Pad, length: int) -> tuple[slice, ...]:
    return (*[slice(None)] * item.axis, slice(item.start, item.start + length))


def _slice(item: Slice, run: _Run) -> Arrays:
    return {item.output: run[item.input][_range(item, run.shape(item.output)[item.axis])]}


def _pad(item: Pad, run: _Run) -> Arrays:
    result = np.zeros(run.shape(item.output), run[item.input].dtype)
    result[_range(item, run.shape(item.input)[item.axis])] = run[item.input]
    return {item.output: result}


def _concat(item: Concat, run: _Run) -> Arrays:
    return {item.output: np.concatenate([run[name] for name in item.inputs], axis=item.axis)}


def _mask(item: DropoutMask, run: _Run) -> Arrays:
    shape = run.shape(item.output)
    drawn = run.masks.get(item.output)
    return {item.output: dropout_mask(shape, item.p, run.seed, item.stream, run.steps) if drawn is None else drawn}


def _sgd(item: Sgd, run: _Run) -> Arrays:
    parameter, results = run[item.parameter], {}
    gradient = run[item.gradient] + run.scalar(item.weight_decay) * parameter
    if item.momentum is not None:
        momentum, part = run.scalar(item.momentum), 1 - run.scalar(item.dampening)
        velocity = gradient if run.steps == 1 else momentum * run[item.velocity] + part * gradient
        results[item.velocity] = velocity
        gradient = gradient + momentum * velocity if item.nesterov else velocity
    return {item.parameter: parameter - run.scalar(item.lr) * gradient, **results}


def _adam(item: Adam, run: _Run) -> Arrays:
    parameter, gradient = run[item.parameter], run[item.gradient]
    lr, decay = run.scalar(item.lr), run.scalar(item.weight_decay)
    if item.decoupled:
        parameter = parameter * (1 - lr * decay)
    else:
        gradient = gradient + decay * parameter
    beta1, beta2 = run.scalar(item.beta1), run.scalar(item.beta2)
    first = beta1 * run[item.first] + (1 - beta1) * gradient
    second = beta2 * run[item.second] + (1 - beta2) * gradient**2
    unbiased = np.sqrt(second / (1 - beta2**run.steps)) + run.scalar(item.eps)
    parameter = parameter - lr / (1 - beta1**run.steps) * first / unbiased
    return {item.parameter: parameter, item.first: first, item.second: second}


RULES: dict[type[Operator], Rule] = {
    **PRODUCTS,
    **LAYERS,
    Reshape: _reshape,
    Permute: _permute,
    Broadcast: _broadcast,
    Slice: _slice,
    Pad: _pad,
    Concat: _concat,
    DropoutMask: _mask,
    Sgd: _sgd,
    Adam: _adam,
}
"""Meaning of each operator: values of the tensors that it defines and overwrites."""

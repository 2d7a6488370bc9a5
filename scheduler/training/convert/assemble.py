"""Converted operators, optimizer and values of the module -> training graph."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch._subclasses.fake_tensor import FakeTensor

from hwgen.arch import UserError
from scheduler.convert import free_name
from scheduler.training.convert.aten import Converted
from scheduler.training.convert.joint import JointNode
from scheduler.training.convert.optimizers import Rules
from scheduler.training.convert.tidy import concatenations, live, name_gradients, pooling_gradients, scaled_softmaxes
from scheduler.training.graph.ir import KEPT, Kind, Tensor, TrainingGraph, verify
from scheduler.training.graph.layout import Layout
from scheduler.training.graph.moves import Reshape
from scheduler.training.graph.updates import Update
from scheduler.training.graph.views import View, standard
from scheduler.weights import as_float32

OUTSIDE = JointNode(name="", target="", args={}, shape=None, module="", source="", backward=True, shapes=())
"""Stands for PyTorch's node where values move at the border of the graph."""


class Assembly:
    """Puts the parts together; `held` are the module's parameters and buffers by name."""

    def __init__(self, converted: Converted, rules: Rules, held: dict[str, torch.Tensor]) -> None:
        self.converted, self.builder = converted, converted.builder
        self.rules, self.held = rules, held
        self.views: dict[str, View] = {**converted.given, **converted.kept}
        """How PyTorch's tensors lie in ours, by the name of ours."""
        self.states: dict[str, torch.Tensor | None] = {}

    def graph(self) -> TrainingGraph:
        """The verified graph."""
        outputs, gradients = self._outputs(), self._gradients()
        tensors = self.builder.tensors
        operators = concatenations(pooling_gradients(self.builder.operators, tensors), tensors)
        operators = scaled_softmaxes(operators, {*outputs.values(), *gradients.values()})
        operators, gradients = name_gradients(operators, tensors, gradients)
        operators += [self._update(name, gradient) for name, gradient in gradients.items()]
        operators, tensors = live(operators, tensors, {*outputs.values(), *self.converted.given})
        layouts = {name: self._layout(name, tensors[name]) for name in self.views if name in tensors}
        graph = TrainingGraph(
            tensors=tensors,
            operators=tuple(operators),
            outputs=outputs,
            gradients=gradients,
            scalars=self.rules.scalars,
            layouts=layouts,
            values=self._values(tensors, layouts),
            steps=self.rules.steps,
        )
        verify(graph)
        return graph

    def _outputs(self) -> dict[str, str]:
        count = len(self.converted.outputs) - 1
        labels = ["loss", *(["output"] if count == 1 else [f"output{number}" for number in range(count)])]
        outputs = {}
        for label, view in zip(labels, self.converted.outputs, strict=True):
            if view.repeats:
                view = self.builder.arrange(OUTSIDE, view, *standard(view.sizes))
            outputs[label] = view.tensor
            self.views.setdefault(view.tensor, view)
        return outputs

    def _gradients(self) -> dict[str, str]:
        """Trained parameter -> tensor of its gradient, which lies as the parameter does."""
        gradients: dict[str, str] = {}
        for name in self.rules.rules:
            if not self.held[name].requires_grad:
                continue
            if name not in self.converted.gradients:
                raise UserError(f"the optimizer trains {name}, but the loss does not depend on it")
            own = self.converted.kept[name]
            shape = self.builder.shape(own)
            view = self.builder.arrange(OUTSIDE, self.converted.gradients[name], own.dims, shape)
            if view.tensor in gradients.values():
                copy = self.builder.new(OUTSIDE, "copy", shape)
                self.builder.emit(Reshape(copy, view.tensor))
                view = View(copy, view.dims)
            gradients[name] = view.tensor
        if not gradients:
            raise UserError("the optimizer trains no parameter of the model")
        return gradients

    def _update(self, name: str, gradient: str) -> Update:
        rule, tensors = self.rules.rules[name], self.builder.tensors
        names = {}
        for field, value in rule.states.items():
            names[field] = free_name(f"{name}.{field}", tensors)
            tensors[names[field]] = Tensor(names[field], tensors[name].shape, Kind.STATE)
            self.states[names[field]] = value
            self.views[names[field]] = View(names[field], self.views[name].dims)
        return rule.make(name, gradient, names)

    def _layout(self, name: str, tensor: Tensor) -> Layout:
        if name in self.builder.open and name in self.builder.integers:
            raise UserError(f"{name} is an integer tensor that nothing uses as tokens or labels")
        return Layout(tensor.shape, self.views[name].dims, tensor.shape[3] if name in self.builder.integers else 0)

    def _values(self, tensors: dict[str, Tensor], layouts: dict[str, Layout]) -> dict[str, NDArray[np.float32]]:
        """Values of all tensors that are kept, as the module and the optimizer hold them; none if those are fake."""
        if any(isinstance(value, FakeTensor) for value in self.held.values()):
            return {}
        values = {}
        for name, tensor in tensors.items():
            if tensor.kind not in KEPT:
                continue
            if name in self.builder.constants:
                values[name] = layouts[name].from_torch(self.builder.constants[name])
                continue
            value = self.states[name] if name in self.states else self.held[name]
            given = np.zeros(layouts[name].torch_shape, np.float32) if value is None else as_float32(value, name)
            values[name] = layouts[name].from_torch(given)
        return values

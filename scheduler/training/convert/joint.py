"""PyTorch module, loss and example batch -> joint graph of ATen operators (forward and backward).

The only place that knows the private interface of PyTorch 2.13 that makes such graphs. Inputs and outputs of its graph
carry descriptors that say what they are; nothing here depends on their position.
"""

import contextlib
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch._functorch._aot_autograd.descriptors import (
    BufferAOTInput,
    GradAOTOutput,
    InputMutationAOTOutput,
    ParamAOTInput,
    PlainAOTInput,
    PlainAOTOutput,
    TangentAOTInput,
)
from torch._functorch.aot_autograd import aot_export_joint_with_descriptors
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import Node as FxNode

from hwgen.arch import UserError
from scheduler.aten import Node, Ref, source_line
from scheduler.exporting import exporting

MODEL = "model"
"""Name of the user's module inside the module that is exported."""


@dataclass(frozen=True)
class JointNode(Node):
    """One call of an ATen operator; `backward` calls stand in the module whose gradient they compute."""

    backward: bool
    shapes: tuple[tuple[int, ...] | None, ...]
    """Shapes of the results of an operator that has several."""


@dataclass(frozen=True)
class JointGraph:
    """Nodes in order, and what the graph's inputs and outputs are, all by node name."""

    nodes: tuple[JointNode, ...]
    sizes: dict[str, tuple[int, ...]]
    """Shapes of the graph's inputs."""
    parameters: dict[str, str]
    """Node -> name of the parameter in the module."""
    buffers: dict[str, str]
    given: dict[str, int]
    """Node -> number of the example input or target."""
    tangents: frozenset[str]
    outputs: tuple[str | None, ...]
    """The loss and the module's outputs."""
    gradients: dict[str, str]
    """Parameter -> node of its gradient, where there is one."""
    changed: dict[str, str]
    """Buffer -> node of its new value."""


class _Step(torch.nn.Module):
    """The model and its loss as one module of `count` inputs and some targets."""

    def __init__(self, model: torch.nn.Module, loss: Callable[..., torch.Tensor], count: int) -> None:
        super().__init__()
        self.add_module(MODEL, model)
        self.loss, self.count = loss, count

    def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        result = self.get_submodule(MODEL)(*values[: self.count])
        outputs = result if isinstance(result, tuple | list) else (result,)
        return self.loss(result, *values[self.count :]), *(output.detach() for output in outputs)


@contextlib.contextmanager
def fake_mode() -> Iterator[None]:
    """Tensors made inside have shapes but no values: build a big model and its example batch in here to capture it."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def trace(module: torch.nn.Module, loss: Callable[..., torch.Tensor], inputs: tuple, targets: tuple) -> JointGraph:
    """Joint graph of one batch in training mode; the modules' modes are left as they were.

    Raises `UserError` when the module cannot be exported, naming PyTorch's reason, and when the loss is not a scalar.
    """
    step, values = _Step(module, loss, len(inputs)), (*inputs, *targets)
    what = f"{type(module).__name__} cannot be exported for training"
    with contextlib.ExitStack() as stack, exporting(step, what), _mode_of(values):
        program = torch.export.export(step.train(), values)
        _check_loss(program)
        joint = aot_export_joint_with_descriptors(stack, program.module(), values, _record_nn_module_stack=True)
        return _read(joint.graph_module.graph)


def _mode_of(values: tuple) -> contextlib.AbstractContextManager:
    """The mode in which tensors without values were made."""
    return next((value.fake_mode for value in values if isinstance(value, FakeTensor)), contextlib.nullcontext())


def _check_loss(program: torch.export.ExportedProgram) -> None:
    output = next(node for node in program.graph.nodes if node.op == "output")
    name = program.graph_signature.user_outputs[0]
    loss = next((node for node in output.args[0] if isinstance(node, FxNode) and node.name == name), None)
    value = loss.meta["val"] if loss is not None else None
    if not isinstance(value, torch.Tensor) or value.shape != ():
        found = f"a tensor of shape {list(value.shape)}" if isinstance(value, torch.Tensor) else "a constant"
        raise UserError(f"the loss must be a scalar tensor that the model computes, not {found}")


def _read(graph: torch.fx.Graph) -> JointGraph:
    nodes = list(graph.nodes)
    inputs = [(node.name, node.meta["desc"]) for node in nodes if node.op == "placeholder"]
    results = list(zip(nodes[-1].args[0], nodes[-1].meta["desc"]))
    plain = sorted((what.idx, node.name) for node, what in results if isinstance(what, PlainAOTOutput))
    return JointGraph(
        nodes=tuple(read_node(node) for node in nodes if node.op not in ("placeholder", "output")),
        sizes={node.name: tuple(node.meta["val"].shape) for node in nodes if node.op == "placeholder"},
        parameters={name: _own(what.target) for name, what in inputs if isinstance(what, ParamAOTInput)},
        buffers={name: _own(what.target) for name, what in inputs if isinstance(what, BufferAOTInput)},
        given={name: what.idx for name, what in inputs if isinstance(what, PlainAOTInput)},
        tangents=frozenset(name for name, what in inputs if isinstance(what, TangentAOTInput)),
        outputs=tuple(name for _, name in plain),
        gradients={
            _own(what.grad_of.target): node.name
            for node, what in results
            if isinstance(what, GradAOTOutput) and isinstance(what.grad_of, ParamAOTInput) and node is not None
        },
        changed={
            _own(what.mutated_input.target): node.name
            for node, what in results
            if isinstance(what, InputMutationAOTOutput) and isinstance(what.mutated_input, BufferAOTInput)
        },
    )


def read_node(node: FxNode) -> JointNode:
    """A call of an operator, with what PyTorch noted about its place and result."""
    value = node.meta.get("val")
    stack = node.meta.get("nn_module_stack") or node.meta.get("fwd_nn_module_stack") or {}
    path = list(stack.values())[-1][0] if stack else ""
    return JointNode(
        name=node.name,
        target="getitem" if node.target is operator.getitem else str(node.target),
        args=_named_arguments(node),
        shape=_shape(value),
        module=_own(path),
        source=source_line(node.meta.get("stack_trace")),
        backward=node.meta.get("partitioner_tag") == "is_backward",
        shapes=tuple(_shape(part) for part in value) if isinstance(value, tuple | list) else (),
    )


def _shape(value: object) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else None


def _own(name: str) -> str:
    """Path inside the user's module."""
    return "" if name == MODEL else name.removeprefix(f"{MODEL}.")


def _named_arguments(node: FxNode) -> dict[str, Any]:
    schema = getattr(node.target, "_schema", None)
    names = [argument.name for argument in schema.arguments] if schema else [str(i) for i in range(len(node.args))]
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    return {name: torch.fx.map_arg(value, lambda one: Ref(one.name)) for name, value in given.items()}

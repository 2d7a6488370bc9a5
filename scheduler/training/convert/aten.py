"""Joint graph of ATen operators -> operators of ours. What cannot be lowered is named in one error."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hwgen.arch import UserError
from scheduler.aten import Ref
from scheduler.training.convert import attention, layers, losses, pointwise, products, views
from scheduler.training.convert.builder import Builder, Unsupported
from scheduler.training.convert.joint import JointGraph, JointNode
from scheduler.training.convert.losses import Tangent
from scheduler.training.convert.pointwise import Counter
from scheduler.training.graph.ir import Kind, Tensor
from scheduler.training.graph.views import View, row_major, standard

MODULES = (views, products, attention, layers, pointwise, losses)
HANDLERS = {target: handler for module in MODULES for target, handler in module.HANDLERS.items()}
"""Lowering of every ATen operator that has one."""
Handler = Callable[[Builder, JointNode], Any]
"""Emits the operators of a node; gives what its result has become."""


@dataclass(frozen=True)
class Given:
    """A tensor that the host gives in every step."""

    name: str
    kind: Kind
    integer: bool


@dataclass(frozen=True)
class Converted:
    """Forward and backward operators, and which views are what."""

    builder: Builder
    outputs: tuple[View, ...]
    """The loss and the module's outputs."""
    kept: dict[str, View]
    """Parameters and statistics by name."""
    gradients: dict[str, View]
    given: dict[str, View]


def convert(
    graph: JointGraph,
    given: list[Given],
    same: dict[str, str],
    integers: set[str],
    *,
    what: str = "training step",
    others: Mapping[str, Handler] | None = None,
) -> Converted:
    """Lower a joint graph; `same` gives each tied parameter the name of the first, `integers` are integer buffers.

    `others` are lowerings that come before those of a training step. Raises `UserError` that lists every operator
    without a lowering and where it stands; `what` needs them.
    """
    converter = _Converter(graph, given, same, integers, HANDLERS | dict(others or {}), what)
    for node in graph.nodes:
        converter.take(node)
    return converter.finish()


class _Converter:
    """Walks the nodes in order."""

    def __init__(
        self,
        graph: JointGraph,
        given: list[Given],
        same: dict[str, str],
        integers: set[str],
        handlers: dict[str, Handler],
        what: str,
    ) -> None:
        self.graph, self.same = graph, same
        self.handlers, self.what = handlers, what
        self.builder = Builder()
        self.problems: list[str] = []
        self.poisoned: set[str] = set()
        self.nodes_of: dict[str, str] = {}
        """Parameter, statistic or given tensor -> node that holds it."""
        for name, number in graph.given.items():
            self._give(name, given[number])
        for name, parameter in graph.parameters.items():
            self._keep(name, same[parameter], Kind.PARAMETER)
        for name, buffer in graph.buffers.items():
            if buffer in integers:
                self.builder.values[name] = Counter()
            else:
                self._keep(name, buffer, Kind.STATISTIC if buffer in graph.changed else Kind.PARAMETER)
        self.builder.values |= {name: Tangent() for name in graph.tangents}
        self.builder.derived |= graph.tangents

    def take(self, node: JointNode) -> None:
        """Lower one node, or note why not; users of a node that failed are passed over."""
        used = set(_refs(tuple(node.args.values())))
        if used & self.builder.derived:
            self.builder.derived.add(node.name)
        handler = self.handlers.get(node.target)
        try:
            if handler is None:
                raise Unsupported()
            if used & self.poisoned:
                self.poisoned.add(node.name)
                return
            self.builder.values[node.name] = handler(self.builder, node)
        except Unsupported as reason:
            self.problems.append(node.where(str(reason)))
            self.poisoned.add(node.name)

    def finish(self) -> Converted:
        """The result, or the error that lists all problems."""
        if self.problems:
            count = len(self.problems)
            subject = "1 operator that" if count == 1 else f"{count} operators that"
            raise UserError(f"the {self.what} needs {subject} cannot be lowered: {', '.join(self.problems)}")
        values = self.builder.values
        self._check_changes()
        outputs = tuple(values[name] for name in self.graph.outputs)
        if not all(isinstance(value, View) and value.tensor not in self.builder.integers for value in outputs):
            raise UserError("every output of the model must be a tensor of real numbers that it computes")
        gradients = {self.same[name]: values[node] for name, node in self.graph.gradients.items()}
        kept = {name: values[node] for name, node in self.nodes_of.items() if node not in self.graph.given}
        views = [value for value in values.values() if isinstance(value, View)]
        kept |= {view.tensor: view for view in views if view.tensor in self.builder.constants}
        given = {name: values[node] for name, node in self.nodes_of.items() if node in self.graph.given}
        return Converted(self.builder, outputs, kept, gradients, given)

    def _give(self, node: str, given: Given) -> None:
        sizes = self.graph.sizes[node]
        dims, shape = standard(sizes)
        if given.integer:
            dims, shape = row_major(sizes), (1, 1, 1, math.prod(sizes))
            self.builder.integers.add(given.name)
            self.builder.open.add(given.name)
        self._hold(node, given.name, Tensor(given.name, shape, given.kind), View(given.name, dims))

    def _keep(self, node: str, name: str, kind: Kind) -> None:
        sizes = self.graph.sizes[node]
        if name not in self.builder.tensors and kind == Kind.PARAMETER:
            self.builder.open.add(name)
        self._hold(node, name, Tensor(name, (1, 1, 1, math.prod(sizes)), kind), View(name, row_major(sizes)))

    def _hold(self, node: str, name: str, tensor: Tensor, view: View) -> None:
        self.builder.tensors.setdefault(name, tensor)
        self.builder.values[node] = view
        self.nodes_of.setdefault(name, node)

    def _check_changes(self) -> None:
        for buffer, node in self.graph.changed.items():
            value = self.builder.values[node]
            if not isinstance(value, Counter) and not (isinstance(value, View) and value.tensor == buffer):
                raise UserError(f"the model changes {buffer} as it runs, which has no lowering")


def _refs(value: object) -> list[str]:
    """Names of the nodes in an argument."""
    if isinstance(value, Ref):
        return [value.name]
    return [name for part in value for name in _refs(part)] if isinstance(value, tuple | list) else []

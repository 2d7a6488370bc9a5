"""ATen graph -> our graph. What cannot be lowered is collected and named in one error, before anything runs."""

import itertools
import math
from collections.abc import Callable, Container
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwgen.arch import UserError
from scheduler.aten import AtenGraph, Node, Ref
from scheduler.ir import Add, Bias, Graph, Linear, Operator, Relu, Reshape, Tensor, verify


def convert(source: AtenGraph) -> Graph:
    """Lower an ATen graph. Raises `UserError` that lists every operator without a lowering and where it stands."""
    converter = _Converter(source)
    for node in source.nodes:
        converter.take(node)
    return converter.finish()


def free_name(wanted: str, taken: Container[str]) -> str:
    """`wanted`, or `wanted_1`, `wanted_2` ... if it is taken."""
    names = (wanted if number == 0 else f"{wanted}_{number}" for number in itertools.count())
    return next(name for name in names if name not in taken)


class _Unsupported(UserError):
    """A node that cannot be lowered; the text is the reason (may be empty)."""


@dataclass(frozen=True)
class _Constant:
    """A parameter, buffer or literal tensor, maybe transposed on its way to its use."""

    name: str
    values: NDArray[np.float32]
    transposed: bool = False


class _Converter:
    """Walks the nodes in order; `values` says what each node's result has become."""

    def __init__(self, source: AtenGraph) -> None:
        self.source = source
        self.tensors = {name: Tensor(name, shape) for name, shape in source.inputs.items()}
        self.constants: dict[str, NDArray[np.float32]] = {}
        self.constant_names: dict[tuple[str, bool, tuple[int, ...]], str] = {}
        self.operators: list[Operator] = []
        self.values: dict[str, Tensor | _Constant] = dict(self.tensors)
        self.values |= {name: _Constant(*value) for name, value in source.constants.items()}
        self.storage = {name: name for name in self.values}
        self.stale: set[str] = set()
        self.problems: list[str] = []
        self.poisoned: set[str] = set()

    def take(self, node: Node) -> None:
        """Lower one node, or note why not; users of a node that failed are passed over."""
        used = {value.name for value in node.args.values() if isinstance(value, Ref)}
        handler = HANDLERS.get(node.target)
        try:
            if handler is None:
                raise _Unsupported()
            if used & self.poisoned:
                self.poisoned.add(node.name)
                return
            if used & self.stale:
                raise _Unsupported("it reads a value that an in-place operator has changed")
            self.values[node.name] = handler(self, node)
        except _Unsupported as reason:
            self.problems.append(node.where(str(reason)))
            self.poisoned.add(node.name)
            return
        self._track_storage(node)

    def finish(self) -> Graph:
        """The verified graph, or the error that lists all problems."""
        if self.problems:
            count = len(self.problems)
            subject = "1 operator that" if count == 1 else f"{count} operators that"
            raise UserError(f"the model needs {subject} cannot be lowered: {', '.join(self.problems)}")
        names = ["output"] if len(self.source.outputs) == 1 else [f"output{i}" for i in range(len(self.source.outputs))]
        outputs = {}
        for label, name in zip(names, self.source.outputs, strict=True):
            value = self.values.get(name)
            if not isinstance(value, Tensor) or name in self.stale:
                raise UserError(f"{label} of the model must be a tensor that it computes")
            outputs[label] = value.name
        graph = Graph(tuple(self.source.inputs), outputs, self.tensors, self.constants, tuple(self.operators))
        verify(graph)
        return graph

    def tensor(self, node: Node, argument: str) -> Tensor:
        """The tensor that an argument names."""
        value = self.value(node, argument)
        if not isinstance(value, Tensor):
            raise _Unsupported(f"its operand {argument} is a constant")
        return value

    def constant(self, node: Node, argument: str) -> _Constant:
        """The constant that an argument names."""
        value = self.value(node, argument)
        if not isinstance(value, _Constant):
            raise _Unsupported(f"its operand {argument} is not a parameter")
        return value

    def emit(self, node: Node, kind: type, label: str, shape: tuple[int, ...], *operands: str) -> Tensor:
        """Append an operator; its result is named after the module that holds it."""
        wanted = label or ".".join(part for part in (node.module, kind.__name__.lower()) if part)
        name = free_name(wanted, self.tensors)
        self.tensors[name] = Tensor(name, shape)
        self.operators.append(kind(name, *operands))
        return self.tensors[name]

    def linear(self, node: Node, source: Tensor, weight: _Constant, bias: Ref | None) -> Tensor:
        """Product with a constant `[K, S]` and the optional bias."""
        if weight.values.ndim != 2 or source.cols != weight.values.shape[0] or not source.shape:
            raise _Unsupported(f"it multiplies {list(source.shape)} by {list(weight.values.shape)}")
        label = weight.name.removesuffix(".weight") if weight.name.endswith(".weight") else ""
        shape = (*source.shape[:-1], weight.values.shape[1])
        result = self.emit(node, Linear, label, shape, source.name, self._keep(weight))
        return result if bias is None else self.bias(node, result, self.value(node, bias))

    def bias(self, node: Node, source: Tensor, value: Tensor | _Constant) -> Tensor:
        """Addition of a constant row."""
        if not isinstance(value, _Constant) or value.values.size != source.cols:
            raise _Unsupported("it adds a bias that is not one constant for each column")
        label = value.name if value.name.endswith(".bias") else ""
        row = _Constant(value.name, value.values.reshape(-1))
        return self.emit(node, Bias, label, source.shape, source.name, self._keep(row))

    def value(self, node: Node, argument: str | Ref) -> Tensor | _Constant:
        ref = argument if isinstance(argument, Ref) else node.args.get(argument)
        if not isinstance(ref, Ref) or ref.name not in self.values:
            raise _Unsupported(f"its operand {argument} is not a tensor")
        return self.values[ref.name]

    def _keep(self, value: _Constant) -> str:
        """Name under which the graph holds a constant; another orientation or shape of it gets a name of its own."""
        key = (value.name, value.transposed, value.values.shape)
        if key not in self.constant_names:
            name = free_name(value.name, self.constants)
            self.constant_names[key] = name
            self.constants[name] = np.ascontiguousarray(value.values)
        return self.constant_names[key]

    def _track_storage(self, node: Node) -> None:
        first = next((value.name for value in node.args.values() if isinstance(value, Ref)), node.name)
        in_place = node.target.split(".")[1].endswith("_")
        shares = in_place or node.target in SHARING
        self.storage[node.name] = self.storage.get(first, first) if shares else node.name
        if in_place and HANDLERS[node.target] is not _same:
            same = {name for name, owner in self.storage.items() if owner == self.storage[node.name]}
            self.stale |= same - {node.name}


def _linear(converter: _Converter, node: Node) -> Tensor:
    weight = converter.constant(node, "weight")
    weight = _Constant(weight.name, weight.values.T, not weight.transposed)
    return converter.linear(node, converter.tensor(node, "input"), weight, node.args.get("bias"))


def _addmm(converter: _Converter, node: Node) -> Tensor:
    if node.args.get("alpha", 1) != 1 or node.args.get("beta", 1) != 1:
        raise _Unsupported("alpha and beta must be 1")
    return converter.linear(
        node, converter.tensor(node, "mat1"), converter.constant(node, "mat2"), node.args.get("self")
    )


def _matmul(converter: _Converter, node: Node) -> Tensor:
    other = "mat2" if "mat2" in node.args else "other"
    return converter.linear(node, converter.tensor(node, "self"), converter.constant(node, other), None)


def _relu(converter: _Converter, node: Node) -> Tensor:
    source = converter.tensor(node, "self")
    return converter.emit(node, Relu, "", source.shape, source.name)


def _add(converter: _Converter, node: Node) -> Tensor:
    if node.args.get("alpha", 1) != 1:
        raise _Unsupported("alpha must be 1")
    left, right = (converter.value(node, name) for name in ("self", "other"))
    if isinstance(left, _Constant) and isinstance(right, Tensor):
        left, right = right, left
    if not isinstance(left, Tensor):
        raise _Unsupported("it adds two constants")
    if isinstance(right, _Constant):
        if node.shape != left.shape:
            raise _Unsupported(f"it broadcasts {list(left.shape)} to {list(node.shape or ())}")
        return converter.bias(node, left, right)
    if left.shape != right.shape:
        raise _Unsupported(f"it adds {list(left.shape)} and {list(right.shape)}, and broadcasting has no lowering")
    return converter.emit(node, Add, "", left.shape, left.name, right.name)


def _reshape(converter: _Converter, node: Node) -> Tensor | _Constant:
    value = converter.value(node, "self")
    if node.shape is None:
        raise _Unsupported("its shape is not known")
    if math.prod(node.shape) != (value.values.size if isinstance(value, _Constant) else math.prod(value.shape)):
        raise _Unsupported(f"it changes the number of values to {list(node.shape)}")
    if isinstance(value, _Constant):
        return _Constant(value.name, value.values.reshape(node.shape), value.transposed)
    if value.shape == node.shape:
        return value
    return converter.emit(node, Reshape, "", node.shape, value.name)


def _transpose(converter: _Converter, node: Node) -> _Constant:
    value = converter.value(node, "self")
    if not isinstance(value, _Constant) or value.values.ndim != 2:
        raise _Unsupported("only a parameter with two dimensions can be transposed")
    dims = node.args.get("dims", [node.args.get("dim0", 1), node.args.get("dim1", 0)])
    if not isinstance(dims, list | tuple) or not all(isinstance(dim, int) for dim in dims):
        raise _Unsupported("its dimensions are not numbers")
    stays = ["permute", [0, 1]], ["transpose", [0, 0]], ["transpose", [1, 1]]
    if [node.target.split(".")[1], [dim % 2 for dim in dims]] in stays:
        return value
    return _Constant(value.name, value.values.T, not value.transposed)


def _same(converter: _Converter, node: Node) -> Tensor | _Constant:
    if node.args.get("train", False):
        raise _Unsupported("dropout is in training mode")
    return converter.value(node, "input" if "input" in node.args else "self")


_RESHAPES = ("view", "reshape", "_unsafe_view", "flatten.using_ints", "unflatten.int", "squeeze", "squeeze.dim")
_RESHAPES += ("squeeze.dims", "unsqueeze")
_SAMES = ("alias", "detach", "detach_", "contiguous", "dropout", "dropout_", "lift_fresh_copy", "clone")


def _targets(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"aten.{name}" if "." in name else f"aten.{name}.default" for name in names)


SHARING = frozenset(set(_targets(_RESHAPES + _SAMES)) - set(_targets(("clone", "lift_fresh_copy", "_unsafe_view"))))
"""Operators whose result may share memory with their operand, which matters once an in-place operator follows."""

HANDLERS: dict[str, Callable[[_Converter, Node], Tensor | _Constant]] = {
    "aten.linear.default": _linear,
    "aten.addmm.default": _addmm,
    **dict.fromkeys(_targets(("mm", "matmul")), _matmul),
    **dict.fromkeys(_targets(("relu", "relu_")), _relu),
    **dict.fromkeys(_targets(("add.Tensor", "add_.Tensor")), _add),
    **dict.fromkeys(_targets(_RESHAPES), _reshape),
    **dict.fromkeys(_targets(("t", "permute", "transpose.int")), _transpose),
    **dict.fromkeys(_targets(_SAMES), _same),
}
"""Lowering of every operator that has one; `.pt2` files may use no others."""

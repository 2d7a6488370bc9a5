"""A training graph in the making: tensors, operators, and what each node of PyTorch's graph has become.

What PyTorch expresses as views stays a view as long as possible; `arrange` moves values when an operator needs them in
another order. Parameters and integer inputs lie as their first use wants (`place`), so that for example the features
of a flattened image need not move: the columns of the next weight do.
"""

import math
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwgen.arch import UserError
from scheduler.aten import Ref
from scheduler.convert import free_name
from scheduler.training.convert.joint import JointNode
from scheduler.training.graph.base import Operator
from scheduler.training.graph.ir import Kind, Tensor
from scheduler.training.graph.moves import Broadcast, Permute, Reshape
from scheduler.training.graph.shapes import Shape
from scheduler.training.graph.views import Dims, Triple, View, canonical, moved, permutation, refine, row_major


class Unsupported(UserError):
    """A node that cannot be lowered; the text is the reason (may be empty)."""


class Builder:
    """Tensors and operators so far; `values` says what the result of each node has become."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.operators: list[Operator] = []
        self.values: dict[str, Any] = {}
        self.open: set[str] = set()
        """Tensors whose place is not decided yet: parameters and integer inputs."""
        self.integers: set[str] = set()
        """Inputs of integers: class labels or token numbers, which become one-hot rows."""
        self.derived: set[str] = set()
        """Nodes that depend on the gradient of the loss."""
        self.constants: dict[str, NDArray[np.float32]] = {}
        """Tensors that the model does not hold, with PyTorch's values; kept as parameters are."""
        self.memory: dict[Any, Any] = {}
        """What forward nodes leave for the backward nodes that belong to them."""
        self._reshaped: dict[tuple[str, Shape], str] = {}
        self._arranged: dict[tuple[View, Dims, Shape], View] = {}

    # ---- operands

    def view(self, node: JointNode, argument: str) -> View:
        """The tensor that an argument names."""
        value = self.value(node, argument)
        if not isinstance(value, View):
            raise Unsupported(f"its operand {argument} is not a tensor of real numbers")
        if value.tensor in self.integers:
            raise Unsupported(f"it computes with the integers of {value.tensor}, which can only be tokens or labels")
        return value

    def optional(self, node: JointNode, argument: str) -> View | None:
        """The tensor that an argument names, or None if it names none."""
        return None if self.value(node, argument) is None else self.view(node, argument)

    def integers_of(self, node: JointNode, argument: str) -> View:
        """The integer input that an argument shows."""
        value = self.value(node, argument)
        if not isinstance(value, View) or value.tensor not in self.integers:
            raise Unsupported(f"its operand {argument} is not an integer input")
        return value

    def is_gradient(self, node: JointNode, argument: str) -> bool:
        """Whether an argument depends on the gradient of the loss."""
        ref = node.args.get(argument)
        return isinstance(ref, Ref) and ref.name in self.derived

    def value(self, node: JointNode, argument: str) -> Any:
        """What an argument has become: a `View`, a list, a marker of another operator, None, or a plain value."""
        ref = node.args.get(argument)
        return self.values[ref.name] if isinstance(ref, Ref) else ref

    def shape(self, view: View) -> Shape:
        """Shape of our tensor."""
        return self.tensors[view.tensor].shape

    def is_parameter(self, view: View) -> bool:
        """Whether a view shows a parameter (or a constant of the model)."""
        return self.tensors[view.tensor].kind == Kind.PARAMETER

    # ---- results

    def new(self, node: JointNode, label: str, shape: Shape, kind: Kind = Kind.ACTIVATION) -> str:
        """A new tensor, named after the module of the node."""
        name = free_name(".".join(part for part in (node.module, label) if part), self.tensors)
        self.tensors[name] = Tensor(name, shape, kind)
        return name

    def constant(self, label: str, values: NDArray[np.float32]) -> View:
        """A tensor with these values, which are the same for the same label; it lies as its first use wants."""
        place = f"constant {label}"
        if place not in self.values:
            name = free_name(label, self.tensors)
            self.tensors[name] = Tensor(name, (1, 1, 1, values.size), Kind.PARAMETER)
            self.open.add(name)
            self.constants[name], self.values[place] = values, View(name, row_major(values.shape))
        return self.values[place]

    def like(self, node: JointNode, label: str, view: View, kind: Kind = Kind.ACTIVATION) -> View:
        """A new tensor that lies as a view does."""
        return View(self.new(node, label, self.shape(view), kind), view.dims)

    def emit(self, item: Operator) -> None:
        """Append an operator."""
        self.operators.append(item)

    # ---- placing

    def place(self, view: View, dims: Dims, shape: Shape) -> None:
        """Decide how a parameter or integer input lies: so that `view` has these dimensions over this shape."""
        dims = tuple(canonical(dim) for dim in dims)
        if view.tensor not in self.open:
            if (view.dims, self.shape(view)) != (dims, shape):
                raise Unsupported(f"{view.tensor} is used in two ways that need it in two orders")
            return
        pairs = refine(view.dims, dims)
        if pairs is None:
            raise Unsupported(f"{view.tensor} is needed in an order that its dimensions do not have")
        self.open.remove(view.tensor)
        self.tensors[view.tensor] = replace(self.tensors[view.tensor], shape=shape)
        for name, value in self.values.items():
            if isinstance(value, View) and value.tensor == view.tensor:
                self.values[name] = View(value.tensor, tuple(moved(dim, pairs) for dim in value.dims))

    def one_hot(self, view: View, dims: Dims, shape: Shape) -> str:
        """Decide how an integer input lies as rows of classes; `dims` count rows. Gives its tensor."""
        name = view.tensor
        if name in self.open:
            self.place(view, dims, (*shape[:3], 1))
            self.tensors[name] = replace(self.tensors[name], shape=shape)
        elif (view.dims, self.shape(view)) != (dims, shape):
            raise Unsupported(f"{name} is used in two ways that need it in two orders, or with two numbers of classes")
        return name

    def settle(self, view: View) -> None:
        """Leave a parameter as it lies."""
        self.open.discard(view.tensor)

    # ---- moving values

    def reshape(self, node: JointNode, view: View, shape: Shape) -> View:
        """The same values under another shape of our tensor."""
        self.settle(view)
        if self.shape(view) == shape:
            return view
        if (view.tensor, shape) not in self._reshaped:
            name = self.new(node, "reshape", shape)
            self.emit(Reshape(name, view.tensor))
            self._reshaped[view.tensor, shape] = name
            self._reshaped[name, self.shape(view)] = view.tensor
        return View(self._reshaped[view.tensor, shape], view.dims)

    def rows(self, node: JointNode, view: View, channels: int) -> View:
        """The same values with so many of the innermost as channels."""
        shape = self.shape(view)
        if shape[3] == channels:
            return view
        outer = math.prod(shape) // channels
        images = shape[0] if outer % shape[0] == 0 else 1
        return self.reshape(node, view, (images, 1, outer // images, channels))

    def arrange(self, node: JointNode, view: View, dims: Dims, shape: Shape) -> View:
        """The same values of PyTorch's tensor with these dimensions over this shape, moved if they must be."""
        dims = tuple(canonical(dim) for dim in dims)
        if (view, dims, shape) not in self._arranged:
            self._arranged[view, dims, shape] = self._moved(node, view, dims, shape)
        return self._arranged[view, dims, shape]

    def _moved(self, node: JointNode, view: View, dims: Dims, shape: Shape) -> View:
        if view.sizes != View("", dims).sizes:
            raise ValueError(f"a view of {list(view.sizes)} cannot lie as one of {list(View('', dims).sizes)}")
        self.settle(view)
        pairs = refine(view.dims, dims)
        if pairs is None:
            plain = self.arrange(node, view, row_major(view.sizes), (1, 1, 1, math.prod(view.sizes)))
            return self.arrange(node, plain, dims, shape)
        repeated = [pair for pair in pairs if pair[1] == 0]
        kept = self._permute(node, view, [pair for pair in pairs if pair[1]])
        result = self._repeat(node, kept, pairs, shape) if repeated else kept
        return self.reshape(node, View(result, dims), shape)

    def _permute(self, node: JointNode, view: View, pairs: list[Triple]) -> str:
        """The values in the order of the second strides, without what is repeated."""
        split, order = permutation(pairs) if pairs else ((1,), (0,))
        if order == tuple(range(len(order))):
            return view.tensor
        name = self.new(node, "permute", (1, 1, 1, math.prod(split)))
        self.emit(Permute(name, view.tensor, split, order))
        return name

    def _repeat(self, node: JointNode, tensor: str, pairs: list[Triple], shape: Shape) -> str:
        """Repeat the values of factors whose first stride is 0; the result has `shape` if whole axes are repeated."""
        order = [(size, old == 0) for size, old, _ in sorted(pairs, key=lambda pair: -pair[2])]
        flags = repeated_axes(order, shape)
        if flags is None:
            runs = [(math.prod(size for size, _ in run), flag) for flag, run in groupby(order, key=lambda one: one[1])]
            if len(runs) > 4:
                raise Unsupported("it repeats values along too many dimensions")
            runs = [(1, False)] * (4 - len(runs)) + runs
            shape, flags = tuple(size for size, _ in runs), [flag for _, flag in runs]
        small = tuple(1 if flag else size for size, flag in zip(shape, flags))
        source = self.reshape(node, View(tensor, ()), small)
        name = self.new(node, "repeated", shape)
        self.emit(Broadcast(name, source.tensor))
        return name

    def alike(self, node: JointNode, one: View, other: View) -> tuple[View, View]:
        """Two views of the same sizes as tensors that lie alike."""
        if one.repeats and not other.repeats:
            return self.arrange(node, one, other.dims, self.shape(other)), other
        if one.repeats and one.dims != other.dims:
            raise Unsupported("it combines two repeated values")
        if one.dims == other.dims:
            return one, self.reshape(node, other, self.shape(one))
        return one, self.arrange(node, other, one.dims, self.shape(one))


def repeated_axes(order: list[tuple[int, bool]], shape: Shape) -> list[bool] | None:
    """Whether each axis is repeated, for factors (size, repeated) from the outermost; None if one is so in part."""
    left, flags = list(order), []
    for length in shape:
        inside: set[bool] = set()
        while length > 1:
            size, flag = left.pop(0)
            if length % size and size % length:
                return None
            inside.add(flag)
            if size > length:
                left.insert(0, (size // length, flag))
            length //= min(size, length)
        if len(inside) > 1:
            return None
        flags.append(True in inside)
    return flags

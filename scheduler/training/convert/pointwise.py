"""Pointwise operators, sums and means -> ours, forward and backward."""

import math
from dataclasses import dataclass

from scheduler.training.convert.attention import scale
from scheduler.training.convert.builder import Builder, Unsupported
from scheduler.training.convert.joint import JointNode
from scheduler.training.convert.losses import Tangent
from scheduler.training.convert.products import add_bias
from scheduler.training.graph.operators import (
    Add,
    AvgPool,
    BiasGrad,
    Gelu,
    GeluGrad,
    Mul,
    Relu,
    ReluGrad,
    Silu,
    SiluGrad,
)
from scheduler.training.graph.views import View, block, scaled, standard


@dataclass(frozen=True)
class Counter:
    """An integer buffer that only counts steps."""


def _combine(b: Builder, node: JointNode, kind: type[Add] | type[Mul], label: str, one: View, other: View) -> View:
    one, other = b.alike(node, _stretched(one, node.shape), _stretched(other, node.shape))
    result = b.like(node, label, one)
    b.emit(kind(result.tensor, one.tensor, other.tensor))
    return result


def _stretched(view: View, sizes: tuple[int, ...]) -> View:
    """The view as it is broadcast to other sizes."""
    dims = ((),) * (len(sizes) - len(view.dims)) + view.dims
    return View(view.tensor, tuple(dim or ((size, 0),) for dim, size in zip(dims, sizes)))


def _add(b: Builder, node: JointNode) -> object:
    if node.args.get("alpha", 1) != 1:
        raise Unsupported("alpha must be 1")
    if isinstance(b.value(node, "self"), Counter):
        return Counter()
    one, other = b.view(node, "self"), b.view(node, "other")
    if b.is_parameter(one):
        one, other = other, one
    if b.is_parameter(one):
        raise Unsupported("it adds two parameters")
    if b.is_parameter(other):
        return add_bias(b, node, _stretched(one, node.shape), other)
    return _combine(b, node, Add, "sum", one, other)


def _sub(b: Builder, node: JointNode) -> View:
    if node.args.get("alpha", 1) != 1:
        raise Unsupported("alpha must be 1")
    one, other = b.view(node, "self"), b.view(node, "other")
    if b.is_parameter(one) or b.is_parameter(other):
        raise Unsupported("it subtracts a parameter, or from one")
    return _combine(b, node, Add, "difference", one, scale(b, node, other, -1.0, "negative"))


def _mul(b: Builder, node: JointNode) -> object:
    for tensor, number in (("self", "other"), ("other", "self")):
        factor = b.value(node, number)
        if isinstance(factor, int | float):
            return _times(b, node, tensor, factor)
    one, other = b.view(node, "self"), b.view(node, "other")
    if b.is_parameter(one) or b.is_parameter(other):
        raise Unsupported("it multiplies by a parameter element by element")
    return _combine(b, node, Mul, "product", one, other)


def _times(b: Builder, node: JointNode, tensor: str, factor: float) -> object:
    value = b.value(node, tensor)
    if isinstance(value, Tangent):
        return value.times(factor)
    view = b.view(node, tensor)
    if b.is_parameter(view):
        raise Unsupported("it changes a parameter")
    return scale(b, node, view, factor)


def _div(b: Builder, node: JointNode) -> object:
    divisor = b.value(node, "other")
    if not isinstance(divisor, int | float) or divisor == 0:
        raise Unsupported("it divides by a tensor")
    return _times(b, node, "self", 1 / divisor)


def _neg(b: Builder, node: JointNode) -> View:
    return _times(b, node, "self", -1.0)


def _relu(b: Builder, node: JointNode) -> View:
    return _unary(b, node, "relu", Relu)


def _unary(b: Builder, node: JointNode, label: str, kind: type, **settings: object) -> View:
    view = b.view(node, "self")
    if b.is_parameter(view):
        raise Unsupported("it changes a parameter")
    result = b.like(node, label, view)
    b.emit(kind(result.tensor, view.tensor, **settings))
    return result


def _binary(b: Builder, node: JointNode, label: str, kind: type, **settings: object) -> View:
    """Gradient of a pointwise operator, from that of its result and one tensor of the forward pass."""
    kept, gradient = b.alike(node, b.view(node, "self"), b.view(node, "grad_output"))
    result = b.like(node, label, kept)
    b.emit(kind(result.tensor, gradient.tensor, kept.tensor, **settings))
    return result


def _threshold_backward(b: Builder, node: JointNode) -> View:
    if node.args["threshold"] != 0:
        raise Unsupported("its threshold must be 0")
    return _binary(b, node, "relu_grad", ReluGrad)


def _tanh(node: JointNode) -> bool:
    return node.args.get("approximate", "none") == "tanh"


# ---- sums and means


def _inner(view: View, dims: set[int]) -> int | None:
    """Values that are left if some dimensions go, provided that they are the innermost of our tensor."""
    whole = block(tuple(factor for place, dim in enumerate(view.dims) if place not in dims for factor in dim))
    return whole[0] if whole is not None and whole[1] == 1 else None


def _area(view: View, dims: set[int]) -> tuple[int, int] | None:
    """How many values some dimensions hold together and how far apart, provided that they are pixels or tokens."""
    area = block(tuple(factor for dim in dims for factor in view.dims[dim]))
    return None if area is None or area[1] == 1 else area


def _reduced(view: View, tensor: str, dims: set[int], keep: bool) -> View:
    """The view of what is left; `tensor` holds the innermost values alone."""
    left = [() if place in dims else dim for place, dim in enumerate(view.dims)]
    return View(tensor, tuple(dim for place, dim in enumerate(left) if keep or place not in dims))


def _dims_of(b: Builder, node: JointNode, view: View) -> set[int]:
    given = node.args.get("dim") or range(len(view.sizes))
    return {dim % len(view.sizes) for dim in given}


def _sum(b: Builder, node: JointNode) -> View:
    view = b.view(node, "self")
    dims, keep = _dims_of(b, node, view), node.args.get("keepdim", False)
    if view.repeats or (_inner(view, dims) is None and _area(view, dims) is None):
        view = b.arrange(node, view, *standard(view.sizes))
    if all(view.sizes[dim] == 1 for dim in dims):
        return _reduced(view, view.tensor, dims, keep)
    inner = _inner(view, dims)
    if inner is None:
        area = math.prod(view.sizes[dim] for dim in dims)
        return scale(b, node, _average(b, node, view, dims, keep), area, "sum")
    view = b.rows(node, view, inner)
    name = b.new(node, "bias_grad" if node.backward else "sum", (1, 1, 1, inner))
    b.emit(BiasGrad(name, view.tensor))
    return _reduced(view, name, dims, keep)


def _mean(b: Builder, node: JointNode) -> View:
    view = b.view(node, "self")
    return _average(b, node, view, _dims_of(b, node, view), node.args.get("keepdim", False))


def _average(b: Builder, node: JointNode, view: View, dims: set[int], keep: bool) -> View:
    """Average over rows and columns of images, or over tokens."""
    if all(view.sizes[dim] == 1 for dim in dims):
        return _reduced(view, view.tensor, dims, keep)
    area = _area(view, dims)
    if view.repeats or area is None:
        raise Unsupported("sums and means have a lowering over all but the channels, or over pixels or tokens")
    size, channels = area
    shape = b.shape(view)
    if shape[1] * shape[2] != size or shape[3] != channels:
        view = b.reshape(node, view, (math.prod(shape) // (size * channels), 1, size, channels))
        shape = b.shape(view)
    name = b.new(node, "mean", (shape[0], 1, 1, channels))
    b.emit(AvgPool(name, view.tensor, kernel=shape[1:3], stride=shape[1:3], padding=(0, 0)))
    left = [() if place in dims else scaled(dim, size * channels, 1, size) for place, dim in enumerate(view.dims)]
    return View(name, tuple(dim for place, dim in enumerate(left) if keep or place not in dims))


HANDLERS = {
    "aten.add.Tensor": _add,
    "aten.sub.Tensor": _sub,
    **dict.fromkeys(("aten.mul.Tensor", "aten.mul.Scalar"), _mul),
    **dict.fromkeys(("aten.div.Tensor", "aten.div.Scalar"), _div),
    "aten.neg.default": _neg,
    "aten.relu.default": _relu,
    "aten.threshold_backward.default": _threshold_backward,
    "aten.gelu.default": lambda b, node: _unary(b, node, "gelu", Gelu, tanh=_tanh(node)),
    "aten.gelu_backward.default": lambda b, node: _binary(b, node, "gelu_grad", GeluGrad, tanh=_tanh(node)),
    "aten.silu.default": lambda b, node: _unary(b, node, "silu", Silu),
    "aten.silu_backward.default": lambda b, node: _binary(b, node, "silu_grad", SiluGrad),
    "aten.sum.dim_IntList": _sum,
    "aten.mean.dim": _mean,
}
"""Lowering of pointwise operators, sums and means."""

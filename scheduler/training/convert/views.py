"""PyTorch's views and their like -> views of ours; slices and concatenations -> operators."""

import math

from scheduler.training.convert.builder import Builder, Unsupported
from scheduler.training.convert.joint import JointNode
from scheduler.training.graph.moves import Concat, Pad, Slice
from scheduler.training.graph.shapes import Shape
from scheduler.training.graph.views import Dims, View, canonical, regroup, row_major, scaled, standard


def _viewed(b: Builder, node: JointNode) -> View:
    value = b.value(node, "self" if "self" in node.args else "input")
    if not isinstance(value, View):
        raise Unsupported("it rearranges what is not a tensor of real numbers")
    return value


def _same(b: Builder, node: JointNode) -> object:
    return b.value(node, "self" if "self" in node.args else "input")


def _reshape(b: Builder, node: JointNode) -> View:
    view = _viewed(b, node)
    dims = regroup(view.dims, node.shape)
    if dims is None:
        view = b.arrange(node, view, row_major(view.sizes), (1, 1, 1, math.prod(view.sizes)))
        dims = regroup(view.dims, node.shape)
    return View(view.tensor, dims)


def _permute(b: Builder, node: JointNode) -> View:
    view = _viewed(b, node)
    rank = len(view.dims)
    order = list(range(rank))
    if "dims" in node.args:
        order = [dim % rank for dim in node.args["dims"]]
    elif rank > 1:
        one, other = node.args.get("dim0", 0) % rank, node.args.get("dim1", 1) % rank
        order[one], order[other] = other, one
    return View(view.tensor, tuple(view.dims[dim] for dim in order))


def _resize(b: Builder, node: JointNode) -> View:
    """`squeeze` and `unsqueeze`: dimensions of size 1 have no factors."""
    view = _viewed(b, node)
    return View(view.tensor, regroup(view.dims, node.shape))


def _expand(b: Builder, node: JointNode) -> View:
    view = _viewed(b, node)
    dims = ((),) * (len(node.shape) - len(view.dims)) + view.dims
    sizes = (1,) * (len(node.shape) - len(view.dims)) + view.sizes
    grown = zip(dims, sizes, node.shape)
    return View(view.tensor, tuple(((new, 0),) if old == 1 and new > 1 else dim for dim, old, new in grown))


def cut(b: Builder, node: JointNode, view: View, dim: int, start: int, length: int) -> View:
    """Positions `start` onwards of one dimension, `length` of them."""
    if length == view.sizes[dim]:
        return view
    view, axis, unit = _axis(b, node, view, dim)
    b.memory["cut", view.sizes, dim] = (view.dims, b.shape(view))
    shape = b.shape(view)
    part = (*shape[:axis], length * unit, *shape[axis + 1 :])
    name = b.new(node, "slice", part)
    b.emit(Slice(name, view.tensor, axis, start * unit))
    return View(name, _part(view.dims, dim, length))


def _axis(b: Builder, node: JointNode, view: View, dim: int) -> tuple[View, int, int]:
    """The view with a dimension as the outer part of an axis of our tensor, the axis, and its channels a position."""
    if view.repeats or b.is_parameter(view):
        raise Unsupported("it takes a part of a parameter or of a repeated value")
    if len(view.dims[dim]) != 1:
        raise Unsupported("it takes a part of a dimension whose values are not evenly spaced")
    size, stride = view.dims[dim][0]
    shape = b.shape(view)
    for axis in range(4):
        inner = math.prod(shape[axis + 1 :])
        if inner * shape[axis] == size * stride and stride % inner == 0:
            return view, axis, stride // inner
    outer = math.prod(shape) // (size * stride)
    return b.reshape(node, view, (outer, 1, size, stride)), 2, 1


def _part(dims: Dims, dim: int, length: int) -> Dims:
    """Dimensions over what a slice of a dimension leaves."""
    size, stride = dims[dim][0]
    left = [scaled(one, size * stride, length, size) for one in dims]
    left[dim] = canonical(((length, stride),))
    return tuple(canonical(one) for one in left)


def _without(view: View, dim: int) -> View:
    return View(view.tensor, view.dims[:dim] + view.dims[dim + 1 :])


def _select(b: Builder, node: JointNode) -> View:
    view = _viewed(b, node)
    dim = node.args["dim"] % len(view.dims)
    return _without(cut(b, node, view, dim, node.args["index"] % view.sizes[dim], 1), dim)


def _slice(b: Builder, node: JointNode) -> View:
    view = _viewed(b, node)
    dim = node.args.get("dim", 0) % len(view.dims)
    start, stop, _ = slice(node.args.get("start"), node.args.get("end")).indices(view.sizes[dim])
    if node.args.get("step", 1) != 1:
        raise Unsupported("its step must be 1")
    return cut(b, node, view, dim, start, stop - start)


def _unbind(b: Builder, node: JointNode) -> list[View]:
    view = _viewed(b, node)
    dim = node.args.get("dim", 0) % len(view.dims)
    return [_without(cut(b, node, view, dim, index, 1), dim) for index in range(view.sizes[dim])]


def _split(b: Builder, node: JointNode) -> list[View]:
    view = _viewed(b, node)
    dim = node.args.get("dim", 0) % len(view.dims)
    sizes = node.args.get("split_sizes")
    if sizes is None:
        step, total = node.args["split_size"], view.sizes[dim]
        sizes = [min(step, total - start) for start in range(0, total, step)]
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    return [cut(b, node, view, dim, start, size) for start, size in zip(starts, sizes)]


def _whole(b: Builder, node: JointNode, sizes: tuple[int, ...], dim: int) -> tuple[Dims, Shape, int]:
    """How the whole of some parts lies, and its axis: as it was cut in the forward pass, if it was."""
    dims, shape = b.memory.get(("cut", sizes, dim)) or standard(sizes)
    for axis in range(4):
        inner = math.prod(shape[axis + 1 :])
        size, stride = dims[dim][0]
        if inner * shape[axis] == size * stride and stride % inner == 0:
            return dims, shape, axis
    raise Unsupported("it puts parts together along a dimension that is not the outer part of an axis")


def _cat(b: Builder, node: JointNode) -> View:
    parts = [b.values[ref.name] for ref in node.args["tensors"]]
    if not all(isinstance(part, View) and part.tensor not in b.integers for part in parts):
        raise Unsupported("it puts together what is not a tensor of real numbers")
    dim = node.args.get("dim", 0) % len(node.shape)
    if node.target.startswith("aten.stack"):
        parts = [View(part.tensor, (*part.dims[:dim], (), *part.dims[dim:])) for part in parts]
    dims, shape, axis = _whole(b, node, node.shape, dim)
    placed = []
    for part in parts:
        length = part.sizes[dim]
        channels = shape[axis] * length // node.shape[dim]
        small = (*shape[:axis], channels, *shape[axis + 1 :])
        placed.append(b.arrange(node, part, _part(dims, dim, length), small).tensor)
    name = b.new(node, "concat", shape)
    b.emit(Concat(name, tuple(placed), axis))
    return View(name, dims)


def _pad(b: Builder, node: JointNode) -> View:
    """`select_backward` and `slice_backward`."""
    view = b.view(node, "grad_output")
    sizes = tuple(node.args["input_sizes"])
    dim = node.args["dim"] % len(sizes)
    if "index" in node.args:
        start = node.args["index"] % sizes[dim]
        view = View(view.tensor, (*view.dims[:dim], (), *view.dims[dim:]))
    else:
        start, _, step = slice(node.args["start"], node.args["end"], node.args["step"]).indices(sizes[dim])
        if step != 1:
            raise Unsupported("its step must be 1")
    length = view.sizes[dim]
    if length == sizes[dim]:
        return view
    dims, shape, axis = _whole(b, node, sizes, dim)
    unit = shape[axis] // sizes[dim]
    part = (*shape[:axis], length * unit, *shape[axis + 1 :])
    source = b.arrange(node, view, _part(dims, dim, length), part)
    name = b.new(node, "pad", shape)
    b.emit(Pad(name, source.tensor, axis, start * unit))
    return View(name, dims)


def _getitem(b: Builder, node: JointNode) -> object:
    return b.value(node, "0")[node.args["1"]]


HANDLERS = {
    **dict.fromkeys(("aten.view.default", "aten._unsafe_view.default", "aten.reshape.default"), _reshape),
    **dict.fromkeys(("aten.permute.default", "aten.transpose.int", "aten.t.default"), _permute),
    **dict.fromkeys(("aten.unsqueeze.default", "aten.squeeze.default"), _resize),
    **dict.fromkeys(("aten.squeeze.dim", "aten.squeeze.dims"), _resize),
    "aten.expand.default": _expand,
    **dict.fromkeys(("aten.detach.default", "aten.alias.default", "aten.clone.default"), _same),
    "aten.select.int": _select,
    "aten.slice.Tensor": _slice,
    "aten.unbind.int": _unbind,
    **dict.fromkeys(("aten.split.Tensor", "aten.split_with_sizes.default"), _split),
    **dict.fromkeys(("aten.cat.default", "aten.stack.default"), _cat),
    **dict.fromkeys(("aten.select_backward.default", "aten.slice_backward.default"), _pad),
    "getitem": _getitem,
}
"""Lowering of operators that only rearrange values."""

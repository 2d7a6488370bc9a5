"""Normalisations, pooling and dropout -> operators, forward and backward."""

import math
from dataclasses import dataclass

from scheduler.training.convert.builder import Builder, Unsupported
from scheduler.training.convert.joint import JointNode
from scheduler.training.convert.products import images
from scheduler.training.graph.ir import Kind
from scheduler.training.graph.layout import Dim
from scheduler.training.graph.operators import (
    AvgPool,
    AvgPoolGrad,
    BatchNorm,
    BatchNormGrad,
    DropoutMask,
    LayerNorm,
    LayerNormGrad,
    MaxPool,
    MaxPoolGrad,
    Mul,
)
from scheduler.training.graph.shapes import Shape
from scheduler.training.graph.views import Dims, View, block, canonical, row_major, standard

# ---- normalisations


def vector(b: Builder, view: View | None, dims: Dims) -> str | None:
    """Tensor of a parameter of channels; its dimensions lie as those of the values it belongs to."""
    if view is None:
        return None
    b.place(view, dims, (1, 1, 1, math.prod(view.sizes)))
    return view.tensor


def _channels(b: Builder, node: JointNode, argument: str) -> View:
    """Values `[N, C, ...]` with C as our channels."""
    view = b.view(node, argument)
    if view.repeats or view.dims[1] != canonical(((view.sizes[1], 1),)):
        view = b.arrange(node, view, *standard(view.sizes))
    if view.dims[1] != canonical(((view.sizes[1], 1),)):
        raise Unsupported("batch normalisation has a lowering for rows and images")
    return b.rows(node, view, view.sizes[1])


def _batch_norm(b: Builder, node: JointNode) -> list[View | None]:
    if not node.args.get("training"):
        raise Unsupported("batch normalisation must use the statistics of the batch")
    view = _channels(b, node, "input")
    count, dims = view.sizes[1], (view.dims[1],)
    result = b.like(node, "normalized", view)
    mean, invstd = (View(b.new(node, name, (1, 1, 1, count), Kind.VECTOR), dims) for name in ("mean", "invstd"))
    gamma, beta = (vector(b, b.optional(node, name), dims) for name in ("weight", "bias"))
    running = [b.optional(node, name) for name in ("running_mean", "running_var")]
    names = [None if item is None else item.tensor for item in running]
    settings = float(node.args["momentum"]), float(node.args["eps"])
    b.emit(BatchNorm(result.tensor, mean.tensor, invstd.tensor, view.tensor, gamma, beta, *names, *settings))
    return [result, mean, invstd, *running]


def _batch_norm_backward(b: Builder, node: JointNode) -> list[View | None]:
    view, gradient = b.alike(node, _channels(b, node, "input"), b.view(node, "grad_out"))
    saved = [b.view(node, name).tensor for name in ("save_mean", "save_invstd")]
    gamma = b.optional(node, "weight")
    results = _results(b, node, view, (1, 1, 1, view.sizes[1]), (view.dims[1],))
    _norm_grad(b, node, BatchNormGrad, results, gradient, view, saved, gamma)
    return results


def _results(b: Builder, node: JointNode, view: View, shape: Shape, dims: Dims) -> list[View | None]:
    """New tensors for the gradients of input, weight and bias of a normalisation, where they are wanted."""
    wanted = node.args["output_mask"]
    vectors = [
        View(b.new(node, label, shape), dims) if want else None
        for want, label in zip(wanted[1:], ("gamma_grad", "beta_grad"))
    ]
    return [b.like(node, "input_grad", view) if wanted[0] else None, *vectors]


def _norm_grad(
    b: Builder,
    node: JointNode,
    kind: type[BatchNormGrad] | type[LayerNormGrad],
    results: list[View | None],
    gradient: View,
    view: View,
    saved: list[str],
    gamma: View | None,
) -> None:
    names = [None if item is None else item.tensor for item in results]
    b.emit(kind(*names, gradient.tensor, view.tensor, *saved, None if gamma is None else gamma.tensor))


def normalized(b: Builder, node: JointNode) -> tuple[View, Dims, int]:
    """Values of a layer normalisation as rows, the dimensions that it runs over, and how many values they hold."""
    view, rank = b.view(node, "input"), len(node.args["normalized_shape"])
    width = math.prod(view.sizes[len(view.sizes) - rank :])
    if view.repeats or block(_inner(view, rank)) != (width, 1):
        view = b.arrange(node, view, row_major(view.sizes), (1, 1, math.prod(view.sizes) // width, width))
    return b.rows(node, view, width), view.dims[len(view.dims) - rank :], width


def _inner(view: View, rank: int) -> Dim:
    """Factors of the last dimensions."""
    return tuple(factor for dim in view.dims[len(view.dims) - rank :] for factor in dim)


def _layer_norm(b: Builder, node: JointNode) -> list[View]:
    view, inner, _ = normalized(b, node)
    result = b.like(node, "normalized", view)
    rows = (*b.shape(view)[:3], 1)
    mean, invstd = (b.new(node, name, rows, Kind.VECTOR) for name in ("mean", "invstd"))
    gamma, beta = (vector(b, b.optional(node, name), inner) for name in ("weight", "bias"))
    b.emit(LayerNorm(result.tensor, mean, invstd, view.tensor, gamma, beta, float(node.args["eps"])))
    return [result, View(mean, ()), View(invstd, ())]


def _layer_norm_backward(b: Builder, node: JointNode) -> list[View | None]:
    view, inner, width = normalized(b, node)
    view, gradient = b.alike(node, view, b.view(node, "grad_out"))
    saved = [b.view(node, name).tensor for name in ("mean", "rstd")]
    results = _results(b, node, view, (1, 1, 1, width), inner)
    _norm_grad(b, node, LayerNormGrad, results, gradient, view, saved, b.optional(node, "weight"))
    return results


# ---- pooling


@dataclass(frozen=True)
class _Indices:
    """PyTorch's places of the maxima; ours are found again from the maxima themselves."""

    maxima: View


def _window_of(node: JointNode) -> dict[str, tuple[int, int]]:
    given = {name: node.args.get(name) for name in ("kernel_size", "stride", "padding", "dilation")}
    kernel = tuple(given["kernel_size"])
    stride = tuple(given["stride"] or kernel)
    padding = tuple(given["padding"] or (0, 0))
    if node.args.get("ceil_mode") or any(step != 1 for step in given["dilation"] or (1,)):
        raise Unsupported("pooling with ceil_mode or dilation has no lowering")
    if any(padding) and not node.args.get("count_include_pad", True):
        raise Unsupported("average pooling must count its padding")
    if node.args.get("divisor_override") is not None:
        raise Unsupported("average pooling must divide by the area of its kernel")
    pairs = {"kernel": kernel, "stride": stride, "padding": padding}
    return {name: pair * 2 if len(pair) == 1 else pair for name, pair in pairs.items()}


def _adaptive(view: View, size: tuple[int, ...]) -> dict[str, tuple[int, int]]:
    """Window of an adaptive pooling to a size that divides that of its input."""
    if any(have % want for have, want in zip(view.sizes[2:], size)):
        raise Unsupported(f"it pools {list(view.sizes[2:])} to {list(size)}, which does not divide it")
    kernel = tuple(have // want for have, want in zip(view.sizes[2:], size))
    return {"kernel": kernel, "stride": kernel, "padding": (0, 0)}


def _pooled(b: Builder, node: JointNode, label: str, sizes: tuple[int, ...]) -> View:
    dims, shape = standard(sizes)
    return View(b.new(node, label, shape), dims)


def _max_pool(b: Builder, node: JointNode) -> list[object]:
    view = images(b, node, b.view(node, "self"))
    adaptive = "output_size" in node.args
    window = _adaptive(view, node.args["output_size"]) if adaptive else _window_of(node)
    result = _pooled(b, node, "pooled", node.shapes[0])
    b.emit(MaxPool(result.tensor, view.tensor, **window))
    return [result, _Indices(result)]


def _max_pool_backward(b: Builder, node: JointNode) -> View:
    view, indices = images(b, node, b.view(node, "self")), b.value(node, "indices")
    if not isinstance(indices, _Indices):
        raise Unsupported("its indices are not those of a pooling")
    gradient = images(b, node, b.view(node, "grad_output"))
    window = _window_of(node) if "kernel_size" in node.args else _adaptive(view, gradient.sizes[2:])
    result = b.like(node, "pool_grad", view)
    b.emit(MaxPoolGrad(result.tensor, gradient.tensor, view.tensor, indices.maxima.tensor, **window))
    return result


def _avg_pool(b: Builder, node: JointNode) -> View:
    view = images(b, node, b.view(node, "self"))
    window = _adaptive(view, node.args["output_size"]) if "output_size" in node.args else _window_of(node)
    result = _pooled(b, node, "pooled", node.shape)
    b.emit(AvgPool(result.tensor, view.tensor, **window))
    return result


def _avg_pool_backward(b: Builder, node: JointNode) -> View:
    view, gradient = b.view(node, "self"), images(b, node, b.view(node, "grad_output"))
    window = _window_of(node) if "kernel_size" in node.args else _adaptive(view, gradient.sizes[2:])
    result = _pooled(b, node, "pool_grad", view.sizes)
    b.emit(AvgPoolGrad(result.tensor, gradient.tensor, **window))
    return result


# ---- dropout


@dataclass(frozen=True)
class _NoMask:
    """Mask of a dropout that drops nothing."""


def _dropout(b: Builder, node: JointNode) -> list[object]:
    view, p = b.view(node, "input"), float(node.args["p"])
    if p == 0 or not node.args["train"]:
        return [view, _NoMask()]
    if p >= 1:
        raise Unsupported("dropout must keep something")
    if view.repeats:
        view = b.arrange(node, view, *standard(view.sizes))
    mask = b.like(node, "mask", view, Kind.MASK)
    streams = sum(isinstance(item, DropoutMask) for item in b.operators)
    b.emit(DropoutMask(mask.tensor, p, streams))
    result = b.like(node, "dropped", view)
    b.emit(Mul(result.tensor, view.tensor, mask.tensor))
    return [result, mask]


def _dropout_backward(b: Builder, node: JointNode) -> View:
    gradient, mask = b.view(node, "grad_output"), b.value(node, "mask")
    if isinstance(mask, _NoMask):
        return gradient
    mask, gradient = b.alike(node, b.view(node, "mask"), gradient)
    result = b.like(node, "dropped_grad", mask)
    b.emit(Mul(result.tensor, gradient.tensor, mask.tensor))
    return result


HANDLERS = {
    "aten._native_batch_norm_legit_functional.default": _batch_norm,
    "aten._native_batch_norm_legit.no_stats": _batch_norm,
    "aten.native_batch_norm_backward.default": _batch_norm_backward,
    "aten.native_layer_norm.default": _layer_norm,
    "aten.native_layer_norm_backward.default": _layer_norm_backward,
    **dict.fromkeys(("aten.max_pool2d_with_indices.default", "aten.adaptive_max_pool2d.default"), _max_pool),
    "aten.max_pool2d_with_indices_backward.default": _max_pool_backward,
    "aten.adaptive_max_pool2d_backward.default": _max_pool_backward,
    **dict.fromkeys(("aten.avg_pool2d.default", "aten._adaptive_avg_pool2d.default"), _avg_pool),
    **dict.fromkeys(
        ("aten.avg_pool2d_backward.default", "aten._adaptive_avg_pool2d_backward.default"), _avg_pool_backward
    ),
    "aten.native_dropout.default": _dropout,
    "aten.native_dropout_backward.default": _dropout_backward,
}
"""Lowering of normalisations, pooling and dropout."""

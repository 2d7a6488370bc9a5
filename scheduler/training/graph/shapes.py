"""Which shapes fit together: for each operator, whether its tensors have shapes that it allows."""

import math
from collections.abc import Callable, Mapping

from scheduler.training.graph.base import Filter, Operator, Window
from scheduler.training.graph.moves import Broadcast, Concat, Pad, Permute, Reshape, Slice
from scheduler.training.graph.operators import (
    Add,
    AvgPool,
    AvgPoolGrad,
    BatchNorm,
    BatchNormGrad,
    Bias,
    BiasGrad,
    Conv,
    ConvInputGrad,
    ConvWeightGrad,
    CrossEntropy,
    DropoutMask,
    Gelu,
    GeluGrad,
    LayerNorm,
    LayerNormGrad,
    MatMul,
    MaxPool,
    MaxPoolGrad,
    Mse,
    Mul,
    Relu,
    ReluGrad,
    Scale,
    Silu,
    SiluGrad,
    Softmax,
    SoftmaxGrad,
)
from scheduler.training.graph.updates import Adam, Sgd

Shape = tuple[int, int, int, int]
Shapes = Callable[[str], Shape]
Rules = Mapping[type[Operator], Callable[..., bool]]
"""For each operator: whether it and what gives the shapes of names fit together."""
SCALAR: Shape = (1, 1, 1, 1)


def fits(item: Operator, shape: Shapes, others: Rules | None = None) -> bool:
    """Whether all operands and results of an operator have shapes that it allows; `shape` gives that of a name.

    `others` are rules of operators that no training step has.
    """
    rule = RULES.get(type(item)) or (others or {})[type(item)]
    return rule(item, shape)


def windowed(window: Window, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the output over an input of that height and width."""
    parts = zip(size, window.kernel, window.stride, window.padding)
    return tuple((length + 2 * pad - kernel) // step + 1 for length, kernel, step, pad in parts)


def _all_same(*fields: str) -> Callable[[Operator, Shapes], bool]:
    """Rule: the tensors in these fields have one shape (a field may hold None)."""

    def rule(item: Operator, shape: Shapes) -> bool:
        names = [getattr(item, field) for field in fields]
        return len({shape(name) for name in names if name is not None}) == 1

    return rule


def _filter(item: Filter, images: Shape, weight: Shape, result: Shape) -> bool:
    channels = images[3] == weight[3] * item.groups and weight[0] % item.groups == 0
    return channels and weight[1:3] == item.kernel and result == (images[0], *windowed(item, images[1:3]), weight[0])


def _window(item: Window, images: Shape, result: Shape) -> bool:
    return result == (images[0], *windowed(item, images[1:3]), images[3])


def _matmul(item: MatMul, shape: Shapes) -> bool:
    left, right, output = (head_matrix(shape(name), item.heads) for name in (item.left, item.right, item.output))
    if left is None or right is None or output is None or len({left[0], right[0], output[0]}) != 1:
        return False
    left, right = (
        (left[:0:-1] if item.transpose_left else left[1:]),
        (right[:0:-1] if item.transpose_right else right[1:]),
    )
    return left[1] == right[0] and output[1:] == (left[0], right[1])


def head_matrix(shape: Shape, heads: int) -> tuple[int, int, int] | None:
    """Samples, rows and columns of the matrix of one head, or None if there is no such matrix."""
    samples, height, width, channels = shape
    if height == heads:
        return samples, width, channels
    return (samples, width, channels // heads) if height == 1 and channels % heads == 0 else None


def _vectors(channels: int, shape: Shapes, *names: str | None) -> bool:
    return all(shape(name) == (1, 1, 1, channels) for name in names if name is not None)


def _bias(item: Bias, shape: Shapes) -> bool:
    return shape(item.output) == shape(item.input) and _vectors(shape(item.input)[3], shape, item.bias)


def _batch_norm(item: BatchNorm, shape: Shapes) -> bool:
    vectors = (item.mean, item.invstd, item.gamma, item.beta, item.running_mean, item.running_var)
    return shape(item.output) == shape(item.input) and _vectors(shape(item.input)[3], shape, *vectors)


def _norm_grad(item: BatchNormGrad | LayerNormGrad, shape: Shapes) -> bool:
    rows = shape(item.input)
    statistics = (1, 1, 1, rows[3]) if isinstance(item, BatchNormGrad) else (*rows[:3], 1)
    same = all(shape(name) == rows for name in (item.output, item.gradient) if name is not None)
    saved = shape(item.mean) == shape(item.invstd) == statistics
    return same and saved and _vectors(rows[3], shape, item.gamma_grad, item.beta_grad, item.gamma)


def _layer_norm(item: LayerNorm, shape: Shapes) -> bool:
    rows = shape(item.input)
    saved = shape(item.mean) == shape(item.invstd) == (*rows[:3], 1)
    return shape(item.output) == rows and saved and _vectors(rows[3], shape, item.gamma, item.beta)


def _loss(item: CrossEntropy | Mse, shape: Shapes) -> bool:
    wanted = item.labels if isinstance(item, CrossEntropy) else item.target
    same = shape(wanted) == shape(item.input) and (item.gradient is None or shape(item.gradient) == shape(item.input))
    return same and shape(item.loss) == SCALAR


def _permute(item: Permute, shape: Shapes) -> bool:
    whole = math.prod(item.split)
    return whole == math.prod(shape(item.input)) == math.prod(shape(item.output)) and (
        sorted(item.order) == list(range(len(item.split)))
    )


def _broadcast(item: Broadcast, shape: Shapes) -> bool:
    return all(old in (1, new) for old, new in zip(shape(item.input), shape(item.output)))


def _part(axis: int, start: int, part: Shape, whole: Shape) -> bool:
    others = all(part[i] == whole[i] for i in range(4) if i != axis)
    return axis in range(4) and others and start >= 0 and start + part[axis] <= whole[axis]


def _concat(item: Concat, shape: Shapes) -> bool:
    parts, whole = [shape(name) for name in item.inputs], shape(item.output)
    total = sum(part[item.axis] for part in parts)
    return total == whole[item.axis] and all(_part(item.axis, 0, part, whole) for part in parts)


RULES: Rules = {
    Conv: lambda i, s: _filter(i, s(i.input), s(i.weight), s(i.output)),
    ConvInputGrad: lambda i, s: _filter(i, s(i.output), s(i.weight), s(i.gradient)),
    ConvWeightGrad: lambda i, s: s(i.weight) == s(i.output) and _filter(i, s(i.input), s(i.output), s(i.gradient)),
    MatMul: _matmul,
    Bias: _bias,
    BiasGrad: lambda i, s: _vectors(s(i.gradient)[3], s, i.output),
    BatchNorm: _batch_norm,
    BatchNormGrad: _norm_grad,
    LayerNorm: _layer_norm,
    LayerNormGrad: _norm_grad,
    **dict.fromkeys((Relu, Gelu, Silu, Scale, Softmax), _all_same("output", "input")),
    **dict.fromkeys((ReluGrad, SoftmaxGrad), _all_same("output", "gradient", "y")),
    **dict.fromkeys((GeluGrad, SiluGrad), _all_same("output", "gradient", "input")),
    **dict.fromkeys((Add, Mul), _all_same("output", "left", "right")),
    **dict.fromkeys((MaxPool, AvgPool), lambda i, s: _window(i, s(i.input), s(i.output))),
    MaxPoolGrad: lambda i, s: s(i.gradient) == s(i.y) and s(i.output) == s(i.input) and _window(i, s(i.input), s(i.y)),
    AvgPoolGrad: lambda i, s: _window(i, s(i.output), s(i.gradient)),
    DropoutMask: lambda i, s: 0 <= i.p < 1,
    **dict.fromkeys((CrossEntropy, Mse), _loss),
    Reshape: lambda i, s: math.prod(s(i.input)) == math.prod(s(i.output)),
    Permute: _permute,
    Broadcast: _broadcast,
    Slice: lambda i, s: _part(i.axis, i.start, s(i.output), s(i.input)),
    Pad: lambda i, s: _part(i.axis, i.start, s(i.input), s(i.output)),
    Concat: _concat,
    Sgd: _all_same("parameter", "gradient", "velocity"),
    Adam: _all_same("parameter", "gradient", "first", "second"),
}
"""What each operator asks of the shapes of its tensors."""

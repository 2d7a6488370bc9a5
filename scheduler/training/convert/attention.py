"""Products of activations, and attention -> `MatMul`, softmax and scaling, forward and backward."""

import math
from dataclasses import dataclass

import numpy as np

from scheduler.training.convert.builder import Builder, Unsupported
from scheduler.training.convert.joint import JointNode
from scheduler.training.convert.products import add_bias
from scheduler.training.graph.operators import MatMul, Scale, Softmax, SoftmaxGrad
from scheduler.training.graph.views import View, canonical, regroup

MASKED = -30000.0
"""Added to scores that must not count: finite in every operand format, and its exponential is zero."""


@dataclass(frozen=True)
class _Form:
    """How the matrices of a view `[samples * heads, rows, columns]` lie: `merged` in the channels of all heads."""

    transposed: bool
    merged: bool
    heads: int


def _form(b: Builder, view: View) -> _Form | None:
    for transposed in (False, True):
        group, rows, columns = (view.dims[0], *view.dims[:0:-1]) if transposed else view.dims
        count, height, width = (view.sizes[0], *view.sizes[:0:-1]) if transposed else view.sizes
        if columns != canonical(((width, 1),)):
            continue
        if rows == canonical(((height, width),)) and group == canonical(((count, height * width),)):
            samples, heads = b.shape(view)[:2]
            return _Form(transposed, False, heads if samples * heads == count else 1)
        heads = max(1, rows[0][1] // width) if len(rows) == 1 else 1
        row = heads * width
        merged = canonical(((count // heads, height * row), (heads, width)))
        if heads > 1 and rows == ((height, row),) and count % heads == 0 and group == merged:
            return _Form(transposed, True, heads)
    return None


def product(b: Builder, node: JointNode, left: View, right: View, label: str = "matmul") -> View:
    """`[G, M, K] @ [G, K, S]`; where the channels of one operand's merged heads stay channels, the result is merged."""
    forms = [_form(b, left), _form(b, right)]
    found = [form for form in forms if form is not None]
    heads = next((form.heads for form in sorted(found, key=lambda form: not form.merged)), 1)
    forms = [None if form is not None and form.merged and form.heads != heads else form for form in forms]
    merged = [form is not None and form.merged for form in forms]
    if merged == [True, False] and forms[0].transposed:
        return transposed(product(b, node, transposed(right), transposed(left), label))
    placed = [_operand(b, node, view, form, heads).tensor for view, form in zip((left, right), forms)]
    group, rows, columns = left.sizes[0], left.sizes[1], right.sizes[2]
    samples = group // heads
    shape = (samples, heads, rows, columns)
    dims = ((group, rows * columns),), ((rows, columns),), ((columns, 1),)
    if merged == [False, True] and not forms[1].transposed:
        row = heads * columns
        shape = (samples, 1, rows, row)
        dims = ((samples, rows * row), (heads, columns)), ((rows, row),), ((columns, 1),)
    name = b.new(node, label, shape)
    turned = [form is not None and form.transposed for form in forms]
    b.emit(MatMul(name, *placed, heads, *turned))
    return View(name, dims)


def _operand(b: Builder, node: JointNode, view: View, form: _Form | None, heads: int) -> View:
    group, rows, columns = view.sizes
    if form is None:
        dims = ((group, rows * columns),), ((rows, columns),), ((columns, 1),)
        return b.arrange(node, view, dims, (group // heads, heads, rows, columns))
    if form.transposed:
        rows, columns = columns, rows
    merged = (group // heads, 1, rows, heads * columns)
    return b.reshape(node, view, merged if form.merged else (group // heads, heads, rows, columns))


def transposed(view: View) -> View:
    """The matrices of a view the other way round."""
    return View(view.tensor, (view.dims[0], view.dims[2], view.dims[1]))


def _bmm(b: Builder, node: JointNode) -> View:
    left, right = b.view(node, "self"), b.view(node, "mat2")
    if b.is_parameter(left) or b.is_parameter(right):
        raise Unsupported("one of its operands is a parameter")
    return product(b, node, left, right)


def softmax(b: Builder, node: JointNode, view: View) -> View:
    """Softmax over the last dimension."""
    view = channels_last(b, node, view)
    result = b.like(node, "softmax", view)
    b.emit(Softmax(result.tensor, view.tensor))
    return result


def channels_last(b: Builder, node: JointNode, view: View) -> View:
    """A view whose last dimension is the channels, moved if it must be."""
    width = view.sizes[-1]
    if view.repeats or view.dims[-1] != canonical(((width, 1),)):
        sizes = (math.prod(view.sizes[:-1]), width)
        dims = regroup((((sizes[0], width),), ((width, 1),)), view.sizes)
        view = b.arrange(node, view, dims, (1, 1, *sizes))
    return b.rows(node, view, width)


def softmax_grad(b: Builder, node: JointNode, gradient: View, y: View) -> View:
    """Gradient of a softmax over the last dimension."""
    y, gradient = b.alike(node, channels_last(b, node, y), gradient)
    result = b.like(node, "softmax_grad", y)
    b.emit(SoftmaxGrad(result.tensor, gradient.tensor, y.tensor))
    return result


def scale(b: Builder, node: JointNode, view: View, factor: float, label: str = "scaled") -> View:
    """The values times a number."""
    if factor == 1:
        return view
    b.settle(view)
    result = b.like(node, label, view)
    b.emit(Scale(result.tensor, view.tensor, float(factor)))
    return result


def _heads(b: Builder, node: JointNode, argument: str) -> View:
    """`[B, heads, T, D]` as `[B * heads, T, D]`."""
    view = b.view(node, argument)
    return View(view.tensor, (view.dims[0] + view.dims[1], view.dims[2], view.dims[3]))


def _scale_of(node: JointNode, query: View) -> float:
    given = node.args.get("scale")
    return 1 / math.sqrt(query.sizes[-1]) if given is None else given


def _attention(b: Builder, node: JointNode) -> list[View | None]:
    """`softmax(scale * query @ key^T) @ value` for each head."""
    if node.args.get("dropout_p", 0.0) != 0.0:
        raise Unsupported("attention with dropout has no lowering")
    query, key, value = (_heads(b, node, name) for name in ("query", "key", "value"))
    scores = scale(b, node, product(b, node, query, transposed(key), "scores"), _scale_of(node, query))
    weights = softmax(b, node, _masked(b, node, scores))
    result = product(b, node, weights, value, "attention")
    b.memory["attention", result.tensor] = weights
    return [View(result.tensor, regroup(result.dims, b.view(node, "query").sizes)), None]


def _masked(b: Builder, node: JointNode, scores: View) -> View:
    """The scores `[B * heads, T, S]` with the mask `[T, S]` added."""
    mask = b.optional(node, "attn_mask")
    if node.args.get("is_causal"):
        rows, columns = scores.sizes[1:]
        mask = b.constant(f"causal mask {rows} x {columns}", np.triu(np.full((rows, columns), MASKED, np.float32), 1))
    if mask is None:
        return scores
    if not b.is_parameter(mask) or any(size != 1 for size in mask.sizes[:-2]):
        raise Unsupported("its mask is not a constant of the model that is the same for all images and heads")
    return add_bias(b, node, scores, View(mask.tensor, mask.dims[-2:]))


def _attention_backward(b: Builder, node: JointNode) -> list[View]:
    weights = b.memory["attention", b.view(node, "out").tensor]
    gradient, query, key, value = (_heads(b, node, name) for name in ("grad_out", "query", "key", "value"))
    of_value = product(b, node, transposed(weights), gradient, "value_grad")
    of_weights = product(b, node, gradient, transposed(value), "weights_grad")
    of_scores = scale(b, node, softmax_grad(b, node, of_weights, weights), _scale_of(node, query), "scores_grad")
    of_query = product(b, node, of_scores, key, "query_grad")
    of_key = product(b, node, transposed(of_scores), query, "key_grad")
    results = zip((of_query, of_key, of_value), ("query", "key", "value"))
    return [View(item.tensor, regroup(item.dims, b.view(node, name).sizes)) for item, name in results]


def _softmax(b: Builder, node: JointNode) -> View:
    view = b.view(node, "self")
    if node.args["dim"] % len(view.sizes) != len(view.sizes) - 1:
        raise Unsupported("softmax has a lowering over the last dimension only")
    return softmax(b, node, view)


def _softmax_backward(b: Builder, node: JointNode) -> View:
    y = b.view(node, "output")
    if node.args["dim"] % len(y.sizes) != len(y.sizes) - 1:
        raise Unsupported("softmax has a lowering over the last dimension only")
    return softmax_grad(b, node, b.view(node, "grad_output"), y)


HANDLERS = {
    "aten.bmm.default": _bmm,
    "aten._scaled_dot_product_flash_attention_for_cpu.default": _attention,
    "aten._scaled_dot_product_flash_attention_for_cpu_backward.default": _attention_backward,
    "aten._softmax.default": _softmax,
    "aten._safe_softmax.default": _softmax,
    "aten._softmax_backward_data.default": _softmax_backward,
}
"""Lowering of products of activations and of attention."""

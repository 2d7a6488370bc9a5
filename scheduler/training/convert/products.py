"""Matrix products and convolutions, forward and backward -> products with a parameter, and products of activations."""

from scheduler.training.convert.builder import Builder, Unsupported
from scheduler.training.convert.joint import JointNode
from scheduler.training.graph.operators import Bias, BiasGrad, Conv, ConvInputGrad, ConvWeightGrad
from scheduler.training.graph.views import View, block, canonical, scaled, standard

POINT = {"kernel": (1, 1), "stride": (1, 1), "padding": (0, 0), "groups": 1}
"""Window of a linear layer."""


# ---- products of matrices


def _addmm(b: Builder, node: JointNode) -> View:
    if node.args.get("alpha", 1) != 1 or node.args.get("beta", 1) != 1:
        raise Unsupported("alpha and beta must be 1")
    product = _product(b, node, "mat1", "mat2")
    return add_bias(b, node, product, b.view(node, "self"))


def _mm(b: Builder, node: JointNode) -> View:
    return _product(b, node, "self", "mat2")


def _product(b: Builder, node: JointNode, left: str, right: str) -> View:
    one, other = b.view(node, left), b.view(node, right)
    if b.is_parameter(one):
        raise Unsupported("its left operand is a parameter")
    if not b.is_parameter(other):
        return _weight_gradient(b, node, left, right)
    if not b.is_gradient(node, left):
        return _linear(b, node, one, other)
    return _linear_input_gradient(b, node, one, other)


def matrix(b: Builder, node: JointNode, view: View) -> View:
    """A view of two dimensions whose second one is the channels, in any order; moved if it must be."""
    channels = view.sizes[1]
    inner = block(view.dims[1])
    if view.repeats or inner != (channels, 1):
        view = b.arrange(node, view, *standard(view.sizes))
    return b.rows(node, view, channels)


def _linear(b: Builder, node: JointNode, view: View, weight: View) -> View:
    depth, count = weight.sizes
    view = matrix(b, node, view)
    b.place(weight, (view.dims[1], ((count, depth),)), (count, 1, 1, depth))
    name = b.new(node, "product", (*b.shape(view)[:3], count))
    b.emit(Conv(name, view.tensor, weight.tensor, **POINT))
    return View(name, (scaled(view.dims[0], depth, count, depth), canonical(((count, 1),))))


def _linear_input_gradient(b: Builder, node: JointNode, view: View, weight: View) -> View:
    count, depth = weight.sizes
    if weight.dims[0] != canonical(((count, depth),)) or b.shape(weight) != (count, 1, 1, depth):
        raise Unsupported(f"{weight.tensor} is used in two ways that need it in two orders")
    view = _plain_matrix(b, node, view)
    name = b.new(node, "input_grad", (*b.shape(view)[:3], depth))
    b.emit(ConvInputGrad(name, view.tensor, weight.tensor, **POINT))
    return View(name, (scaled(view.dims[0], count, depth, count), weight.dims[1]))


def _plain_matrix(b: Builder, node: JointNode, view: View) -> View:
    """A view of two dimensions whose second one is the channels, in order."""
    view = matrix(b, node, view)
    channels = view.sizes[1]
    if view.dims[1] != canonical(((channels, 1),)):
        view = b.arrange(node, view, (view.dims[0], ((channels, 1),)), b.shape(view))
    return view


def _weight_gradient(b: Builder, node: JointNode, left: str, right: str) -> View:
    """`gradient^T @ input`, or `input^T @ gradient`, summed over the rows of both."""
    swapped = b.is_gradient(node, right)
    gradient, view = (right, left) if swapped else (left, right)
    if b.is_gradient(node, view) or not b.is_gradient(node, gradient):
        raise Unsupported("neither operand is a parameter, and it is not the gradient of one")
    turned = {left: View(b.view(node, left).tensor, b.view(node, left).dims[::-1]), right: b.view(node, right)}
    return weight_gradient(b, node, turned[gradient], turned[view], transposed=swapped)


def weight_gradient(b: Builder, node: JointNode, gradient: View, view: View, *, transposed: bool = False) -> View:
    """Gradient of a weight `[gradient channels, 1, 1, input channels]`, of two matrices of the same rows."""
    gradient, view = _plain_matrix(b, node, gradient), matrix(b, node, view)
    count, depth = gradient.sizes[1], view.sizes[1]
    rows = scaled(gradient.dims[0], 1, depth, count)
    if rows != view.dims[0]:
        dims = scaled(view.dims[0], 1, count, depth), gradient.dims[1]
        gradient = b.arrange(node, gradient, dims, (*b.shape(view)[:3], count))
    gradient = b.reshape(node, gradient, (*b.shape(view)[:3], count))
    name = b.new(node, "weight_grad", (count, 1, 1, depth))
    b.emit(ConvWeightGrad(name, gradient.tensor, view.tensor, name, **POINT))
    dims = canonical(((count, depth),)), view.dims[1]
    return View(name, dims[::-1] if transposed else dims)


# ---- convolutions


def images(b: Builder, node: JointNode, view: View) -> View:
    """A view of four dimensions as channels-last images; moved if they are not."""
    dims, shape = standard(view.sizes)
    if view.dims == dims:
        return b.reshape(node, view, shape)
    return b.arrange(node, view, dims, shape)


def _filter_of(node: JointNode, weight: View) -> dict[str, object]:
    if node.args["transposed"] or any(size != 1 for size in node.args["dilation"]):
        raise Unsupported("transposed and dilated convolutions have no lowering")
    if len(weight.sizes) != 4:
        raise Unsupported("only convolutions in two dimensions have a lowering")
    pairs = {name: tuple(node.args[name]) for name in ("stride", "padding")}
    pairs = {name: pair * 2 if len(pair) == 1 else pair for name, pair in pairs.items()}
    return {"kernel": weight.sizes[2:], **pairs, "groups": node.args["groups"]}


def _convolution(b: Builder, node: JointNode) -> View:
    weight = b.view(node, "weight")
    if not b.is_parameter(weight):
        raise Unsupported("its weight is not a parameter")
    window = _filter_of(node, weight)
    view = images(b, node, b.view(node, "input"))
    b.place(weight, *standard(weight.sizes))
    dims, shape = standard(node.shape)
    name = b.new(node, "product", shape)
    b.emit(Conv(name, view.tensor, weight.tensor, **window))
    bias = b.optional(node, "bias")
    return View(name, dims) if bias is None else add_bias(b, node, View(name, dims), _column(bias))


def _column(bias: View) -> View:
    """A bias of channels as `[C, 1, 1]`, to be added to images."""
    return View(bias.tensor, (*bias.dims, (), ()))


def _convolution_backward(b: Builder, node: JointNode) -> list[View | None]:
    gradient = images(b, node, b.view(node, "grad_output"))
    view, weight = b.view(node, "input"), b.view(node, "weight")
    window, wanted = _filter_of(node, weight), node.args["output_mask"]
    results: list[View | None] = [None, None, None]
    if wanted[0]:
        dims, shape = standard(view.sizes)
        results[0] = View(b.new(node, "input_grad", shape), dims)
        b.emit(ConvInputGrad(results[0].tensor, gradient.tensor, weight.tensor, **window))
    if wanted[1]:
        results[1] = View(b.new(node, "weight_grad", b.shape(weight)), weight.dims)
        source = images(b, node, view).tensor
        b.emit(ConvWeightGrad(results[1].tensor, gradient.tensor, source, weight.tensor, **window))
    if wanted[2]:
        results[2] = _sum(b, node, gradient, gradient.sizes[1])
    return results


def _sum(b: Builder, node: JointNode, gradient: View, channels: int) -> View:
    name = b.new(node, "bias_grad", (1, 1, 1, channels))
    b.emit(BiasGrad(name, gradient.tensor))
    return View(name, (canonical(((channels, 1),)),))


# ---- biases


def add_bias(b: Builder, node: JointNode, view: View, bias: View) -> View:
    """Add a parameter: of channels, or of the innermost values of any number (as a position embedding is)."""
    bias = View(bias.tensor, ((),) * (len(view.dims) - len(bias.dims)) + bias.dims)
    wanted = tuple(dim if own and own[0][1] else own for dim, own in zip(view.dims, bias.dims))
    inner = tuple(factor for dim, own in zip(view.dims, bias.dims) if own and own[0][1] for factor in dim)
    whole = block(inner)
    if view.repeats or whole is None or whole[1] != 1:
        raise Unsupported("it adds a parameter that is not repeated over whole rows of channels")
    before = b.shape(view)
    view = b.rows(node, view, whole[0])
    b.place(bias, wanted, (1, 1, 1, whole[0]))
    result = b.like(node, "biased", view)
    b.emit(Bias(result.tensor, view.tensor, bias.tensor))
    return b.reshape(node, result, before)


# ---- embeddings


def _embedding(b: Builder, node: JointNode) -> View:
    """The product of one-hot rows with the table."""
    table, tokens = b.view(node, "weight"), b.integers_of(node, "indices")
    if not b.is_parameter(table) or node.args.get("padding_idx", -1) != -1 or node.args.get("scale_grad_by_freq"):
        raise Unsupported("only a plain table of parameters has a lowering")
    count, width = table.sizes
    _, shape = standard((*tokens.sizes, count))
    name = b.one_hot(tokens, standard((*tokens.sizes, 1))[0][:-1], shape)
    b.place(table, (((count, 1),), ((width, count),)), (width, 1, 1, count))
    result = b.new(node, "product", (*shape[:3], width))
    b.emit(Conv(result, name, table.tensor, **POINT))
    return View(result, standard((*tokens.sizes, width))[0])


def _embedding_backward(b: Builder, node: JointNode) -> View:
    gradient, tokens = b.view(node, "grad_output"), b.integers_of(node, "indices")
    count, width = node.args["num_weights"], gradient.sizes[-1]
    dims, _ = standard(gradient.sizes)
    shape = (*b.tensors[tokens.tensor].shape[:3], width)
    gradient = b.arrange(node, gradient, dims, shape)
    name = b.new(node, "weight_grad", (width, 1, 1, count))
    b.emit(ConvWeightGrad(name, gradient.tensor, tokens.tensor, name, **POINT))
    return View(name, (canonical(((count, 1),)), canonical(((width, count),))))


HANDLERS = {
    "aten.mm.default": _mm,
    "aten.addmm.default": _addmm,
    "aten.convolution.default": _convolution,
    "aten.convolution_backward.default": _convolution_backward,
    "aten.embedding.default": _embedding,
    "aten.embedding_dense_backward.default": _embedding_backward,
}
"""Lowering of products with a parameter."""

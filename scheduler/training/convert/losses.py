"""Losses and their gradients: what PyTorch spreads over several nodes becomes one operator that gives both."""

import math
from dataclasses import dataclass

from scheduler.training.convert.attention import channels_last, scale
from scheduler.training.convert.builder import Builder, Unsupported
from scheduler.training.convert.joint import JointNode
from scheduler.training.graph.ir import Kind
from scheduler.training.graph.operators import CrossEntropy, Mse
from scheduler.training.graph.shapes import SCALAR
from scheduler.training.graph.views import View, scaled

MEAN, SUM = 1, 2
"""PyTorch's numbers for the reduction of a loss."""


@dataclass(frozen=True)
class Tangent:
    """Gradient of the loss: a number."""

    factor: float = 1.0

    def times(self, factor: float) -> "Tangent":
        """The gradient further back."""
        return Tangent(self.factor * factor)


@dataclass(frozen=True)
class LogSoftmax:
    """Logarithms of the softmax of logits, which only a cross entropy may read."""

    logits: View


@dataclass(frozen=True)
class LogGradient:
    """Gradient of the logarithms, which becomes that of the logits."""

    logits: View


def _log_softmax(b: Builder, node: JointNode) -> LogSoftmax:
    view = b.view(node, "self")
    if len(view.sizes) != 2 or node.args["dim"] % 2 != 1:
        raise Unsupported("a cross entropy has a lowering for logits [rows, classes] only")
    return LogSoftmax(channels_last(b, node, view))


def _marker(b: Builder, node: JointNode, argument: str, kind: type) -> object:
    value = b.value(node, argument)
    if not isinstance(value, kind):
        raise Unsupported("it is not part of a cross entropy or squared error that has a lowering")
    return value


def _nll(b: Builder, node: JointNode) -> list[View | None]:
    logits = _marker(b, node, "self", LogSoftmax).logits
    if node.args.get("weight") is not None or node.args["reduction"] not in (MEAN, SUM):
        raise Unsupported("a cross entropy must be the mean or sum over unweighted classes")
    if node.args["ignore_index"] >= 0:
        raise Unsupported("a cross entropy must not ignore a class")
    rows, classes = logits.sizes
    labels = b.one_hot(b.integers_of(node, "target"), (scaled(logits.dims[0], 1, 1, classes),), b.shape(logits))
    loss = b.new(node, "cross_entropy", SCALAR, Kind.SCALAR)
    gradient = b.like(node, "logits_grad", logits)
    part = 1 / rows if node.args["reduction"] == MEAN else 1.0
    b.emit(CrossEntropy(loss, gradient.tensor, logits.tensor, labels, part))
    b.memory["loss", logits.tensor, labels] = gradient
    return [View(loss, ()), None]


def _nll_backward(b: Builder, node: JointNode) -> LogGradient:
    logits = _marker(b, node, "self", LogSoftmax).logits
    factor = _marker(b, node, "grad_output", Tangent).factor
    gradient = b.memory["loss", logits.tensor, b.integers_of(node, "target").tensor]
    return LogGradient(scale(b, node, gradient, factor, "logits_grad"))


def _log_softmax_backward(b: Builder, node: JointNode) -> View:
    return _marker(b, node, "grad_output", LogGradient).logits


def _mse(b: Builder, node: JointNode) -> View:
    if node.args.get("reduction", MEAN) not in (MEAN, SUM):
        raise Unsupported("a squared error must be the mean or the sum")
    view, target = b.view(node, "self"), b.view(node, "target")
    if view.sizes != target.sizes:
        raise Unsupported(f"its operands have shapes {list(view.sizes)} and {list(target.sizes)}")
    pair = view.tensor, target.tensor
    view, target = b.alike(node, view, target)
    loss = b.new(node, "mse", SCALAR, Kind.SCALAR)
    gradient = b.like(node, "output_grad", view)
    part = 1 / math.prod(view.sizes) if node.args.get("reduction", MEAN) == MEAN else 1.0
    b.emit(Mse(loss, gradient.tensor, view.tensor, target.tensor, part))
    b.memory["loss", pair] = gradient
    return View(loss, ())


def _mse_backward(b: Builder, node: JointNode) -> View:
    factor = _marker(b, node, "grad_output", Tangent).factor
    one, other = b.view(node, "self").tensor, b.view(node, "target").tensor
    if ("loss", (one, other)) in b.memory:
        return scale(b, node, b.memory["loss", (one, other)], factor, "output_grad")
    return scale(b, node, b.memory["loss", (other, one)], -factor, "output_grad")


HANDLERS = {
    "aten._log_softmax.default": _log_softmax,
    "aten.nll_loss_forward.default": _nll,
    "aten.nll_loss_backward.default": _nll_backward,
    "aten._log_softmax_backward_data.default": _log_softmax_backward,
    "aten.mse_loss.default": _mse,
    "aten.mse_loss_backward.default": _mse_backward,
}
"""Lowering of losses."""

"""Which kernel each operator gets; the table of contents of a step."""

from collections.abc import Callable, Mapping

from hwgen.arch import UserError
from scheduler.training.graph.base import Operator
from scheduler.training.graph.moves import Broadcast, Concat, Pad, Permute, Reshape, Slice
from scheduler.training.graph.operators import (
    AvgPool,
    AvgPoolGrad,
    BatchNorm,
    BatchNormGrad,
    BiasGrad,
    Conv,
    ConvInputGrad,
    ConvWeightGrad,
    CrossEntropy,
    DropoutMask,
    LayerNorm,
    LayerNormGrad,
    MatMul,
    MaxPool,
    MaxPoolGrad,
    Mse,
    Softmax,
    SoftmaxGrad,
)
from scheduler.training.kernels.emitter import Banks
from scheduler.training.kernels.layer_norm import layer_norm, layer_norm_grad
from scheduler.training.kernels.losses import cross_entropy, mse
from scheduler.training.kernels.masks import dropout_mask, seeds, state_words
from scheduler.training.kernels.pointwise import POINTWISE
from scheduler.training.kernels.pooling import avg_pool, avg_pool_grad, max_pool, max_pool_grad
from scheduler.training.kernels.softmax import softmax, softmax_grad
from scheduler.training.kernels.stages import (
    Kernel,
    emit_batch_norm,
    emit_batch_norm_grad,
    emit_bias_grad,
    emit_conv,
    emit_input_gradient,
    emit_pointwise,
    emit_unroll,
    emit_weight_gradient,
    update_row,
)
from scheduler.training.kernels.token_stages import emit_matmul, emit_move
from scheduler.training.lower import Step
from scheduler.training.products.unroll import Unroll
from scheduler.training.schedule.fuse import PRODUCTS, Group, groups, main_result
from scheduler.training.schedule.pairs import emit_pair, pairs
from scheduler.training.schedule.sequence import kernel_order, narrowed

Kernels = Mapping[type[Operator], Callable[[Step, Group], None]]
"""For each operator: what records the kernel of a group."""


POOLS = (MaxPool, AvgPool)
"""What runs beside the kernel before it, as products do."""


def emit_all(step: Step, others: Kernels | None = None) -> None:
    """Record the kernels of all operators; `others` are kernels of operators that no training step has."""
    tasks = kernel_order(step, groups(step.graph, apart=step.em.apart, curves=step.em.curves.places))
    found = pairs(step, [task.group for task in tasks])
    for number, task in enumerate(tasks):
        if number in found:
            emit(step, task.group, others, tasks[found[number]].group)
        elif number not in found.values():
            emit(step if task.images is None else narrowed(step, *task.images), task.group, others)


def emit(step: Step, group: Group, others: Kernels | None = None, beside: Group | None = None) -> None:
    """Record the kernel of a group, or those of two products in turns."""
    handler = HANDLERS.get(type(group.main)) or (others or {}).get(type(group.main))
    if handler is None:
        raise UserError(f"{main_result(group.main)}: the array has no kernel for {type(group.main).__name__}")
    names = [main_result(item.main) for item in (group, beside) if item]
    step.headings.append((len(step.em.recorder.commands), ", ".join(names)))
    step.em.choose_banks(Banks.PRODUCTS if isinstance(group.main, (*PRODUCTS, *POOLS)) else Banks.OTHERS)
    if beside:
        emit_pair(step, group, beside)
    else:
        handler(step, group)


def emit_features(step: Step, group: Group) -> None:
    """Operators that only read and write feature maps: pooling, softmax, and their gradients."""
    step.em.begin_kernel()
    em, item, places = step.em, group.main, step.features
    match item:
        case MaxPool():
            max_pool(em, places[item.input], places[item.output], item)
        case AvgPool():
            avg_pool(em, places[item.input], places[item.output], item)
        case MaxPoolGrad():
            max_pool_grad(em, places[item.gradient], places[item.input], places[item.output], item)
        case AvgPoolGrad():
            avg_pool_grad(em, places[item.gradient], places[item.output], item)
        case Softmax():
            softmax(em, places[item.input], places[item.output], item.scale)
        case SoftmaxGrad():
            softmax_grad(em, places[item.gradient], places[item.y], places[item.output], item.scale)


def emit_loss(step: Step, group: Group) -> None:
    """The loss, and where backpropagation begins."""
    step.em.begin_kernel()
    item, places = group.main, step.features
    loss, target = (cross_entropy, item.labels) if isinstance(item, CrossEntropy) else (mse, item.target)
    gradient = None if item.gradient is None else places[item.gradient]
    loss(step.em, places[item.input], places[target], gradient, step.rows["loss"], item.scale, step.options.loss_scale)


def emit_layer_norm(step: Step, group: Group) -> None:
    """The statistics are not stored: the gradient computes them again."""
    kernel, item, places = Kernel(step, group), group.main, step.features
    gamma, beta = kernel.optional(item.gamma), kernel.optional(item.beta)
    layer_norm(step.em, places[item.input], places[item.output], gamma, beta, item.eps)


def emit_layer_norm_grad(step: Step, group: Group) -> None:
    """The gradient of the input, then the updates of gamma and beta."""
    kernel, item, places = Kernel(step, group), group.main, step.features
    forward = next(other for other in step.graph.operators if isinstance(other, LayerNorm) and other.mean == item.mean)
    target = None if item.output is None else places[item.output]
    gamma = kernel.optional(item.gamma)
    sums = layer_norm_grad(step.em, places[item.gradient], places[item.input], target, gamma, forward.eps)
    for name, value in zip((item.gamma_grad, item.beta_grad), sums):
        update_row(step, kernel, name, value)


def emit_dropout_mask(step: Step, group: Group) -> None:
    """A mask, from a state that lies in memory from step to step."""
    step.em.begin_kernel()
    item, cols = group.main, step.arch.array.cols
    mask = step.features[item.output]
    words = state_words(step.arch, mask)
    state = step.memory.row(f"{item.output} (state)", words * cols, "state")
    step.data.append((state.address, seeds(step.options.seed, item.stream, words, cols).tobytes()))
    dropout_mask(step.em, mask, state, item.p)


HANDLERS: Kernels = {
    **dict.fromkeys(POINTWISE, emit_pointwise),
    Conv: emit_conv,
    ConvInputGrad: emit_input_gradient,
    ConvWeightGrad: emit_weight_gradient,
    Unroll: emit_unroll,
    MatMul: emit_matmul,
    **dict.fromkeys((Reshape, Permute, Broadcast, Slice, Pad, Concat), emit_move),
    BiasGrad: emit_bias_grad,
    BatchNorm: emit_batch_norm,
    BatchNormGrad: emit_batch_norm_grad,
    LayerNorm: emit_layer_norm,
    LayerNormGrad: emit_layer_norm_grad,
    DropoutMask: emit_dropout_mask,
    **dict.fromkeys((MaxPool, AvgPool, MaxPoolGrad, AvgPoolGrad, Softmax, SoftmaxGrad), emit_features),
    **dict.fromkeys((CrossEntropy, Mse), emit_loss),
}

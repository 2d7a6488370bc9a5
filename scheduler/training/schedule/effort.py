"""Estimates of what a kernel costs each engine, for the order of kernels alone: a few percent off does no harm."""

from math import ceil, prod

from scheduler.training.graph.base import Operator
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
    Gelu,
    GeluGrad,
    LayerNorm,
    LayerNormGrad,
    MatMul,
    MaxPool,
    MaxPoolGrad,
    Mse,
    Silu,
    SiluGrad,
    Softmax,
    SoftmaxGrad,
)
from scheduler.training.graph.shapes import head_matrix
from scheduler.training.graph.updates import Adam
from scheduler.training.graph.work import macs
from scheduler.training.kernels.curves import curve_of
from scheduler.training.kernels.emitter import words_of
from scheduler.training.kernels.pointwise import POINTWISE
from scheduler.training.lower import Step
from scheduler.training.places import PIXELS
from scheduler.training.schedule.fuse import Group, main_result

PASSES = {
    **dict.fromkeys(POINTWISE, 1),
    **dict.fromkeys((Gelu, GeluGrad, Silu, SiluGrad), 17),
    **dict.fromkeys((BatchNormGrad, AvgPool, MaxPool), 2),
    BatchNorm: 1,
    Softmax: 18,
    SoftmaxGrad: 6,
    LayerNorm: 10,
    LayerNormGrad: 14,
    DropoutMask: 6,
    AvgPoolGrad: 3,
    MaxPoolGrad: 6,
    CrossEntropy: 30,
    Mse: 4,
}
"""Cycles of the vector engine for each word of an operator's result, or of a loss's input, without curves."""
WITH_CURVE = {**dict.fromkeys((Gelu, Silu), 1), **dict.fromkeys((GeluGrad, SiluGrad), 2), Softmax: 10}
"""The same of operators that have one."""
UPDATE, ADAM = 4, 24
"""Cycles for each word of a weight."""


def array_cycles(step: Step, group: Group) -> int:
    """Cycles in which the array takes products."""
    item, array = group.main, step.arch.array
    if isinstance(item, MatMul):
        left, output = (head_matrix(step.graph.tensors[name].shape, item.heads) for name in (item.left, item.output))
        depth = left[1] if item.transpose_left else left[2]
        return item.heads * left[0] * ceil(output[1] / array.rows) * ceil(output[2] / array.cols) * depth
    cycles = macs(step.graph, item) / step.arch.macs * getattr(item, "groups", 1)
    if isinstance(item, Conv | ConvInputGrad):
        weights = step.weights[item.weight]
        pattern = weights.forward.pattern if isinstance(item, Conv) else weights.backward[0].pattern
        rows = prod(step.graph.tensors[item.output].shape[:3])
        cycles *= ceil(rows / array.rows) * array.rows / rows * (pattern.n / pattern.m if pattern else 1)
    return round(cycles)


def vector_cycles(step: Step, group: Group) -> int:
    """Cycles of the vector engine, with the updates of parameters and sums for other kernels."""
    cycles = sum(_passes(step, item) * _words(step, _subject(item)) for item in group.items)
    cycles += sum((1 if isinstance(item, BiasGrad) else 2) * _words(step, group.result) for item in group.sums)
    if isinstance(group.main, ConvWeightGrad):
        rule = step.updates[group.main.output]
        cycles += (ADAM if isinstance(rule, Adam) else UPDATE) * _words(step, rule.parameter)
    return cycles // step.arch.vector.words


def _passes(step: Step, item: Operator) -> int:
    """Cycles for each word."""
    curved = curve_of(item) in step.em.curves.places
    return WITH_CURVE[type(item)] if curved else PASSES.get(type(item), 0)


def memory_cycles(step: Step, group: Group) -> int:
    """Cycles of the load or the store engine, whichever has more to do."""
    items = group.items
    known = {name for name in step.graph.tensors if step.graph.tensors[name].kind in PIXELS}
    inside = {name for item in items for name in item.names("result")}
    read = {name for item in items for name in item.names("source")} & known - inside
    return max(sum(_words(step, name) for name in read), _words(step, group.result))


def store_words(step: Step, group: Group) -> int:
    """Words that the store engine writes."""
    return _words(step, group.result)


def _subject(item: Operator) -> str:
    """The tensor whose words a kernel goes through."""
    return item.input if isinstance(item, CrossEntropy | Mse) else main_result(item)


def _words(step: Step, name: str) -> int:
    shape = step.graph.tensors[name].shape
    return prod(shape[:3]) * words_of(shape[3], step.arch)

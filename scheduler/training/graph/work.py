"""Multiply-accumulates of a training step by stage, and what N:M sparsity can save of them at most."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from fractions import Fraction

from scheduler.training.graph.base import Operator
from scheduler.training.graph.ir import TrainingGraph, stage
from scheduler.training.graph.operators import Conv, ConvInputGrad, ConvWeightGrad, MatMul
from scheduler.training.graph.shapes import head_matrix

ATTENTION = "attention"
"""Stage of products of activations in the table below."""


@dataclass(frozen=True)
class Work:
    """Multiply-accumulates of one product; `stage` is FF, BP or WU, `parameter` is None for products of activations."""

    stage: str
    parameter: str | None
    macs: int


def work(graph: TrainingGraph) -> list[Work]:
    """One entry for each product, in the order of the graph.

    A product with a parameter does the same work in all three stages: the input gradient counts what each gradient
    pixel contributes, not the zeros that a transposed convolution with stride multiplies by.
    """
    forward, backward, _ = graph.phases()
    parts = [(item, "FF") for item in forward] + [(item, "BP") for item in backward]
    return [
        Work(stage(item) or phase, getattr(item, "weight", None), macs(graph, item))
        for item, phase in parts
        if isinstance(item, Conv | ConvInputGrad | ConvWeightGrad | MatMul)
    ]


def macs(graph: TrainingGraph, item: Operator) -> int:
    """Multiply-accumulates of an operator; 0 if it is not a product."""
    shapes = {name: graph.tensors[name].shape for name in (*item.names("source"), *item.names("result"))}
    if isinstance(item, MatMul):
        left, output = head_matrix(shapes[item.left], item.heads), head_matrix(shapes[item.output], item.heads)
        return item.heads * math.prod(left) * output[2]
    if isinstance(item, Conv | ConvInputGrad | ConvWeightGrad):
        pixels = shapes[item.output if isinstance(item, Conv) else item.gradient][:3]
        return math.prod(pixels) * math.prod(graph.tensors[item.weight].shape)
    return 0


def total(graph: TrainingGraph) -> dict[str, int]:
    """Multiply-accumulates by stage; those of products of activations, forward and backward, under `attention`."""
    sums = dict.fromkeys(("FF", "BP", "WU", ATTENTION), 0)
    for part in work(graph):
        sums[part.stage if part.parameter else ATTENTION] += part.macs
    return sums


def bound(graph: TrainingGraph, n: int, m: int, dense: Collection[str] = ()) -> float:
    """Dense over sparse work if weights are N:M in FF and BP, but not those of `dense`, nor the first product's.

    Weight gradients and products of activations stay dense.
    """
    parts = work(graph)
    kept = {parts[0].parameter, *dense}
    sparse = [part.parameter is not None and part.stage != "WU" and part.parameter not in kept for part in parts]
    after = sum(part.macs * (Fraction(n, m) if pruned else 1) for part, pruned in zip(parts, sparse))
    return float(sum(part.macs for part in parts) / after)

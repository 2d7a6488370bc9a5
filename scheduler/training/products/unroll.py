"""A convolution of few input channels would leave most of a word empty. Its kernel's columns become channels first:
`u[n, h, w, kx*Ci + ci] = x[n, h, stride*w + kx - padding, ci]`, then a kernel of one column works on u.

The array itself makes u, as a product with zeros and ones, which is exact; the input in memory stays as it is.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hwgen.arch import Arch
from models.formats import encode
from models.packing import dense_columns, packed_columns
from models.pattern import Pattern
from scheduler.training.graph.base import Operator, Result, Source, Window
from scheduler.training.graph.ir import Kind, Tensor, TrainingGraph
from scheduler.training.graph.operators import Conv, ConvWeightGrad
from scheduler.training.graph.shapes import windowed
from scheduler.training.kernels.emitter import words_of


@dataclass(frozen=True)
class Unroll(Window, Operator):
    """`output` has the channels of each window of one row of `input`, kernel column by column."""

    output: Result
    input: Source


def unroll_first(graph: TrainingGraph, arch: Arch) -> TrainingGraph:
    """Unroll each convolution of the graph's inputs for which that saves words."""
    for item in graph.operators:
        if isinstance(item, Conv) and graph.tensors[item.input].kind == Kind.INPUT and _saves(graph, item, arch):
            graph = _unrolled(graph, item)
    return graph


def _saves(graph: TrainingGraph, item: Conv, arch: Arch) -> bool:
    width, channels = item.kernel[1], graph.tensors[item.input].shape[3]
    return item.groups == 1 and width > 1 and words_of(width * channels, arch) < width * words_of(channels, arch)


def _unrolled(graph: TrainingGraph, item: Conv) -> TrainingGraph:
    """The graph with `item` on its unrolled input, and its weight (and the weight's states) reshaped."""
    n, h, _, channels = graph.tensors[item.input].shape
    name, width = f"{item.input}.unrolled", item.kernel[1]
    window = {"kernel": (1, width), "stride": (1, item.stride[1]), "padding": (0, item.padding[1])}
    columns = windowed(Unroll(name, item.input, **window), (h, graph.tensors[item.input].shape[2]))[1]
    tensors = dict(graph.tensors) | {name: Tensor(name, (n, h, columns, width * channels), Kind.ACTIVATION)}
    reshaped = _shaped_like(graph, item.weight)
    for other in reshaped:
        co, ky, _, _ = tensors[other].shape
        tensors[other] = replace(tensors[other], shape=(co, ky, 1, width * channels))
    operators = []
    for other in graph.operators:
        if isinstance(other, Conv | ConvWeightGrad) and other.weight == item.weight:
            if isinstance(other, Conv):
                operators.append(Unroll(name, item.input, **window))
            other = _narrow(other, name)
        operators.append(other)
    layouts = {
        other: replace(layout, shape=tensors[other].shape) if other in reshaped else layout
        for other, layout in graph.layouts.items()
    }
    values = {other: value.reshape(tensors[other].shape) for other, value in graph.values.items()}
    return replace(graph, tensors=tensors, operators=tuple(operators), layouts=layouts, values=values)


def _narrow(item: Conv | ConvWeightGrad, name: str) -> Conv | ConvWeightGrad:
    """The operator with a kernel of one column on the unrolled input."""
    return replace(
        item,
        input=name,
        kernel=(item.kernel[0], 1),
        stride=(item.stride[0], 1),
        padding=(item.padding[0], 0),
    )


def _shaped_like(graph: TrainingGraph, weight: str) -> set[str]:
    """The weight, its gradient and its optimizer's states."""
    found = {weight, graph.gradients.get(weight, weight)}
    for item in graph.operators:
        if getattr(item, "parameter", None) == weight:
            found |= set(item.names("in place"))
    return found


def selection_pattern(used: int, arch: Arch) -> Pattern | None:
    """N:M of the product that unrolls a word of which `used` values are read: a column takes one value of one pixel."""
    return Pattern(1, used) if used <= arch.array.group_max else None


def selection(item: Unroll, channels: int, filled: int, arch: Arch) -> NDArray[np.uint16]:
    """Operands [kx * Ci, kx * Ci] of the product that unrolls, as a matrix: the rows of each pixel filled up to
    `filled`, the columns to whole words.
    """
    cols, width = arch.array.cols, item.kernel[1]
    matrix = np.zeros((width * filled, words_of(width * channels, arch) * cols), np.float32)
    for kx in range(width):
        for channel in range(channels):
            matrix[kx * filled + channel, kx * channels + channel] = 1.0
    return encode(matrix, arch.array.operand)


def selection_bytes(item: Unroll, channels: int, filled: int, pattern: Pattern | None, arch: Arch) -> bytes:
    """The same as LOAD COLS reads it, or LOAD PACKED if there is a pattern."""
    matrix = selection(item, channels, filled, arch)
    return packed_columns(matrix, arch, pattern.n, pattern.m) if pattern else dense_columns(matrix, arch)

"""Meaning of products and of windows over images, for the interpreter (`reference.py`)."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduler.training.graph.base import Window
from scheduler.training.graph.operators import (
    AvgPool,
    AvgPoolGrad,
    Conv,
    ConvInputGrad,
    ConvWeightGrad,
    MatMul,
    MaxPool,
    MaxPoolGrad,
)
from scheduler.training.graph.shapes import windowed

Arrays = dict[str, NDArray]


def _padded(item: Window, values: NDArray, fill: float) -> NDArray:
    (top, left) = item.padding
    return np.pad(values, ((0, 0), (top, top), (left, left), (0, 0)), constant_values=fill)


def _taps(item: Window, padded: NDArray) -> Iterator[tuple[int, int, NDArray]]:
    """For each position of the kernel, in order (ky, kx), the view of the pixels that lie under it."""
    plain = Window(kernel=item.kernel, stride=item.stride, padding=(0, 0))
    height, width = windowed(plain, padded.shape[1:3])
    for ky in range(item.kernel[0]):
        for kx in range(item.kernel[1]):
            rows = slice(ky, ky + (height - 1) * item.stride[0] + 1, item.stride[0])
            columns = slice(kx, kx + (width - 1) * item.stride[1] + 1, item.stride[1])
            yield ky, kx, padded[:, rows, columns]


def _inside(item: Window, padded: NDArray) -> NDArray:
    (top, left), (height, width) = item.padding, padded.shape[1:3]
    return padded[:, top : height - top, left : width - left]


def _grouped(values: NDArray, groups: int, axis: int) -> NDArray:
    """The axis cut into (groups, channels of a group)."""
    shape = values.shape
    return values.reshape(*shape[:axis], groups, shape[axis] // groups, *shape[axis + 1 :])


def _conv(item: Conv, run: Any) -> Arrays:
    weight, padded, result = _grouped(run[item.weight], item.groups, 0), _padded(item, run[item.input], 0), 0
    for ky, kx, pixels in _taps(item, padded):
        part = _grouped(pixels, item.groups, 3)
        result = result + np.einsum("npqgi,goi->npqgo", part, weight[:, :, ky, kx], optimize=True)
    return {item.output: result.reshape(run.shape(item.output))}


def _conv_input_grad(item: ConvInputGrad, run: Any) -> Arrays:
    weight, gradient = _grouped(run[item.weight], item.groups, 0), _grouped(run[item.gradient], item.groups, 3)
    padded = _padded(item, np.zeros(run.shape(item.output), gradient.dtype), 0)
    for ky, kx, pixels in _taps(item, padded):
        part = np.einsum("npqgo,goi->npqgi", gradient, weight[:, :, ky, kx], optimize=True)
        pixels += part.reshape(pixels.shape)
    return {item.output: _inside(item, padded)}


def _conv_weight_grad(item: ConvWeightGrad, run: Any) -> Arrays:
    gradient, padded = _grouped(run[item.gradient], item.groups, 3), _padded(item, run[item.input], 0)
    result = np.zeros(run.shape(item.output), gradient.dtype)
    for ky, kx, pixels in _taps(item, padded):
        part = np.einsum("npqgo,npqgi->goi", gradient, _grouped(pixels, item.groups, 3), optimize=True)
        result[:, ky, kx] = part.reshape(result[:, ky, kx].shape)
    return {item.output: result}


def _heads(values: NDArray, heads: int, transpose: bool) -> NDArray:
    """`[samples, heads, rows, columns]`, of merged or of separate heads."""
    if values.shape[1] != heads:
        samples, _, rows, channels = values.shape
        values = values.reshape(samples, rows, heads, channels // heads).transpose(0, 2, 1, 3)
    return values.swapaxes(2, 3) if transpose else values


def _matmul(item: MatMul, run: Any) -> Arrays:
    left, right = (_heads(run[item.left], item.heads, item.transpose_left), run[item.right])
    result = left @ _heads(right, item.heads, item.transpose_right)
    shape = run.shape(item.output)
    return {item.output: result if shape[1] == item.heads else result.transpose(0, 2, 1, 3).reshape(shape)}


def _max_pool(item: MaxPool, run: Any) -> Arrays:
    taps = _taps(item, _padded(item, run[item.input], -np.inf))
    return {item.output: np.max([pixels for _, _, pixels in taps], axis=0)}


def _max_pool_grad(item: MaxPoolGrad, run: Any) -> Arrays:
    padded = _padded(item, run[item.input], -np.inf)
    result, free = np.zeros_like(padded), np.ones(run.shape(item.y), bool)
    for (_, _, pixels), (_, _, target) in zip(_taps(item, padded), _taps(item, result), strict=True):
        hit = free & (pixels == run[item.y])
        target += np.where(hit, run[item.gradient], 0)
        free &= ~hit
    return {item.output: _inside(item, result)}


def _avg_pool(item: AvgPool, run: Any) -> Arrays:
    taps = [pixels for _, _, pixels in _taps(item, _padded(item, run[item.input], 0))]
    return {item.output: np.sum(taps, axis=0) / len(taps)}


def _avg_pool_grad(item: AvgPoolGrad, run: Any) -> Arrays:
    result = _padded(item, np.zeros(run.shape(item.output), run[item.gradient].dtype), 0)
    for _, _, target in _taps(item, result):
        target += run[item.gradient] / (item.kernel[0] * item.kernel[1])
    return {item.output: _inside(item, result)}


PRODUCTS: Mapping[type, Any] = {
    Conv: _conv,
    ConvInputGrad: _conv_input_grad,
    ConvWeightGrad: _conv_weight_grad,
    MatMul: _matmul,
    MaxPool: _max_pool,
    MaxPoolGrad: _max_pool_grad,
    AvgPool: _avg_pool,
    AvgPoolGrad: _avg_pool_grad,
}

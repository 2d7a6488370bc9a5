"""Meaning of biases, normalisations, pointwise operators and losses, for the interpreter (`reference.py`)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from scheduler.training.graph.operators import (
    Add,
    BatchNorm,
    BatchNormGrad,
    Bias,
    BiasGrad,
    CrossEntropy,
    Gelu,
    GeluGrad,
    LayerNorm,
    LayerNormGrad,
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

Arrays = dict[str, NDArray]
PIXELS, CHANNELS = (0, 1, 2), (3,)
"""Axes that a batch and a layer normalisation run over."""


def _named(names: tuple[str | None, ...], values: tuple[Any, ...]) -> Arrays:
    """Results by name, without those that nobody wants."""
    return {name: value for name, value in zip(names, values, strict=True) if name is not None}


def _sum(values: NDArray, axes: tuple[int, ...] = PIXELS) -> NDArray:
    return values.sum(axis=axes, keepdims=True)


def _normalize(item: BatchNorm | LayerNorm, run: Any, axes: tuple[int, ...]) -> tuple[Arrays, NDArray, NDArray]:
    """The results, the mean and the variance."""
    x = run[item.input]
    mean, var = x.mean(axis=axes, keepdims=True), x.var(axis=axes, keepdims=True)
    invstd = 1 / np.sqrt(var + item.eps)
    y = (x - mean) * invstd
    y = y if item.gamma is None else y * run[item.gamma]
    y = y if item.beta is None else y + run[item.beta]
    return {item.output: y, item.mean: mean, item.invstd: invstd}, mean, var


def _batch_norm(item: BatchNorm, run: Any) -> Arrays:
    results, mean, var = _normalize(item, run, PIXELS)
    n = run[item.input].size / mean.size
    for name, value in ((item.running_mean, mean), (item.running_var, var * n / (n - 1))):
        if name is not None:
            results[name] = (1 - item.momentum) * run[name] + item.momentum * value
    return results


def _norm_grad(item: BatchNormGrad | LayerNormGrad, run: Any) -> Arrays:
    axes = PIXELS if isinstance(item, BatchNormGrad) else CHANNELS
    dy, u = run[item.gradient], (run[item.input] - run[item.mean]) * run[item.invstd]
    g = dy if item.gamma is None else dy * run[item.gamma]
    average, slope = (part.mean(axis=axes, keepdims=True) for part in (g, g * u))
    dx = run[item.invstd] * (g - average - u * slope)
    return _named((item.output, item.gamma_grad, item.beta_grad), (dx, _sum(dy * u), _sum(dy)))


def _normal_cdf(x: NDArray) -> NDArray:
    return 0.5 * (1 + torch.erf(torch.from_numpy(np.ascontiguousarray(x / np.sqrt(2)))).numpy())


def _gelu(item: Gelu, run: Any) -> Arrays:
    x = run[item.input]
    return {item.output: x / 2 * (1 + _tanh(x)) if item.tanh else x * _normal_cdf(x)}


def _tanh(x: NDArray) -> NDArray:
    return np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))


def _gelu_grad(item: GeluGrad, run: Any) -> Arrays:
    x = run[item.input]
    if item.tanh:
        inner = np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x**2)
        slope = (1 + _tanh(x)) / 2 + x / 2 * (1 - _tanh(x) ** 2) * inner
    else:
        slope = _normal_cdf(x) + x * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    return {item.output: run[item.gradient] * slope}


def _silu_grad(item: SiluGrad, run: Any) -> Arrays:
    x = run[item.input]
    part = 1 / (1 + np.exp(-x))
    return {item.output: run[item.gradient] * part * (1 + x * (1 - part))}


def _softmax(x: NDArray) -> NDArray:
    powers = np.exp(x - x.max(axis=3, keepdims=True))
    return powers / _sum(powers, CHANNELS)


def _softmax_grad(item: SoftmaxGrad, run: Any) -> Arrays:
    dy, y = run[item.gradient], run[item.y]
    return {item.output: item.scale * y * (dy - _sum(dy * y, CHANNELS))}


def _cross_entropy(item: CrossEntropy, run: Any) -> Arrays:
    x, labels = run[item.input], run[item.labels]
    shifted = x - x.max(axis=3, keepdims=True)
    logs = shifted - np.log(_sum(np.exp(shifted), CHANNELS))
    loss = -item.scale * (logs * labels).sum().reshape(1, 1, 1, 1)
    return _named((item.loss, item.gradient), (loss, item.scale * (_softmax(x) - labels)))


def _mse(item: Mse, run: Any) -> Arrays:
    difference = run[item.input] - run[item.target]
    loss = item.scale * (difference**2).sum().reshape(1, 1, 1, 1)
    return _named((item.loss, item.gradient), (loss, 2 * item.scale * difference))


LAYERS: Mapping[type, Any] = {
    Bias: lambda i, run: {i.output: run[i.input] + run[i.bias]},
    BiasGrad: lambda i, run: {i.output: _sum(run[i.gradient])},
    BatchNorm: _batch_norm,
    BatchNormGrad: _norm_grad,
    LayerNorm: lambda i, run: _normalize(i, run, CHANNELS)[0],
    LayerNormGrad: _norm_grad,
    Relu: lambda i, run: {i.output: np.maximum(run[i.input], 0)},
    ReluGrad: lambda i, run: {i.output: np.where(run[i.y] > 0, run[i.gradient], 0)},
    Gelu: _gelu,
    GeluGrad: _gelu_grad,
    Silu: lambda i, run: {i.output: run[i.input] / (1 + np.exp(-run[i.input]))},
    SiluGrad: _silu_grad,
    Add: lambda i, run: {i.output: run[i.left] + run[i.right]},
    Mul: lambda i, run: {i.output: run[i.left] * run[i.right]},
    Scale: lambda i, run: {i.output: run[i.input] * i.factor},
    Softmax: lambda i, run: {i.output: _softmax(i.scale * run[i.input])},
    SoftmaxGrad: _softmax_grad,
    CrossEntropy: _cross_entropy,
    Mse: _mse,
}

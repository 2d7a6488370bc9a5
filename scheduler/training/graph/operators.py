"""Operators of a training step that compute: products, layers, losses, and the gradients of each.

The type of a field says what its name stands for (`base.py`). Every tensor is `[N, H, W, C]`; a *channel vector* is
`[1, 1, 1, C]`.
"""

from dataclasses import dataclass

from scheduler.training.graph.base import Filter, InPlace, Operator, Result, Source, Window


@dataclass(frozen=True)
class Conv(Filter, Operator):
    """Product of the forward pass (FF): `weight` is `[Co, ky, kx, Ci / groups]`, a linear layer has a 1 x 1 kernel."""

    output: Result
    input: Source
    weight: Source


@dataclass(frozen=True)
class ConvInputGrad(Filter, Operator):
    """Gradient of a convolution's input (BP), from that of its output and the weight."""

    output: Result
    gradient: Source
    weight: Source


@dataclass(frozen=True)
class ConvWeightGrad(Filter, Operator):
    """Gradient of a convolution's weight (WU), from that of its output and the input; `weight` is only named."""

    output: Result
    gradient: Source
    input: Source
    weight: str


@dataclass(frozen=True)
class MatMul(Operator):
    """Product of two activations for each sample and head: `output = left @ right`, each side transposed on request.

    A tensor with `H == heads` holds the matrix `[W, C]` of a head; one with `H == 1` holds it in the channels
    `head * C / heads` onwards of all W.
    """

    output: Result
    left: Source
    right: Source
    heads: int
    transpose_left: bool
    transpose_right: bool


@dataclass(frozen=True)
class Bias(Operator):
    """`output = input + bias`, a channel vector."""

    output: Result
    input: Source
    bias: Source


@dataclass(frozen=True)
class BiasGrad(Operator):
    """Sum of `gradient` over N, H and W: a channel vector."""

    output: Result
    gradient: Source


@dataclass(frozen=True)
class BatchNorm(Operator):
    """`output = (input - mean) * invstd * gamma + beta` with statistics of the batch over N, H and W.

    `invstd = 1 / sqrt(var + eps)` with the variance divided by `n = N*H*W`. Running statistics become
    `(1 - momentum) * old + momentum * new`; the new variance is the one divided by `n - 1`.
    """

    output: Result
    mean: Result
    invstd: Result
    input: Source
    gamma: Source | None
    beta: Source | None
    running_mean: InPlace | None
    running_var: InPlace | None
    momentum: float
    eps: float


@dataclass(frozen=True)
class BatchNormGrad(Operator):
    """With `u = (input - mean) * invstd`: `beta_grad = sum(gradient)`, `gamma_grad = sum(gradient * u)`, and
    `output = gamma * invstd * (gradient - beta_grad / n - u * gamma_grad / n)`.
    """

    output: Result | None
    gamma_grad: Result | None
    beta_grad: Result | None
    gradient: Source
    input: Source
    mean: Source
    invstd: Source
    gamma: Source | None


@dataclass(frozen=True)
class LayerNorm(Operator):
    """`output = (input - mean) * invstd * gamma + beta`, each pixel over its channels; `mean` is `[N, H, W, 1]`."""

    output: Result
    mean: Result
    invstd: Result
    input: Source
    gamma: Source | None
    beta: Source | None
    eps: float


@dataclass(frozen=True)
class LayerNormGrad(Operator):
    """With `u = (input - mean) * invstd` and `g = gradient * gamma`: `output = invstd * (g - avg(g) - u * avg(g * u))`
    with averages over the channels; `beta_grad` and `gamma_grad` are sums of `gradient` and `gradient * u`.
    """

    output: Result | None
    gamma_grad: Result | None
    beta_grad: Result | None
    gradient: Source
    input: Source
    mean: Source
    invstd: Source
    gamma: Source | None


@dataclass(frozen=True)
class Relu(Operator):
    """`output = max(input, 0)`."""

    output: Result
    input: Source


@dataclass(frozen=True)
class ReluGrad(Operator):
    """`output = gradient` where `y`, the result of the forward pass, is above 0, else 0."""

    output: Result
    gradient: Source
    y: Source


@dataclass(frozen=True)
class Gelu(Operator):
    """`x * normal_cdf(x)`, or with `tanh`: `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))`."""

    output: Result
    input: Source
    tanh: bool


@dataclass(frozen=True)
class GeluGrad(Operator):
    """`gradient` times the derivative of `Gelu` at `input`."""

    output: Result
    gradient: Source
    input: Source
    tanh: bool


@dataclass(frozen=True)
class Silu(Operator):
    """`x / (1 + exp(-x))`."""

    output: Result
    input: Source


@dataclass(frozen=True)
class SiluGrad(Operator):
    """`gradient` times the derivative of `Silu` at `input`."""

    output: Result
    gradient: Source
    input: Source


@dataclass(frozen=True)
class Add(Operator):
    """`output = left + right`."""

    output: Result
    left: Source
    right: Source


@dataclass(frozen=True)
class Mul(Operator):
    """`output = left * right`."""

    output: Result
    left: Source
    right: Source


@dataclass(frozen=True)
class Scale(Operator):
    """`output = input * factor`."""

    output: Result
    input: Source
    factor: float


@dataclass(frozen=True)
class MaxPool(Window, Operator):
    """Largest value of each window; padding counts as minus infinity."""

    output: Result
    input: Source


@dataclass(frozen=True)
class MaxPoolGrad(Window, Operator):
    """Adds each window's gradient to its first pixel, in order (ky, kx), where `input` equals the maximum `y`."""

    output: Result
    gradient: Source
    input: Source
    y: Source


@dataclass(frozen=True)
class AvgPool(Window, Operator):
    """Sum of each window divided by the area of the kernel; padding counts as zeros."""

    output: Result
    input: Source


@dataclass(frozen=True)
class AvgPoolGrad(Window, Operator):
    """Adds each window's gradient, divided by the area of the kernel, to all of its pixels."""

    output: Result
    gradient: Source


@dataclass(frozen=True)
class Softmax(Operator):
    """`exp(scale * x) / sum(exp(scale * x))` over the channels of each pixel; `scale` is positive."""

    output: Result
    input: Source
    scale: float = 1.0


@dataclass(frozen=True)
class SoftmaxGrad(Operator):
    """`scale * y * (gradient - sum(gradient * y))` over the channels of each pixel; `y` is the result of the forward
    pass.
    """

    output: Result
    gradient: Source
    y: Source
    scale: float = 1.0


@dataclass(frozen=True)
class DropoutMask(Operator):
    """0 with probability `p`, else `1 / (1 - p)`, drawn anew in every step; `stream` numbers the masks of a graph.

    Dropout itself, and its gradient, are a `Mul` with the mask.
    """

    output: Result
    p: float
    stream: int


@dataclass(frozen=True)
class CrossEntropy(Operator):
    """`loss = -scale * sum(log(softmax(input)) * labels)`, `gradient = scale * (softmax(input) - labels)`.

    `labels` has a one in each row of channels; `scale` is 1 / rows for the mean.
    """

    loss: Result
    gradient: Result | None
    input: Source
    labels: Source
    scale: float


@dataclass(frozen=True)
class Mse(Operator):
    """`loss = scale * sum((input - target)**2)`, `gradient = 2 * scale * (input - target)`."""

    loss: Result
    gradient: Result | None
    input: Source
    target: Source
    scale: float


Product = Conv | ConvInputGrad | ConvWeightGrad
"""Products with a parameter: the three stages of training."""

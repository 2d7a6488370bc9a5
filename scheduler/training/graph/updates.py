"""Operators that update a parameter at the end of a training step."""

from dataclasses import dataclass

from scheduler.training.graph.base import InPlace, Operator, Scalar, Source


@dataclass(frozen=True)
class Sgd(Operator):
    """`g = gradient + weight_decay * parameter`; with momentum `velocity = momentum * velocity + (1 - dampening) * g`
    (in the first step of all `velocity = g`) and `g = velocity`, or `g + momentum * velocity` if `nesterov`;
    then `parameter -= lr * g`.
    """

    parameter: InPlace
    gradient: Source
    velocity: InPlace | None
    lr: Scalar
    momentum: Scalar | None
    dampening: Scalar | None
    weight_decay: Scalar | None
    nesterov: bool


@dataclass(frozen=True)
class Adam(Operator):
    """`first = beta1 * first + (1 - beta1) * g`, `second = beta2 * second + (1 - beta2) * g**2`, and in step t = 1,
    2 .. `parameter -= lr / (1 - beta1**t) * first / (sqrt(second / (1 - beta2**t)) + eps)`.

    Weight decay adds `weight_decay * parameter` to the gradient g; if `decoupled` (AdamW), the parameter is multiplied
    by `1 - lr * weight_decay` first instead.
    """

    parameter: InPlace
    gradient: Source
    first: InPlace
    second: InPlace
    lr: Scalar
    beta1: Scalar
    beta2: Scalar
    eps: Scalar
    weight_decay: Scalar | None
    decoupled: bool


Update = Sgd | Adam
"""Optimizer steps, one for each trained parameter."""

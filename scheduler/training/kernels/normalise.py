"""Batch normalisation: parameters of channels from sums over rows, forward and backward."""

from collections.abc import Sequence
from dataclasses import dataclass

from hwgen.arch.isa import Operation
from scheduler.training.kernels.emitter import Block, Emitter
from scheduler.training.kernels.functions import rsqrt

ADD, SUB, MUL, MAC = Operation.ADD, Operation.SUB, Operation.MUL, Operation.MAC


@dataclass(frozen=True)
class Affine:
    """`output = scale * x + shift`, channel by channel."""

    scale: Block
    shift: Block


@dataclass(frozen=True)
class Statistics:
    """Mean and inverse standard deviation of a batch, and its variance."""

    mean: Block
    invstd: Block
    var: Block


def batch_statistics(em: Emitter, total: Block, squares: Block, count: int, eps: float) -> Statistics:
    """From sums of x and of x**2 over `count` values of each channel; a variance below 0 counts as 0."""
    like = total
    mean, var, shifted, invstd = (em.keep(1, total.words) for _ in range(4))
    share = em.constant(1.0 / count).over(like)
    em.vector(MUL, mean, total, share)
    em.vector(MUL, var, squares, share)
    em.vector(MUL, shifted, mean, mean)
    em.vector(SUB, var, var, shifted)
    em.vector(Operation.COPY, var, var, relu=1)
    em.vector(ADD, shifted, var, em.constant(eps).over(like))
    rsqrt(em, shifted, invstd)
    return Statistics(mean, invstd, var)


def running(em: Emitter, old: Block, new: Block, momentum: float, factor: float = 1.0) -> None:
    """`old = (1 - momentum) * old + momentum * factor * new`, in place."""
    part = em.keep(1, old.words)
    em.vector(MUL, part, new, em.constant(momentum * factor).over(old))
    em.vector(MAC, old, old, em.constant(1.0 - momentum).over(old), part)


def forward_affine(em: Emitter, statistics: Statistics, gamma: Block | None, beta: Block | None) -> Affine:
    """Scale `gamma * invstd` and shift `beta - mean * scale`."""
    scale, shift = em.keep(1, statistics.mean.words), em.keep(1, statistics.mean.words)
    one = em.constant(1.0).over(scale)
    em.vector(MUL, scale, statistics.invstd, one if gamma is None else gamma)
    em.vector(MUL, shift, statistics.mean, scale)
    zero = em.constant(0.0).over(scale)
    em.vector(SUB, shift, zero if beta is None else beta, shift)
    return Affine(scale, shift)


@dataclass(frozen=True)
class BackwardAffine:
    """`output = scale * gradient + slope * x + shift`, and the gradients of gamma and beta."""

    scale: Block
    slope: Block
    shift: Block
    gamma_grad: Block
    beta_grad: Block


def backward_affine(
    em: Emitter, sums: Sequence[Block], mean: Block, invstd: Block, gamma: Block | None, count: int
) -> BackwardAffine:
    """From `sums` of the gradient and of gradient * x over `count` values of each channel.

    With u = (x - mean) * invstd: gamma_grad = invstd * (sum(g x) - mean * sum(g)), beta_grad = sum(g),
    dx = gamma * invstd * (g - beta_grad / count - u * gamma_grad / count).
    """
    total, product = sums
    scale, shift, slope, gamma_grad, part = (em.keep(1, mean.words) for _ in range(5))  # the first two in two banks
    em.vector(MUL, part, mean, total)
    em.vector(SUB, gamma_grad, product, part)
    em.vector(MUL, gamma_grad, gamma_grad, invstd)
    em.vector(MUL, scale, invstd, em.constant(1.0).over(mean) if gamma is None else gamma)
    em.vector(MUL, part, scale, em.constant(-1.0 / count).over(mean))
    em.vector(MUL, slope, part, invstd)
    em.vector(MUL, slope, slope, gamma_grad)
    em.vector(MUL, shift, part, total)
    em.vector(MUL, part, slope, mean)
    em.vector(SUB, shift, shift, part)
    return BackwardAffine(scale, slope, shift, gamma_grad, total)


def affine(em: Emitter, block: Block, scale: Block, shift: Block, *, relu: bool = False) -> None:
    """`block = scale * block + shift` in place, parameters of channels as rows."""
    em.vector(MAC, block, block, scale.over_rows(block.rows), shift.over_rows(block.rows), relu=relu)

"""Normalisation by the root mean square: each row over its channels, chunk by chunk."""

from math import ceil

from hwgen.arch.isa import Operation
from scheduler.training.kernels.channels import over_channels
from scheduler.training.kernels.emitter import Block, Emitter, Feature
from scheduler.training.kernels.functions import rsqrt
from scheduler.training.kernels.layer_norm import SINGLE
from scheduler.training.kernels.stages import Kernel
from scheduler.training.lower import Step
from scheduler.training.schedule.fuse import Group


def rms_norm(em: Emitter, x: Feature, y: Feature, gamma: Block | None, eps: float) -> None:
    """Compute `y = x * gamma / sqrt(mean(x**2) + eps)`: 3 passes, about 20 over a word a row. Padding stays 0."""
    for chunk in em.chunks(x, em.limit(1 + ceil(SINGLE / x.words))):
        block = em.fetch(x, chunk)
        squares = over_channels(em, Operation.ADD, block, block)
        factor = em.take(block.rows, 1, apart=[block, squares])
        em.vector(Operation.MUL, squares, squares, 1.0 / x.c)
        em.vector(Operation.ADD, squares, squares, eps)
        rsqrt(em, squares, factor)
        em.vector(Operation.MUL, block, block, factor)
        if gamma is not None:
            em.vector(Operation.MUL, block, block, gamma)
        em.put(y, chunk, block)


def emit_rms_norm(step: Step, group: Group) -> None:
    """Record the kernel of an `RmsNorm`."""
    kernel, item, places = Kernel(step, group), group.main, step.features
    rms_norm(step.em, places[item.input], places[item.output], kernel.optional(item.gamma), item.eps)

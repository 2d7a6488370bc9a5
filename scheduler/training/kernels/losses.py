"""Losses, one FP32 word with the same value in all columns, and where backpropagation begins."""

from hwgen.arch.isa import Format, Operation
from scheduler.training.kernels.channels import over_channels
from scheduler.training.kernels.emitter import Emitter, Feature, Operand
from scheduler.training.kernels.functions import LN2, log, reciprocal
from scheduler.training.kernels.softmax import BLOCKS, DEPTH, exponentials
from scheduler.training.kernels.sums import sum_rows
from scheduler.training.memory import Row

COPY, ADD, SUB, MUL, MAC = Operation.COPY, Operation.ADD, Operation.SUB, Operation.MUL, Operation.MAC


def cross_entropy(
    em: Emitter,
    x: Feature,
    labels: Feature,
    gradient: Feature | None,
    loss: Row,
    scale: float,
    loss_scale: Operand = 1.0,
) -> None:
    """Compute `loss = -scale * sum(log(softmax(x)) * labels)`, and its gradient times `loss_scale` if wanted.

    The labels of each row add up to 1. 15 passes, and about 42 over one word a row; errors as in `softmax`.
    """
    total, factor = em.vector(COPY, em.keep(1, 1), 0.0), em.keep(1, 1)
    em.vector(MUL, factor, em.constant(scale), loss_scale)
    for chunk in em.chunks(x, em.limit(BLOCKS + 1)):
        block, wanted = em.fetch(x, chunk), em.fetch(labels, chunk)
        chosen = over_channels(em, ADD, block, wanted)
        shift, power = exponentials(em, block, x.c)
        rows = em.take(block.rows, 1, apart=power)
        em.vector(MAC, rows, shift, -LN2, log(em, power, rows))
        em.vector(ADD, rows, rows, DEPTH * LN2)
        em.vector(SUB, rows, rows, chosen)
        em.vector(ADD, total, total, sum_rows(em, rows))
        if gradient is not None:
            share = reciprocal(em, power, rows)
            em.vector(MUL, share, share, factor)
            em.vector(MUL, block, block, share)
            em.vector(MUL, wanted, wanted, factor)
            em.put(gradient, chunk, em.vector(SUB, block, block, wanted))
    em.vector(MUL, total, total, scale)
    em.store(total, loss.address, 0, loss.region, Format.FP32)


def mse(
    em: Emitter,
    x: Feature,
    target: Feature,
    gradient: Feature | None,
    loss: Row,
    scale: float,
    loss_scale: Operand = 1.0,
) -> None:
    """Compute `loss = scale * sum((x - target)**2)`, and its gradient times `loss_scale` if wanted: 3.5 passes."""
    total, factor = em.vector(COPY, em.keep(1, x.words), 0.0), em.keep(1, 1)
    em.vector(MUL, factor, em.constant(2 * scale), loss_scale)
    for chunk in em.chunks(x, em.limit(4)):
        block, wanted = em.fetch(x, chunk), em.fetch(target, chunk)
        em.vector(SUB, block, block, wanted)
        em.vector(ADD, total, total, sum_rows(em, block, block))
        if gradient is not None:
            em.put(gradient, chunk, em.vector(MUL, block, block, factor))
    em.begin_chunk()
    whole = over_channels(em, ADD, total)
    em.vector(MUL, whole, whole, scale)
    em.store(whole, loss.address, 0, loss.region, Format.FP32)

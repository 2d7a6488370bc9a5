"""Softmax over channels, its gradient, and the losses that training ends with."""

from hwgen.arch.isa import Format, Operation
from scheduler.training.channels import clear_padding, lower_padding, over_channels
from scheduler.training.emitter import Block, Emitter, Feature, Operand
from scheduler.training.functions import EXP2, EXPONENT_SHIFT, LN2, LOG2_E, ROUND, log, polynomial, reciprocal, scratch
from scheduler.training.memory import Row
from scheduler.training.sums import sum_rows

ADD, SUB, MUL, MAC, MAX, IADD = (
    Operation.ADD,
    Operation.SUB,
    Operation.MUL,
    Operation.MAC,
    Operation.MAX,
    Operation.IADD,
)
DEPTH = 30.0
"""exp(x - max) is taken as 2**-DEPTH where it is smaller."""
BLOCKS = 10
"""Blocks that a chunk takes at most; most of them have a single word in a row."""


def softmax(em: Emitter, x: Feature, y: Feature) -> None:
    """Compute `y = exp(x) / sum(exp(x))` over the channels of each pixel: 12 passes, and 20 over one word a pixel.

    Relative error 4e-6; results below 2**-DEPTH of the largest one count as that.
    """
    for chunk in em.chunks(x, em.limit(BLOCKS)):
        block = em.fetch(x, chunk)
        _, total = _exponentials(em, block, x.c)
        share = em.take(total.rows, 1, apart=total)
        em.vector(MUL, block, block, reciprocal(em, total, share))
        em.put(y, chunk, block)


def softmax_grad(em: Emitter, gradient: Feature, y: Feature, dx: Feature) -> None:
    """Compute `dx = y * (gradient - sum(gradient * y))`: 3 passes, and log2(columns) over one word a pixel."""
    for chunk in em.chunks(y, em.limit(4)):
        g, block = em.fetch(gradient, chunk), em.fetch(y, chunk)
        em.vector(SUB, g, g, over_channels(em, ADD, g, block))
        em.put(dx, chunk, em.vector(MUL, g, g, block))


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

    The labels of each row add up to 1. 15 passes, and about 45 over one word a row; errors as in `softmax`.
    """
    total, factor = em.vector(Operation.COPY, em.keep(1, 1), 0.0), em.keep(1, 1)
    em.vector(MUL, factor, em.constant(scale), loss_scale)
    for chunk in em.chunks(x, em.limit(BLOCKS + 1)):
        block, wanted = em.fetch(x, chunk), em.fetch(labels, chunk)
        chosen = over_channels(em, ADD, block, wanted)
        shift, exponentials = _exponentials(em, block, x.c)
        rows = em.take(block.rows, 1, apart=exponentials)
        em.vector(MAC, rows, shift, -LN2, log(em, exponentials, rows))
        em.vector(ADD, rows, rows, DEPTH * LN2)
        em.vector(SUB, rows, rows, chosen)
        em.vector(ADD, total, total, sum_rows(em, rows))
        if gradient is not None:
            share = reciprocal(em, exponentials, rows)
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
    total, factor = em.vector(Operation.COPY, em.keep(1, x.words), 0.0), em.keep(1, 1)
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


def _exponentials(em: Emitter, x: Block, channels: int) -> tuple[Block, Block]:
    """Replace x by exp(x) 2**(shift - DEPTH), at most about 1; gives `shift` and the sums over channels, row by row.

    x log2(e) + shift lies in 0 .. DEPTH because lower values are cut, which limits the exponents at no cost.
    """
    lower_padding(em, x, channels)
    shift = over_channels(em, MAX, x)
    em.vector(MAC, shift, shift, -LOG2_E, DEPTH)
    em.vector(MAC, x, x, LOG2_E, shift, relu=1)
    f, t = scratch(em, x, 2)
    em.vector(ADD, t, x, ROUND - DEPTH)
    em.vector(SUB, f, t, ROUND - DEPTH)
    em.vector(SUB, f, x, f)
    polynomial(em, f, EXP2, x)
    em.vector(IADD, x, x, t, shift=EXPONENT_SHIFT)
    clear_padding(em, x, channels)
    return shift, over_channels(em, ADD, x)

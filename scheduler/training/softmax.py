"""Softmax over channels and its gradient, chunk by chunk."""

from hwgen.arch.isa import Operation
from scheduler.training.channels import clear_padding, lower_padding, over_channels
from scheduler.training.emitter import Block, Emitter, Feature
from scheduler.training.functions import EXP2, EXPONENT_SHIFT, LOG2_E, ROUND, polynomial, reciprocal, scratch

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
    """Compute `y = exp(x) / sum(exp(x))` over the channels of each pixel: 12 passes, and 17 over one word a pixel.

    Relative error 4e-6; results below 2**-DEPTH of the largest one count as that.
    """
    for chunk in em.chunks(x, em.limit(BLOCKS)):
        block = em.fetch(x, chunk)
        _, total = exponentials(em, block, x.c)
        share = em.take(total.rows, 1, apart=[block, total])
        em.vector(MUL, block, block, reciprocal(em, total, share))
        em.put(y, chunk, block)


def softmax_grad(em: Emitter, gradient: Feature, y: Feature, dx: Feature) -> None:
    """Compute `dx = y * (gradient - sum(gradient * y))`: 3 passes, and log2(columns) over one word a pixel."""
    for chunk in em.chunks(y, em.limit(4)):
        g, block = em.fetch(gradient, chunk), em.fetch(y, chunk)
        em.vector(SUB, g, g, over_channels(em, ADD, g, block))
        em.put(dx, chunk, em.vector(MUL, g, g, block))


def exponentials(em: Emitter, x: Block, channels: int) -> tuple[Block, Block]:
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

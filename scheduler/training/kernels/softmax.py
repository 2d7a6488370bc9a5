"""Softmax over channels and its gradient, chunk by chunk."""

from hwgen.arch.isa import Operation
from scheduler.training.kernels.channels import clear_padding, lower_padding, over_channels
from scheduler.training.kernels.emitter import Block, Emitter, Feature
from scheduler.training.kernels.functions import EXP2, EXPONENT_SHIFT, LOG2_E, ROUND, polynomial, reciprocal, scratch

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
CURVE_BLOCKS = 5
"""The same with the curve of 2**x."""
CURVE_TOP = 14.0
"""The largest value of a row goes to this place of the curve, which is zero below -16."""


def softmax(em: Emitter, x: Feature, y: Feature, scale: float = 1.0) -> None:
    """Compute `y = exp(scale x) / sum(exp(scale x))` over the channels of each pixel.

    12 passes, and 17 over one word a pixel; relative error 4e-6; results below 2**-DEPTH of the largest one count as
    that. With the curve `exp2` 5 passes and 17; relative error 7e-5; results below 2**-30 of the largest one are 0.
    """
    curve = "exp2" in em.curves.places
    for chunk in em.chunks(x, em.limit(CURVE_BLOCKS if curve else BLOCKS)):
        block = em.fetch(x, chunk)
        total = _powers(em, block, x.c, scale) if curve else exponentials(em, block, x.c, scale)[1]
        share = em.take(total.rows, 1, apart=[block, total])
        em.vector(MUL, block, block, reciprocal(em, total, share))
        em.put(y, chunk, block)


def _powers(em: Emitter, x: Block, channels: int, scale: float) -> Block:
    """Replace x by exp(scale (x - max)) 2**CURVE_TOP; gives the sums over channels, row by row."""
    lower_padding(em, x, channels)
    shift = over_channels(em, MAX, x)
    em.vector(MAC, shift, shift, -scale * LOG2_E, CURVE_TOP)
    em.vector(MAC, x, x, scale * LOG2_E, shift)
    em.curve("exp2", x, x)
    return over_channels(em, ADD, x)


def softmax_grad(em: Emitter, gradient: Feature, y: Feature, dx: Feature, scale: float = 1.0) -> None:
    """Compute `dx = scale y (gradient - sum(gradient y))`: 3 passes, and log2(columns) over one word a pixel, one more
    with a scale.
    """
    for chunk in em.chunks(y, em.limit(4)):
        g, block = em.fetch(gradient, chunk), em.fetch(y, chunk)
        total = over_channels(em, ADD, g, block)
        if scale == 1.0:
            em.vector(SUB, g, g, total)
        else:
            em.vector(MUL, total, total, -scale)
            em.vector(MAC, g, g, scale, total)
        em.put(dx, chunk, em.vector(MUL, g, g, block))


def exponentials(em: Emitter, x: Block, channels: int, scale: float = 1.0) -> tuple[Block, Block]:
    """Replace x by exp(scale x) 2**(shift - DEPTH), at most about 1; gives `shift` and the sums over channels, row by
    row.

    scale x log2(e) + shift lies in 0 .. DEPTH because lower values are cut, which limits the exponents at no cost.
    """
    lower_padding(em, x, channels)
    shift = over_channels(em, MAX, x)
    em.vector(MAC, shift, shift, -scale * LOG2_E, DEPTH)
    em.vector(MAC, x, x, scale * LOG2_E, shift, relu=1)
    f, t = scratch(em, x, 2)
    em.vector(ADD, t, x, ROUND - DEPTH)
    em.vector(SUB, f, t, ROUND - DEPTH)
    em.vector(SUB, f, x, f)
    polynomial(em, f, EXP2, x)
    em.vector(IADD, x, x, t, shift=EXPONENT_SHIFT)
    clear_padding(em, x, channels)
    return shift, over_channels(em, ADD, x)

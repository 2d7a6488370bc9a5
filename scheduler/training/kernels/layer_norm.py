"""Layer normalisation: each pixel over its channels, forward and backward, chunk by chunk."""

from collections.abc import Sequence
from math import ceil

from hwgen.arch.isa import Operation
from scheduler.training.kernels.channels import clear_padding, over_channels
from scheduler.training.kernels.emitter import Block, Emitter, Feature
from scheduler.training.kernels.functions import rsqrt
from scheduler.training.kernels.sums import RowSums, partial_rows

ADD, SUB, MUL, MAC = Operation.ADD, Operation.SUB, Operation.MUL, Operation.MAC
SINGLE = 9
"""Blocks of one word a row that a chunk takes."""


def layer_norm(em: Emitter, x: Feature, y: Feature, gamma: Block | None, beta: Block | None, eps: float) -> None:
    """Compute `y = (x - mean) * invstd * gamma + beta` with rows gamma, beta: 4 passes, about 24 over a word a pixel.

    The variance is the mean of squares less the square of the mean, clipped at 0: its relative error is about
    1e-7 (1 + mean**2 / variance).
    """
    for chunk in em.chunks(x, _limit(em, x, 1)):
        block = em.fetch(x, chunk)
        _normalise(em, block, x.c, eps)
        if gamma is not None or beta is not None:
            em.vector(MAC, block, block, 1.0 if gamma is None else gamma, 0.0 if beta is None else beta)
        if gamma is None:
            clear_padding(em, block, x.c)
        em.put(y, chunk, block)


def layer_norm_grad(
    em: Emitter, gradient: Feature, x: Feature, dx: Feature | None, gamma: Block | None, eps: float
) -> tuple[Block, Block]:
    """Compute `dx`, and the gradients of gamma and beta as kept rows: 10 passes, about 37 over a word a pixel.

    With u = (x - mean) * invstd, computed again, and g = gradient * gamma: dx = invstd * (g - avg(g) - u * avg(g * u)).
    """
    limit = _limit(em, x, 2)
    products, gradients = (RowSums(em, x.words, partial_rows(em, 2, x.words)) for _ in range(2))
    for chunk in em.chunks(x, limit):
        g, u = em.fetch(gradient, chunk), em.fetch(x, chunk)
        invstd = _normalise(em, u, x.c, eps, beside=[g])
        products.add(g, u)
        gradients.add(g)
        if dx is not None:
            em.put(dx, chunk, _input_gradient(em, g, u, invstd, gamma, x.c))
    return products.total(), gradients.total()


def _limit(em: Emitter, x: Feature, blocks: int) -> int:
    return em.limit(blocks + ceil(SINGLE / x.words))


def _normalise(em: Emitter, x: Block, channels: int, eps: float, *, beside: Sequence[Block] = ()) -> Block:
    """Replace x by (x - mean) * invstd, in padding too; gives invstd of each row, in a bank `beside`. 3 passes."""
    minus = over_channels(em, ADD, x, apart=beside)
    squares = over_channels(em, ADD, x, x, apart=[minus])
    invstd = em.take(x.rows, 1, apart=[x, minus])
    power = em.take(x.rows, 1, apart=[squares, minus])
    em.vector(MUL, minus, minus, -1.0 / channels)
    em.vector(MUL, power, minus, minus)
    em.vector(MUL, squares, squares, 1.0 / channels)
    em.vector(SUB, squares, squares, power, relu=1)
    em.vector(ADD, squares, squares, eps)
    rsqrt(em, squares, invstd)
    em.vector(MUL, minus, minus, invstd)
    em.vector(MAC, x, x, invstd, minus)
    return invstd


def _input_gradient(em: Emitter, g: Block, u: Block, invstd: Block, gamma: Block | None, channels: int) -> Block:
    """Spends g and u. 5 passes."""
    if gamma is not None:
        em.vector(MUL, g, g, gamma)
    average = over_channels(em, ADD, g, apart=[u, invstd])
    slope = over_channels(em, ADD, g, u)
    em.vector(MUL, slope, slope, -1.0 / channels)
    em.vector(MUL, average, average, -1.0 / channels)
    em.vector(MUL, average, average, invstd)
    em.vector(MAC, u, u, slope, g)
    em.vector(MAC, u, u, invstd, average)
    clear_padding(em, u, channels)
    return u

"""Activation functions and their slopes (derivatives) on accumulator blocks, as in `functions.py`.

Where the step has a curve of the function (`curves.py`), it is one pass, with the error of the curve. Passes and errors
below are those without one.
"""

from scheduler.training.kernels.curves import CUBE, TANH_RATE
from scheduler.training.kernels.emitter import Block, Emitter
from scheduler.training.kernels.functions import MAC, MAX, MIN, MUL, polynomial, scratch, sigmoid

CDF_END = 5.0
"""The normal distribution function is taken as 0 or 1 beyond."""
CDF = (
    *(0.14136375, -0.0056238584, 0.00032976255, -2.0680696e-05, 1.2843711e-06, -7.7414207e-08),
    *(4.4328963e-09, -2.1318573e-10, 8.5785884e-12, -5.2168128e-13, 3.4300389e-14, -9.4177919e-16),
)
"""(cdf(x) - 1/2) / x as a polynomial in x**2 - CDF_END**2 / 2."""
SLOPE_END = 5.1
"""The slope of the GELU is taken as constant beyond."""
SLOPE = (
    *(0.13920322, -0.0056039668, 0.00037518478, -3.0941705e-05, 2.6591745e-06, -2.1071953e-07, 1.6675163e-08),
    *(-1.3219843e-09, 6.8001660e-11, -1.4964416e-12, 1.4018416e-13, -1.7493652e-14, 5.7729372e-16),
)
"""(slope(x) - 1/2) / x as a polynomial in x**2 - SLOPE_END**2 / 2."""


def gelu(em: Emitter, x: Block, d: Block) -> Block:
    """Compute `d = x * cdf(x)` with the normal distribution function in 16 passes; `d` may be `x`.

    The polynomial's argument is limited rather than x, so that beyond the ends a line takes over that leaves 0 .. 1 and
    is cut there. Absolute error 2.2e-6; exactly x above 5.1, exactly 0 below -5.1.
    """
    if "gelu" in em.curves.places:
        return em.curve("gelu", d, x)
    s, p = scratch(em, d, 2)
    end = CDF_END**2 / 2
    em.vector(MAC, s, x, x, -end)
    em.vector(MIN, s, s, end)
    polynomial(em, s, CDF, p)
    em.vector(MAC, p, x, p, 0.5, relu=1)
    em.vector(MIN, p, p, 1.0)
    return em.vector(MUL, d, x, p)


def gelu_slope(em: Emitter, x: Block, d: Block) -> Block:
    """Compute the derivative of `gelu` at `x` in 16 passes; `d` must not be `x`. Absolute error 8.5e-6."""
    if "gelu_slope" in em.curves.places:
        return em.curve("gelu_slope", d, x)
    p, s = scratch(em, d, 2)
    end = SLOPE_END**2 / 2
    em.vector(MAX, d, x, -SLOPE_END)
    em.vector(MIN, d, d, SLOPE_END)
    em.vector(MAC, s, d, d, -end)
    polynomial(em, s, SLOPE, p)
    return em.vector(MAC, d, d, p, 0.5)


def gelu_tanh(em: Emitter, x: Block, d: Block) -> Block:
    """Compute PyTorch's tanh form of the GELU in 20 passes; `d` may be `x`. Relative error 5e-6 + 1e-7 |u|.

    The argument of the sigmoid is u = TANH_RATE (x + CUBE x**3).
    """
    if "gelu_tanh" in em.curves.places:
        return em.curve("gelu_tanh", d, x)
    u, *spare = scratch(em, d, 4)
    _tanh_argument(em, x, u)
    sigmoid(em, u, u, spare=spare)
    return em.vector(MUL, d, x, u)


def gelu_tanh_slope(em: Emitter, x: Block, d: Block) -> Block:
    """Compute the derivative of `gelu_tanh` at `x` in 25 passes; `d` must not be `x`. Absolute error 1e-5.

    With y = sigmoid(u) and exp(-u) y = 1 - y: y (1 + (1 - y) x du/dx).
    """
    if "gelu_tanh_slope" in em.curves.places:
        return em.curve("gelu_tanh_slope", d, x)
    t, e, f = scratch(em, d, 3)
    _tanh_argument(em, x, d)
    sigmoid(em, d, d, spare=(t, e, f))
    em.vector(MUL, t, x, x)
    em.vector(MAC, t, t, 3 * CUBE * TANH_RATE, TANH_RATE)
    em.vector(MUL, t, t, x)
    return _slope(em, e, t, d)


def _tanh_argument(em: Emitter, x: Block, u: Block) -> None:
    """3 passes."""
    em.vector(MUL, u, x, x)
    em.vector(MAC, u, u, CUBE * TANH_RATE, TANH_RATE)
    em.vector(MUL, u, u, x)


def silu(em: Emitter, x: Block, d: Block) -> Block:
    """Compute `d = x * sigmoid(x)` in 17 passes; `d` may be `x`. Relative error 5e-6 + 1e-7 |x|."""
    if "silu" in em.curves.places:
        return em.curve("silu", d, x)
    y, *spare = scratch(em, d, 4)
    sigmoid(em, x, y, spare=spare)
    return em.vector(MUL, d, x, y)


def silu_slope(em: Emitter, x: Block, d: Block) -> Block:
    """Compute the derivative of `silu` at `x` in 19 passes; `d` must not be `x`. Absolute error 1e-5.

    With y = sigmoid(x) and exp(-x) y = 1 - y: y (1 + x (1 - y)).
    """
    if "silu_slope" in em.curves.places:
        return em.curve("silu_slope", d, x)
    t, e, f = scratch(em, d, 3)
    sigmoid(em, x, d, spare=(t, e, f))
    return _slope(em, e, x, d)


def _slope(em: Emitter, e: Block, factor: Block, d: Block) -> Block:
    """`d (1 + e d factor)` in place of `d`, in 3 passes."""
    em.vector(MUL, e, e, d)
    em.vector(MAC, e, e, factor, 1.0)
    return em.vector(MUL, d, d, e)

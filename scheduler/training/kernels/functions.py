"""Elementary functions as sequences of VECTOR instructions.

Each function computes its destination `d` from blocks of the same shape and says what it costs and how exact it is. A
*pass* is one instruction over the block. Errors are the largest over the domain that is named, measured against float64
in tests/scheduler/training/kernels/test_functions.py. Temporaries are taken from the chunk, unless `spare` gives them.
"""

from collections.abc import Sequence

from hwgen.arch.isa import Operation
from scheduler.training.kernels.emitter import Block, Emitter

ADD, SUB, MUL, MAC = Operation.ADD, Operation.SUB, Operation.MUL, Operation.MAC
MAX, MIN = Operation.MAX, Operation.MIN
AND, OR, XOR, IADD, ISUB = Operation.AND, Operation.OR, Operation.XOR, Operation.IADD, Operation.ISUB

Spare = Sequence[Block]
"""Blocks of the shape of `d` that a function may use for what it computes on the way."""

SIGN = 0x80000000
"""Sign bit of FP32."""
EXPONENT_SHIFT = 23
"""Bits of an FP32 fraction."""
LN2, LOG2_E = 0.6931471805599453, 1.4426950408889634
ROUND = 1.5 * 2**23
"""x + ROUND holds the integer that is nearest to x in its low bits, if |x| is below 2**22."""
EXP_RANGE = 86.6
"""exp(x) and 1/exp(x) are normal numbers, and so are all steps on the way to them, if |x| is at most this."""


def scratch(em: Emitter, d: Block, count: int) -> list[Block]:
    """Temporaries of the shape of `d`, where possible each in a bank of its own, or in another one than that before."""
    blocks = [d]
    for _ in range(count):
        blocks.append(em.take(d.rows, d.words, apart=[blocks[-1], *blocks[:-1]]))
    return blocks[1:]


def polynomial(em: Emitter, x: Block, coefficients: Sequence[float], d: Block) -> Block:
    """Compute `d = c[0] + c[1] x + c[2] x**2 + ...` by Horner's rule in as many passes as the degree, at least 1.

    `d` must not be `x`.
    """
    *lower, second, first = coefficients
    em.vector(MAC, d, x, first, second)
    for value in reversed(lower):
        em.vector(MAC, d, d, x, value)
    return d


def reciprocal(em: Emitter, x: Block, d: Block, *, negative: bool = False, spare: Spare = ()) -> Block:
    """Compute `d = 1 / x` in 6 passes, or with `negative` `d = -1 / x` in 5; `d` must not be `x`.

    Subtracting the bit pattern of x from a constant negates the exponent and roughly inverts the fraction; two Newton
    steps `r = r (2 - x r)` follow, with constants that balance what the steps leave.

    Relative error 1.2e-6 for magnitudes 2**-126 .. 2**125. 1 / 0 is infinite with the sign of the zero.
    """
    (t,) = spare or scratch(em, d, 1)
    em.vector(ISUB, d, 0xFEF33800, x)
    em.vector(MAC, t, x, d, 2.00123048)
    em.vector(MUL, d, d, t)
    em.vector(MAC, t, x, d, 2.00000095)
    em.vector(MUL, d, d, t)
    return d if negative else em.vector(XOR, d, d, SIGN)


def rsqrt(em: Emitter, x: Block, d: Block, *, spare: Spare = ()) -> Block:
    """Compute `d = 1 / sqrt(x)` in 8 passes; `d` must not be `x`.

    The halved bit pattern of x, subtracted from a constant, is a first guess; two Newton steps `r = r (3 - x r**2) / 2`
    follow, whose factors are spread over the constants so that they cost no pass.

    Relative error 5e-7 for normal positive x; finite for 0, so that x * rsqrt(x) is the square root there too.
    """
    t, minus = spare or scratch(em, d, 2)
    em.vector(MUL, minus, x, -0.6607002)
    em.vector(ISUB, d, 0x5F1E2000, x, shift=1, right=1)
    for constant in (1.5478473, 1.646024):
        em.vector(MUL, t, d, d)
        em.vector(MAC, t, minus, t, constant)
        em.vector(MUL, d, d, t)
    return d


EXP2 = (0.99999928, 0.69312179, 0.24024746, 0.05591802, 0.00957008)
"""2**x for |x| <= 0.5, relative error 2.6e-6."""


def exp(em: Emitter, x: Block, d: Block, *, rate: float = 1.0, negative: bool = False, spare: Spare = ()) -> Block:
    """Compute the exponential of `rate * x`, with `negative` its negative, in 10 passes; `d` may be `x`.

    `rate * x` is limited to +-86.6, so results lie in 2.5e-38 .. 4.1e37. With y = x rate / ln 2 and k the integer
    nearest to it: a polynomial gives 2**(y - k), and k is added to its exponent, `negative` to its sign.

    Relative error 2.8e-6 + 1e-7 |rate * x|.
    """
    low, high = sorted((-EXP_RANGE / rate, EXP_RANGE / rate))
    em.vector(MAX, d, x, low)
    em.vector(MIN, d, d, high)
    f, t = spare or scratch(em, d, 2)
    round_to = ROUND + (256.0 if negative else 0.0)  # bit 8 of t becomes the sign
    em.vector(MAC, t, d, rate * LOG2_E, round_to)
    em.vector(SUB, f, round_to, t)
    em.vector(MAC, f, d, rate * LOG2_E, f)
    polynomial(em, f, EXP2, d)
    return em.vector(IADD, d, d, t, shift=EXPONENT_SHIFT)


LOG = (0.99999994, -0.50000364, 0.33335060, -0.24969909, 0.19900165, -0.17250830, 0.16222578, -0.10106891)
"""log(1 + g) / g for 1 + g in sqrt(0.5) .. sqrt(2), relative error 1.7e-7."""


def log(em: Emitter, x: Block, d: Block) -> Block:
    """Compute the natural logarithm of `x` in 15 passes; `d` must not be `x`.

    x = 2**e m with m in sqrt(0.5) .. sqrt(2): subtracting the bit pattern of sqrt(0.5) from that of x borrows from the
    exponent bits just where the fraction is below it. Then log(x) = e ln 2 + g Q(g) with g = m - 1.

    Relative error 4e-7 for normal positive x; 0 gives -88.
    """
    g, e = scratch(em, d, 2)
    em.vector(IADD, d, x, (0x3F800000 - 0x3F3504F3) + SIGN - 0x3F800000)  # e + 256 in the upper 9 bits
    em.vector(OR, e, 0x4B000000, d, shift=EXPONENT_SHIFT, right=1)  # 2**23 + 256 + e
    em.vector(SUB, e, e, 2.0**23 + 256)
    em.vector(AND, d, d, 0xFF800000)
    em.vector(ISUB, g, x, d)  # -m
    em.vector(SUB, g, -1.0, g)
    polynomial(em, g, LOG, d)
    em.vector(MUL, d, d, g)
    return em.vector(MAC, d, e, LN2, d)


def sigmoid(em: Emitter, x: Block, d: Block, *, rate: float = 1.0, spare: Spare = ()) -> Block:
    """Compute `d = 1 / (1 + exp(-rate * x))` in 16 passes; `d` may be `x`. The exponential stays in `spare[1]`.

    Relative error 4e-6 + 1e-7 |rate * x| down to 1e-37, where it ends.
    """
    t, e, f = spare or scratch(em, d, 3)
    exp(em, x, e, rate=-rate, spare=(f, t))
    em.vector(SUB, f, -1.0, e)
    return reciprocal(em, f, d, negative=True, spare=(t,))


def tanh(em: Emitter, x: Block, d: Block) -> Block:
    """Compute the hyperbolic tangent of x, `2 sigmoid(2 x) - 1`, in 17 passes; `d` may be `x`. Absolute error 3e-6."""
    sigmoid(em, x, d, rate=2.0)
    return em.vector(MAC, d, d, 2.0, -1.0)

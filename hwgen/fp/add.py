"""Addition of two FP32 values."""

from typing import Any

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.fp.formats import FP32, FloatLayout
from hwgen.fp.pipeline import Pipeline, check_latency, shift_bits, shift_bytes, shift_right

_SUM = FP32.fraction + 5
"""Bits of the sum: carry, significand, guard, round, sticky."""


class FpAdd(wiring.Component):
    """Sum of two FP32 values, rounded to nearest even, with subnormals, infinities and NaN (always 0x7FC00000).

    An exact zero is +0 unless both addends are -0.

    Timing
    ------
    `latency` cycles from addends to sum, one sum a cycle. No stall, no valid.

    Parameters
    ----------
    latency : int      Pipeline registers; 0 is combinational.
    subnormals : bool  False: no addend and no sum may be subnormal, which saves a little logic.

    Members
    -------
    a, b : In(32)      Addends.
    o : Out(32)        Sum.
    """

    a: In(32)
    b: In(32)
    o: Out(32)

    def __init__(self, *, latency: int = 0, subnormals: bool = True) -> None:
        super().__init__()
        self.latency, self.subnormals = check_latency(latency), subnormals

    def elaborate(self, platform: Any) -> Module:
        """Order by magnitude | align | add | normalise in two steps | round and pack."""
        m = Module()
        order = ("sum", "output", "ordered", "normal", "aligned", "coarse", "input")
        pipe = Pipeline(m, latency=self.latency, priority=order)
        a, b = pipe.cut("input", a=self.a, b=self.b)
        large, small, places, subtract, tail = pipe.cut("ordered", **self._order(m, a, b))
        small = shift_right(m, Cat(C(0, 2), small), places, "aligned")  # significand, guard, round, sticky
        small, large, subtract, tail = pipe.cut("aligned", small=small, large=large, subtract=subtract, tail=tail)

        # x - y is x + ~y + 1; the lowest bit of the larger addend is free for the 1.
        total = (Cat(subtract, C(0, 2), large) + (small ^ subtract.replicate(_SUM)))[:_SUM]
        total, tail = pipe.cut("sum", total=total, tail=tail)

        # Shift the leading one to the top, but no further than the exponent allows.
        limit = tail[:8] if self.subnormals else None
        total, zeros = shift_bytes(m, total, limit, "coarse")
        total, tail = pipe.cut("coarse", total=total, tail=Cat(tail[:3], (tail[3:8] - zeros)[:5], tail[8:]))
        limit = tail[:8] if self.subnormals else None
        total, zeros = shift_bits(m, total, limit, "fine")
        normal, tail = pipe.cut("normal", total=total, tail=Cat((tail[:8] - zeros)[:8], tail[8:]))
        (output,) = pipe.cut("output", o=self._round(m, normal, tail))
        m.d.comb += self.o.eq(output)
        return m

    def _order(self, m: Module, a: Value, b: Value) -> dict[str, Value]:
        """Larger magnitude first; of equal magnitudes the positive one, so that its sign is the sign of the sum.

        Infinity and NaN are added to next to nothing, so that the exponent stays; NaN has a flag. `places` is how far
        the smaller is shifted, at most 31. `tail`: exponent, sign, NaN.
        """
        swap, difference, x, y = Signal(), Signal(32), Signal(32), Signal(32)
        m.d.comb += [
            swap.eq(Cat(~a[31], a[:31]) < Cat(~b[31], b[:31])),
            difference.eq((a ^ b) & swap.replicate(32)),
            x.eq(a ^ difference),
            y.eq(b ^ difference),
        ]
        large, small = FloatLayout(FP32)(x), FloatLayout(FP32)(y)
        exponent, distance, special, opposite = Signal(8), Signal(8), Signal(), Signal()
        m.d.comb += [
            exponent.eq(large.exponent | (large.exponent == 0)),
            distance.eq(exponent - (small.exponent | (small.exponent == 0))),
            special.eq(large.exponent == 255),
            opposite.eq(x[31] ^ y[31]),
        ]
        nan = special & ((large.fraction != 0) | ((small.exponent == 255) & opposite))
        return {
            "large": Cat(large.fraction, large.exponent != 0),
            "small": Cat(small.fraction, small.exponent != 0),
            "places": Mux(special | (distance > 31), 31, distance[:5]),
            "subtract": opposite & ~special,
            "tail": Cat(exponent, x[31] & ~nan, nan),
        }

    def _round(self, m: Module, normal: Value, tail: Value) -> Value:
        """To nearest even; the hidden bit and the carry of the rounding step into the exponent."""
        exponent, sign, nan = tail[:8], tail[8], tail[9]
        hidden, up, packed = normal[-1], Signal(), Signal(31)
        m.d.comb += [
            up.eq(normal[3] & (Cat(normal[:3], normal[4]) != 0)),
            packed.eq(Cat(normal[4:-1], Mux(hidden, exponent, 0)) + Cat(up, C(0, FP32.fraction - 1), hidden)),
        ]
        fraction, exponent = packed[: FP32.fraction], packed[FP32.fraction :]
        return Cat(Mux(exponent == 255, Cat(C(0, FP32.fraction - 1), nan), fraction), exponent, sign)

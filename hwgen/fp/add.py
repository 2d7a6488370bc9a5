"""Addition of two FP32 values."""

from typing import Any

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.fp.formats import FP32, FloatLayout
from hwgen.fp.pipeline import Pipeline, check_latency, leading_zeros

_SIGNIFICAND = FP32.fraction + 1
_SUM = _SIGNIFICAND + 4
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
        """Order by magnitude | align | add | normalise | round and pack."""
        m = Module()
        order = ("sum", "output", "ordered", "normal", "aligned", "counted", "input")
        pipe = Pipeline(m, latency=self.latency, priority=order)
        a, b = pipe.cut("input", a=self.a, b=self.b)
        large, small, distance, subtract, tail = pipe.cut("ordered", **self._order(m, a, b))
        small = self._align(m, small, distance)
        small, large, subtract, tail = pipe.cut("aligned", small=small, large=large, subtract=subtract, tail=tail)

        # x - y is x + ~y + 1; the lowest bit of the larger addend is free for the 1.
        total = (Cat(subtract, C(0, 2), large) + (small ^ subtract.replicate(_SUM)))[:_SUM]
        total, tail = pipe.cut("sum", total=total, tail=tail)

        # Shift the leading one to the top, but no further than the exponent allows.
        exponent = tail[:8]
        zeros = leading_zeros(m, total, "zeros")
        if self.subnormals:
            zeros = Mux(zeros > exponent, exponent[: len(zeros)], zeros)
        total, zeros, tail = pipe.cut("counted", total=total, zeros=zeros, tail=tail)
        tail = Cat((tail[:8] - zeros)[:8], tail[8:])
        normal, tail = pipe.cut("normal", total=(total << zeros)[:_SUM], tail=tail)
        (output,) = pipe.cut("output", o=self._round(m, normal, tail))
        m.d.comb += self.o.eq(output)
        return m

    def _order(self, m: Module, a: Value, b: Value) -> dict[str, Value]:
        """Larger magnitude first; of equal magnitudes the positive one, so that its sign is the sign of the sum.

        Infinity and NaN become 2**128 + 0 with a flag for NaN. `tail`: exponent, sign, NaN.
        """
        swap, x, y = Signal(), Signal(32), Signal(32)
        difference = Signal(32)
        m.d.comb += [
            swap.eq(Cat(~a[31], a[:31]) < Cat(~b[31], b[:31])),
            difference.eq((a ^ b) & swap.replicate(32)),
            x.eq(a ^ difference),
            y.eq(b ^ difference),
        ]
        large, small = FloatLayout(FP32)(x), FloatLayout(FP32)(y)
        exponent_x, exponent_y = Signal(8), Signal(8)
        normal_x, normal_y, special, nan, subtract = (
            Signal(name=n) for n in ("normal_x", "normal_y", "special", "nan", "subtract")
        )
        m.d.comb += [
            normal_x.eq(large.exponent != 0),
            normal_y.eq(small.exponent != 0),
            exponent_x.eq(large.exponent | ~normal_x),
            exponent_y.eq(small.exponent | ~normal_y),
            special.eq(large.exponent == 255),
            subtract.eq(x[31] ^ y[31]),
            nan.eq(special & ((large.fraction != 0) | ((small.exponent == 255) & subtract))),
        ]
        return {
            "large": Cat(Mux(special, 0, large.fraction), normal_x),
            "small": Mux(special, 0, Cat(small.fraction, normal_y)),
            "distance": (exponent_x - exponent_y)[:8],
            "subtract": subtract & ~special,
            "tail": Cat(exponent_x, x[31] & ~nan, nan),
        }

    def _align(self, m: Module, small: Value, distance: Value) -> Value:
        """Shift right into significand, guard, round and sticky."""
        places = Mux(distance > 31, 31, distance[:5])
        wide = Signal(_SIGNIFICAND + 31)
        m.d.comb += wide.eq(Cat(C(0, 31), small) >> places)
        return Cat(wide[: -(_SIGNIFICAND + 2)].any(), wide[-(_SIGNIFICAND + 2) :])

    def _round(self, m: Module, normal: Value, tail: Value) -> Value:
        """To nearest even; the hidden bit and the carry of the rounding step into the exponent."""
        exponent, sign, nan = tail[:8], tail[8], tail[9]
        hidden, up = normal[-1], Signal()
        packed = Signal(31)
        m.d.comb += [
            up.eq(normal[3] & (Cat(normal[:3], normal[4]) != 0)),
            packed.eq(Cat(normal[4:-1], Mux(hidden, exponent, 0)) + Cat(up, C(0, FP32.fraction - 1), hidden)),
        ]
        infinite = packed[FP32.fraction :] == 255
        return Cat(
            Mux(infinite, Cat(C(0, FP32.fraction - 1), nan), packed[: FP32.fraction]), packed[FP32.fraction :], sign
        )

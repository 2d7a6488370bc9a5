"""Addition of two FP32 values."""

from typing import Any

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.fp.formats import FP32, FloatLayout
from hwgen.fp.pipeline import Pipeline, leading_zeros

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
        self.latency, self.subnormals = latency, subnormals

    def elaborate(self, platform: Any) -> Module:
        """Order by magnitude | align | add | normalise | round and pack."""
        m = Module()
        order = ("sum", "output", "ordered", "normal", "aligned", "counted", "input")
        pipe = Pipeline(m, latency=self.latency, priority=order)
        a, b = pipe.cut("input", a=self.a, b=self.b)
        large, small, exponent, distance, subtract, sign, special, nan = pipe.cut("ordered", **self._order(m, a, b))
        addend, large, exponent, subtract, sign, special, nan = pipe.cut(
            "aligned",
            small=self._align(m, small, distance),
            large=large,
            exponent=exponent,
            subtract=subtract,
            sign=sign,
            special=special,
            nan=nan,
        )

        # x - y is x + ~y + 1; the lowest bit of the larger addend is free for the 1.
        total = Cat(subtract, C(0, 2), large) + (addend ^ subtract.replicate(_SUM - 1))
        total = Mux(subtract, total[: _SUM - 1], total[:_SUM])
        total, exponent, sign, special, nan = pipe.cut(
            "sum", total=total, exponent=exponent, sign=sign, special=special, nan=nan
        )

        # Shift the leading one to the top, but no further than the exponent allows.
        zeros = leading_zeros(m, total, "zeros")
        if self.subnormals:
            zeros = Mux(zeros > exponent, exponent[: len(zeros)], zeros)
        total, zeros, exponent, sign, special, nan = pipe.cut(
            "counted", total=total, zeros=zeros, exponent=exponent, sign=sign, special=special, nan=nan
        )
        normal, exponent, sign, special, nan = pipe.cut(
            "normal",
            total=(total << zeros)[:_SUM],
            exponent=(exponent - zeros)[:8],
            sign=sign,
            special=special,
            nan=nan,
        )
        (output,) = pipe.cut("output", o=self._round(m, normal, exponent, sign, special, nan))
        m.d.comb += self.o.eq(output)
        return m

    def _order(self, m: Module, a: Value, b: Value) -> dict[str, Value]:
        """Larger magnitude first; of equal magnitudes the positive one, so that its sign is the sign of the sum."""
        swap = Signal()
        m.d.comb += swap.eq(Cat(~a[31], a[:31]) < Cat(~b[31], b[:31]))
        x, y = Signal(32), Signal(32)
        m.d.comb += [x.eq(Mux(swap, b, a)), y.eq(Mux(swap, a, b))]
        large, small = FloatLayout(FP32)(x), FloatLayout(FP32)(y)
        normal_x, normal_y, special, nan = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            normal_x.eq(large.exponent != 0),
            normal_y.eq(small.exponent != 0),
            special.eq(large.exponent == 255),
            nan.eq(special & ((large.fraction != 0) | ((small.exponent == 255) & (x[31] ^ y[31])))),
        ]
        exponent_x = Cat(large.exponent[0] | ~normal_x, large.exponent[1:])
        exponent_y = Cat(small.exponent[0] | ~normal_y, small.exponent[1:])
        return {
            "large": Cat(large.fraction, normal_x),
            "small": Cat(small.fraction, normal_y),
            "exponent": exponent_x,
            "distance": (exponent_x - exponent_y)[:8],
            "subtract": x[31] ^ y[31],
            "sign": x[31],
            "special": special,
            "nan": nan,
        }

    def _align(self, m: Module, small: Value, distance: Value) -> Value:
        """Shift right into significand, guard, round and sticky."""
        far = Signal()
        wide = Signal(_SIGNIFICAND + 31)
        m.d.comb += [
            far.eq(distance[5:] != 0),
            wide.eq(Cat(C(0, len(wide) - _SIGNIFICAND), small) >> distance[:5]),
        ]
        kept = wide[-(_SIGNIFICAND + 2) :]
        sticky = wide[: -(_SIGNIFICAND + 2)].any()
        return Mux(far, small.any(), Cat(sticky, kept))

    def _round(self, m: Module, normal: Value, exponent: Value, sign: Value, special: Value, nan: Value) -> Value:
        """To nearest even; the hidden bit and the carry of the rounding step into the exponent."""
        hidden, up = normal[-1], Signal()
        packed = Signal(32)
        m.d.comb += [
            up.eq(normal[3] & (normal[:3].any() | normal[4])),
            packed.eq(Cat(normal[4:-1], Mux(hidden, exponent, 0)) + Cat(up, C(0, FP32.fraction - 1), hidden)),
        ]
        infinite = special | packed[FP32.fraction : 31].all()
        top = Cat(C(0, FP32.fraction - 1), nan, C(0xFF, 8))
        return Cat(Mux(infinite, top, packed[:31]), sign & ~nan)

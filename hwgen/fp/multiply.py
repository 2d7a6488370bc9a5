"""Multiplication of two operands into FP32."""

from typing import Any

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.fp.formats import FP16, FP32, FloatFormat, FloatLayout
from hwgen.fp.pipeline import Pipeline, leading_zeros


class FpMultiply(wiring.Component):
    """Product of two FP16 or BF16 values as FP32.

    FP16 products are exact. BF16 products are exact except below the normal numbers of FP32, where they are rounded
    once to nearest even, and above, where they become infinite. NaN is always 0x7FC00000.

    Timing
    ------
    `latency` cycles from operands to product, one product a cycle. No stall, no valid.

    Parameters
    ----------
    fmt : FloatFormat  Format of the operands, FP16 or BF16.
    latency : int      Pipeline registers; 0 is combinational.

    Members
    -------
    a, b : In(16)      Operands.
    o : Out(32)        Product.
    """

    a: In(16)
    b: In(16)
    o: Out(32)

    def __init__(self, *, fmt: FloatFormat = FP16, latency: int = 0) -> None:
        if fmt.width != 16:
            raise ValueError(f"fmt must be FP16 or BF16, not {fmt!r}")
        super().__init__()
        self.fmt, self.latency = fmt, latency

    def elaborate(self, platform: Any) -> Module:
        """Multiply | normalise | pack."""
        m = Module()
        pipe = Pipeline(m, latency=self.latency, priority=("product", "output", "input", "normal"))
        fmt = self.fmt

        # Significands with their hidden bit; special values by their exponent.
        a, b = pipe.cut("input", a=self.a, b=self.b)
        (sig_a, exp_a, zero_a, top_a, nan_a), (sig_b, exp_b, zero_b, top_b, nan_b) = (
            self._unpack(m, value, name) for value, name in ((a, "a"), (b, "b"))
        )
        product, exponent, special, nan, sign = pipe.cut(
            "product",
            significand=sig_a * sig_b,
            exponent=exp_a + exp_b,
            special=top_a | top_b,
            nan=nan_a | nan_b | (top_a & zero_b) | (top_b & zero_a),
            sign=a[-1] ^ b[-1],
        )

        # The leading one goes to the top: at most two places for normal operands, more below.
        width = len(product)
        zeros = leading_zeros(m, product, "zeros")
        offset = FP32.bias - 2 * fmt.bias + 1
        normal, exponent, special, nan, sign = pipe.cut(
            "normal",
            significand=(product << zeros)[:width],
            exponent=(exponent + offset - zeros).as_signed() if fmt.exponent == 8 else (exponent + offset - zeros)[:8],
            special=special,
            nan=nan,
            sign=sign,
        )

        # Pack; special values replace the result.
        finite = self._pack_wide(m, normal, exponent) if fmt.exponent == 8 else self._pack(normal, exponent)
        infinity = C(FP32.infinity >> FP32.fraction, FP32.exponent)
        result = Cat(Mux(special, Cat(C(0, FP32.fraction - 1), nan, infinity), finite), sign & ~nan)
        (output,) = pipe.cut("output", o=result)
        m.d.comb += self.o.eq(output)
        return m

    def _unpack(self, m: Module, value: Value, name: str) -> tuple[Value, Value, Value, Value, Value]:
        fields = FloatLayout(self.fmt)(value)
        normal, top, zero = (Signal(name=f"{name}_{word}") for word in ("normal", "top", "zero"))
        m.d.comb += [
            normal.eq(fields.exponent != 0),
            top.eq(fields.exponent == (1 << self.fmt.exponent) - 1),
            zero.eq(value[:-1] == 0),
        ]
        significand = Cat(fields.fraction, normal)
        exponent = Cat(fields.exponent[0] | ~normal, fields.exponent[1:])
        return significand, exponent, zero, top, top & (fields.fraction != 0)

    def _pack(self, normal: Value, exponent: Value) -> Value:
        """FP16: the product is normal in FP32, or zero."""
        fraction = Cat(C(0, FP32.fraction - len(normal) + 1), normal[:-1])
        return Cat(fraction, Mux(normal[-1], exponent, 0)[:8])

    def _pack_wide(self, m: Module, normal: Value, exponent: Value) -> Value:
        """BF16: products below the normal numbers are shifted right and rounded, those above become infinite."""
        low = Signal()
        places = Signal(5)
        wide = Signal(2 * FP32.fraction + 2)
        shifted = Signal.like(wide)
        packed = Signal(31)
        overflow = Signal()
        distance = Signal(signed(11))
        kept = FP32.fraction + 1
        m.d.comb += [
            low.eq(exponent <= 0),
            distance.eq(1 - exponent),
            places.eq(Mux(~low, 0, Mux(distance > kept + 1, kept + 1, distance))),
            wide.eq(Cat(C(0, len(wide) - len(normal)), normal)),
            shifted.eq(wide >> places),
        ]
        top, rest = shifted[-kept:], shifted[:-kept]
        up = rest[-1] & (top[0] | rest[:-1].any())
        m.d.comb += [
            packed.eq(Cat(top[:-1], Mux(low | ~normal[-1], 0, exponent)[:8]) + up),
            overflow.eq(normal[-1] & (exponent >= 255)),
        ]
        return Mux(overflow, C(FP32.infinity, 31), packed)


__all__ = ["FpMultiply"]

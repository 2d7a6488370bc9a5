"""Multiplication of two operands into FP32."""

from typing import Any

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.fp.formats import BF16, FP16, FP32, FloatFormat, FloatLayout
from hwgen.fp.pipeline import Pipeline, check_latency, shift_bits, shift_bytes, shift_right


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
        if fmt not in (FP16, BF16):
            raise ValueError(f"fmt must be FP16 or BF16, not {fmt!r}")
        super().__init__()
        self.fmt, self.latency = fmt, check_latency(latency)

    def elaborate(self, platform: Any) -> Module:
        """Multiply | normalise | pack. `flags`: special (infinity or NaN), NaN, sign."""
        m = Module()
        pipe = Pipeline(m, latency=self.latency, priority=("product", "output", "input", "normal"))
        a, b = pipe.cut("input", a=self.a, b=self.b)
        (significand_a, exponent_a, special_a, nan_a), (significand_b, exponent_b, special_b, nan_b) = (
            self._unpack(m, value, name) for value, name in ((a, "a"), (b, "b"))
        )
        product, exponent, flags = pipe.cut(
            "product",
            significand=significand_a * significand_b,
            exponent=exponent_a + exponent_b,
            flags=Cat(special_a | special_b, nan_a | nan_b, a[-1] ^ b[-1]),
        )

        # The leading one goes to the top: at most one place for normal operands, more for subnormal ones.
        offset = FP32.bias - 2 * self.fmt.bias + 1
        product, whole = shift_bytes(m, product, None, "coarse")
        product, single = shift_bits(m, product, None, "fine")
        normal, exponent, flags = pipe.cut(
            "normal",
            significand=product,
            exponent=(exponent + offset - Cat(single, whole))[:10].as_signed(),
            flags=flags,
        )

        # Infinity times zero is the one NaN that does not come from a NaN.
        special, nan, sign = flags[0], flags[1] | (flags[0] & ~normal[-1]), flags[2]
        finite = self._pack(normal, exponent) if self.fmt is FP16 else self._round(m, normal, exponent)
        top = Cat(C(0, FP32.fraction - 1), nan, C(255, 8))
        (output,) = pipe.cut("output", o=Cat(Mux(special, top, finite), sign & ~nan))
        m.d.comb += self.o.eq(output)
        return m

    def _unpack(self, m: Module, value: Value, name: str) -> tuple[Value, Value, Value, Value]:
        """Significand with hidden bit, exponent (1 for subnormals), special, NaN."""
        fields = FloatLayout(self.fmt)(value)
        normal, special, nan = (Signal(name=f"{name}_{word}") for word in ("normal", "special", "nan"))
        m.d.comb += [
            normal.eq(fields.exponent != 0),
            special.eq(fields.exponent == (1 << self.fmt.exponent) - 1),
            nan.eq(special & (fields.fraction != 0)),
        ]
        return Cat(fields.fraction, normal), fields.exponent | ~normal, special, nan

    def _pack(self, normal: Value, exponent: Value) -> Value:
        """FP16: the product is normal in FP32, or zero."""
        fraction = Cat(C(0, FP32.fraction - len(normal) + 1), normal[:-1])
        return Cat(fraction, Mux(normal[-1], exponent[:8], 0))

    def _round(self, m: Module, normal: Value, exponent: Value) -> Value:
        """BF16: small products are shifted right and rounded, large ones become infinite."""
        low, overflow, up = Signal(), Signal(), Signal()
        distance, places, packed = Signal(signed(11)), Signal(5), Signal(31)
        m.d.comb += [
            low.eq(exponent <= 0),
            distance.eq(1 - exponent),
            places.eq(Mux(low, Mux(distance > 31, 31, distance), 0)),
        ]
        kept = FP32.fraction + 2
        shifted = shift_right(m, Cat(C(0, kept - len(normal)), normal), places, "low")
        top, rest = shifted[2:], shifted[:2]
        m.d.comb += [
            up.eq(rest[1] & (rest[0] | top[0])),
            packed.eq(Cat(top[:-1], Mux(top[-1], exponent, 0)[:8]) + up),
            overflow.eq(normal[-1] & (exponent >= 255)),
        ]
        return Mux(overflow, C(FP32.infinity, 31), packed)

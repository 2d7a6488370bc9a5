"""Multiplication of two floating point values into FP32."""

from typing import Any

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.fp.formats import BF16, FP16, FP32, FloatFormat, FloatLayout
from hwgen.fp.pipeline import Pipeline, check_latency, shift_bits, shift_bytes, shift_right

_PRIORITY = dict.fromkeys((FP16, BF16), ("product", "output", "input", "normal", "aligned"))
_PRIORITY[FP32] = ("product", "output", "normal", "input", "aligned")
"""Cuts of each format, those that get registers first in front: a wide product takes longest to be normalised."""


class FpMultiply(wiring.Component):
    """Product of two values of one format as FP32.

    FP16 products are exact. BF16 products are exact except below the normal numbers of FP32, where they are rounded
    once to nearest even, and above, where they become infinite. FP32 products are rounded once to nearest even, with
    subnormals, and become infinite above. NaN is always 0x7FC00000.

    Timing
    ------
    `latency` cycles from operands to product, one product a cycle. No stall, no valid.

    Parameters
    ----------
    fmt : FloatFormat  Format of the factors: FP16, BF16 or FP32.
    latency : int      Pipeline registers; 0 is combinational.

    Members
    -------
    a, b : In(fmt.width)   Factors.
    o : Out(32)            Product.
    """

    def __init__(self, *, fmt: FloatFormat = FP16, latency: int = 0) -> None:
        if fmt not in _PRIORITY:
            raise ValueError(f"fmt must be FP16, BF16 or FP32, not {fmt!r}")
        super().__init__({"a": In(fmt.width), "b": In(fmt.width), "o": Out(32)})
        self.fmt, self.latency = fmt, check_latency(latency)

    def elaborate(self, platform: Any) -> Module:
        """Multiply | normalise | align subnormals | round and pack. `flags`: special (infinity or NaN), NaN, sign."""
        m = Module()
        pipe = Pipeline(m, latency=self.latency, priority=_PRIORITY[self.fmt])
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

        # The leading one goes to the top: at most one place for normal factors, 24 if one is subnormal. If both are,
        # FP32 ones, it need not arrive: what is left is rounded to zero.
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
        aligned, exponent, flags = pipe.cut(
            "aligned",
            significand=normal if self.fmt is FP16 else self._align(m, normal, exponent),
            exponent=exponent,
            flags=Cat(special, nan, sign & ~nan),
        )
        finite = self._pack(aligned, exponent) if self.fmt is FP16 else self._round(m, aligned, exponent)
        top = Cat(C(0, FP32.fraction - 1), flags[1], C(255, 8))
        (output,) = pipe.cut("output", o=Cat(Mux(flags[0], top, finite), flags[2]))
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

    def _align(self, m: Module, normal: Value, exponent: Value) -> Value:
        """Significand, round and sticky bit; small products are shifted right to the places of subnormal numbers."""
        distance, places = Signal(signed(11)), Signal(5)
        m.d.comb += [
            distance.eq(1 - exponent),
            places.eq(Mux(exponent > 0, 0, Mux(distance > 31, 31, distance))),
        ]
        kept = FP32.fraction + 2
        significand = Cat(C(0, max(0, kept - len(normal))), normal[max(0, len(normal) - kept) :])
        shifted = shift_right(m, significand, places, "low")
        return Cat(shifted[0] | normal[: len(normal) - kept].any(), shifted[1:]) if len(normal) > kept else shifted

    def _round(self, m: Module, aligned: Value, exponent: Value) -> Value:
        """To nearest even, into the exponent or up to infinity; what was not shifted may be too large already."""
        top, rest = aligned[2:], aligned[:2]
        overflow, up, packed = Signal(), Signal(), Signal(31)
        m.d.comb += [
            up.eq(rest[1] & (rest[0] | top[0])),
            packed.eq(Cat(top[:-1], Mux(top[-1], exponent, 0)[:8]) + up),
            overflow.eq(top[-1] & (exponent >= 255)),
        ]
        return Mux(overflow, C(FP32.infinity, 31), packed)

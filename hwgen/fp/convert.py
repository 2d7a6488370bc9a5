"""Conversions between FP32 and the operand formats, comparison and ReLU."""

from typing import Any

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.fp.formats import BF16, FP16, FP32, FloatFormat, FloatLayout
from hwgen.fp.pipeline import Pipeline, check_latency, leading_zeros, shift_right


def is_nan(value: Value, fmt: FloatFormat = FP32) -> Value:
    """1 when `value` of format `fmt` is not a number."""
    fields = FloatLayout(fmt)(value)
    return (fields.exponent == (1 << fmt.exponent) - 1) & (fields.fraction != 0)


def relu(value: Value) -> Value:
    """FP32 `value` with +0 for every negative number and for -0; a NaN of either sign keeps its bits."""
    return Mux(value[31] & ~is_nan(value), 0, value)[:32]


class FpNarrow(wiring.Component):
    """FP32 to FP16 or BF16, rounded to nearest even, with subnormals.

    What is too large becomes infinite; NaN becomes 0x7E00 (FP16) or 0x7FC0 (BF16).

    Timing
    ------
    `latency` cycles, one value a cycle. No stall, no valid.

    Parameters
    ----------
    fmt : FloatFormat  Format of the result, FP16 or BF16.
    latency : int      Pipeline registers; 0 is combinational.

    Members
    -------
    i : In(32)         FP32 value.
    o : Out(16)        The value in `fmt`.
    """

    i: In(32)
    o: Out(16)

    def __init__(self, *, fmt: FloatFormat = FP16, latency: int = 0) -> None:
        if fmt not in (FP16, BF16):
            raise ValueError(f"fmt must be FP16 or BF16, not {fmt!r}")
        super().__init__()
        self.fmt, self.latency = fmt, check_latency(latency)

    def elaborate(self, platform: Any) -> Module:
        """Shift what is below the normal numbers | round and pack."""
        m = Module()
        pipe = Pipeline(m, latency=self.latency, priority=("output", "shifted", "input"))
        (value,) = pipe.cut("input", i=self.i)
        fields = FloatLayout(FP32)(value)
        scaled = self._scale(m, fields)
        scaled, sign, special, nan = pipe.cut(
            "shifted",
            value=scaled,
            sign=fields.sign,
            special=fields.exponent == 255,
            nan=is_nan(value),
        )

        # The carry of the rounding steps into the exponent, up to infinity.
        kept, rest = scaled[FP32.fraction - self.fmt.fraction :], scaled[: FP32.fraction - self.fmt.fraction]
        rounded = Signal(len(kept) + 1)
        m.d.comb += rounded.eq(kept + (rest[-1] & (kept[0] | (rest[:-1] != 0))))
        infinite = special | (rounded >= self.fmt.infinity)
        top = C(self.fmt.infinity, 15) | (nan << (self.fmt.fraction - 1))
        (output,) = pipe.cut("output", o=Cat(Mux(infinite, top, rounded)[:15], sign & ~nan))
        m.d.comb += self.o.eq(output)
        return m

    def _scale(self, m: Module, fields: FloatLayout) -> Value:
        """Exponent of `fmt` above the 23-bit fraction, with sticky in the lowest bit when it was shifted."""
        if self.fmt.exponent == FP32.exponent:
            return Cat(fields.fraction, fields.exponent)
        offset = FP32.bias - self.fmt.bias
        low, distance = Signal(), Signal(FP32.exponent)
        m.d.comb += [low.eq(fields.exponent <= offset), distance.eq(offset + 1 - fields.exponent)]
        shifted = shift_right(m, Cat(fields.fraction, C(1, 1)), Mux(distance > 31, 31, distance[:5]), "low")
        shifted = Cat(shifted[:2] != 0, shifted[2:])
        return Mux(low, shifted, Cat(fields.fraction, (fields.exponent - offset)[: FP32.exponent]))


class FpWiden(wiring.Component):
    """FP16 or BF16 to FP32, exact; every NaN becomes 0x7FC00000.

    Timing
    ------
    Combinational.

    Parameters
    ----------
    fmt : FloatFormat  Format of the value, FP16 or BF16.

    Members
    -------
    i : In(16)         Value in `fmt`.
    o : Out(32)        The same value in FP32.
    """

    i: In(16)
    o: Out(32)

    def __init__(self, *, fmt: FloatFormat = FP16) -> None:
        if fmt not in (FP16, BF16):
            raise ValueError(f"fmt must be FP16 or BF16, not {fmt!r}")
        super().__init__()
        self.fmt = fmt

    def elaborate(self, platform: Any) -> Module:
        """Rebias; FP16 subnormals are normalised."""
        m = Module()
        fields = FloatLayout(self.fmt)(self.i)
        nan = is_nan(self.i, self.fmt)
        if self.fmt.exponent == FP32.exponent:
            m.d.comb += self.o.eq(Mux(nan, FP32.nan, self.i << 16))
            return m
        offset = FP32.bias - self.fmt.bias
        zeros = leading_zeros(m, fields.fraction, "zeros")
        subnormal, special = fields.exponent == 0, fields.exponent == (1 << self.fmt.exponent) - 1
        fraction = Mux(subnormal, (fields.fraction << 1 << zeros)[: self.fmt.fraction], fields.fraction)
        exponent = Mux(subnormal, Mux(fields.fraction == 0, 0, offset - zeros), fields.exponent + offset)
        finite = Cat(C(0, FP32.fraction - self.fmt.fraction), fraction, exponent[: FP32.exponent])
        top = C(FP32.infinity, 31) | (nan << (FP32.fraction - 1))
        m.d.comb += self.o.eq(Cat(Mux(special, top, finite)[:31], fields.sign & ~nan))
        return m


class FpCompare(wiring.Component):
    """Order of two FP32 values; -0 equals +0, NaN is unordered with everything.

    Timing
    ------
    Combinational.

    Members
    -------
    a, b : In(32)          Values.
    lt, eq : Out(1)        `a < b`, `a == b`; both 0 when unordered.
    unordered : Out(1)     `a` or `b` is NaN.
    """

    a: In(32)
    b: In(32)
    lt: Out(1)
    eq: Out(1)
    unordered: Out(1)

    def elaborate(self, platform: Any) -> Module:
        """Compare as sign and magnitude."""
        m = Module()
        below, same, zeros = Signal(), Signal(), Signal()
        m.d.comb += [
            below.eq(self.a[:31] < self.b[:31]),
            same.eq(self.a[:31] == self.b[:31]),
            zeros.eq((self.a[:31] == 0) & (self.b[:31] == 0)),
            self.unordered.eq(is_nan(self.a) | is_nan(self.b)),
            self.eq.eq(~self.unordered & (zeros | (same & (self.a[31] == self.b[31])))),
        ]
        less = Mux(self.a[31], Mux(self.b[31], ~below & ~same, ~zeros), ~self.b[31] & below)
        m.d.comb += self.lt.eq(~self.unordered & less)
        return m

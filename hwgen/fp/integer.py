"""Conversions between FP32 and integers."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.fp.convert import is_nan
from hwgen.fp.formats import FP32, FloatLayout
from hwgen.fp.pipeline import leading_zeros, shift_right
from hwgen.lib.pipeline import delay

INTEGER_BITS = 16
"""Most bits of an integer."""
BITS_WIDTH = 5


class FpToInteger(wiring.Component):
    """FP32 to an integer of -(2^(bits-1) - 1) .. 2^(bits-1) - 1, to nearest even, saturated; NaN gives 0.

    Timing
    ------
    `LATENCY` cycles, one value a cycle. No stall, no valid. `bits` belongs to the value that comes with it.

    Members
    -------
    i : In(32)
    bits : In(5)              2 .. 16.
    o : Out(signed(16))
    """

    LATENCY = 2

    i: In(32)
    bits: In(BITS_WIDTH)
    o: Out(signed(INTEGER_BITS))

    def elaborate(self, platform: object) -> Module:
        """Shift to the units place | round, saturate, sign."""
        m = Module()
        fields = FloatLayout(FP32)(self.i)
        # At `unit` the last place of the significand is 1; one more place to the right stays for rounding.
        unit = FP32.bias + FP32.fraction
        distance, places = Signal(signed(10)), Signal(5)
        m.d.comb += [
            distance.eq(unit - fields.exponent),
            places.eq(Mux(distance > 31, 31, distance[:5])),
        ]
        shifted = shift_right(m, Cat(C(0, 1), fields.fraction, fields.exponent != 0), places, "units")
        least = FP32.fraction + 1 - INTEGER_BITS
        kept = Signal(INTEGER_BITS + 2, reset_less=True)
        flags = Signal(3, reset_less=True)
        limit = Signal(INTEGER_BITS - 1, reset_less=True)
        m.d.sync += [
            kept.eq(shifted),
            flags.eq(Cat(fields.sign, is_nan(self.i), distance < least)),
            limit.eq(C((1 << INTEGER_BITS - 1) - 1, INTEGER_BITS - 1) >> (INTEGER_BITS - self.bits)[:4]),
        ]

        sign, nan, large = flags
        rounded, magnitude = Signal(INTEGER_BITS + 1), Signal(INTEGER_BITS - 1)
        result = Signal(signed(INTEGER_BITS), reset_less=True)
        m.d.comb += [
            rounded.eq(kept[2:] + (kept[1] & (kept[0] | kept[2]))),
            magnitude.eq(Mux(nan, 0, Mux(large | (rounded > limit), limit, rounded))),
        ]
        m.d.sync += result.eq(Mux(sign, -magnitude, magnitude))
        m.d.comb += self.o.eq(result)
        return m


class FpFromInteger(wiring.Component):
    """A signed integer as FP32, to nearest even.

    Timing
    ------
    `LATENCY` cycles, one value a cycle. No stall, no valid.

    Parameters
    ----------
    width : int   Bits of the integer, 26 to 64.

    Members
    -------
    i : In(signed(width))
    o : Out(32)
    """

    LATENCY = 3

    def __init__(self, *, width: int) -> None:
        if not FP32.fraction + 3 <= width <= 64:
            raise ValueError(f"width must be between {FP32.fraction + 3} and 64, not {width!r}")
        self._width = width
        super().__init__({"i": In(signed(width)), "o": Out(32)})

    def elaborate(self, platform: object) -> Module:
        """Magnitude | leading one to the top | round and pack."""
        m = Module()

        def register(name: str, value: Value) -> Signal:
            result = Signal(len(value), name=name, reset_less=True)
            m.d.sync += result.eq(value)
            return result

        magnitude = register("magnitude", Mux(self.i < 0, -self.i, self.i)[: self._width])
        zeros = leading_zeros(m, magnitude, "zeros")
        normal = register("normal", (magnitude << zeros)[: self._width])
        exponent = register("exponent", (FP32.bias + self._width - 1 - zeros)[: FP32.exponent])
        top, rest = normal[-FP32.fraction - 1 :], normal[: -FP32.fraction - 1]
        up = Signal()
        m.d.comb += up.eq(rest[-1] & (rest[:-1].any() | top[0]))
        packed = (Cat(top[:-1], exponent) + up)[: FP32.fraction + FP32.exponent]
        sign = delay(m, self.i < 0, self.LATENCY - 1, "sign")
        m.d.comb += self.o.eq(register("packed", Cat(Mux(top[-1], packed, 0), sign & top[-1])))
        return m

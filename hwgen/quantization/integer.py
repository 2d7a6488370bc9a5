"""FP32 to integers of a few bits."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.fp.convert import is_nan
from hwgen.fp.formats import FP32, FloatLayout
from hwgen.fp.pipeline import shift_right

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

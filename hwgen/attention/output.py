"""Scaling of weighted sums to outputs, and the importance of heads."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import HEAD_FRACTION, OUTPUT_BITS, RECIPROCAL_BITS, SCORE_MAX, AttentionSizes
from hwgen.attention.words import FLOOR_BITS
from hwgen.fp.convert import FpNarrow
from hwgen.fp.formats import BF16, FP16, FP32, FloatLayout
from hwgen.fp.integer import FpFromInteger
from hwgen.fp.multiply import FpMultiply
from hwgen.lib.pipeline import delay
from hwgen.lib.shared import Shared

OPERANDS = {"fp16": FP16, "bf16": BF16}
IMPORTANCE_BITS = SCORE_MAX.bit_length()


class SumWord(data.StructLayout):
    """`output_lanes` sums of a row; `last` ends the row. r, n, value_scale : of the row."""

    def __init__(self, sizes: AttentionSizes) -> None:
        sums = data.ArrayLayout(signed(OUTPUT_BITS), sizes.output_lanes)
        super().__init__({"sums": sums, "last": 1, "r": RECIPROCAL_BITS + 1, "n": FLOOR_BITS, "value_scale": 32})


class Magnitude(wiring.Component):
    """|x| of an FP32 value in units of 2^-HEAD_FRACTION, to nearest, ties up, at most SCORE_MAX.

    Timing
    ------
    `LATENCY` cycles, one value a cycle. No stall, no valid.

    Members
    -------
    i : In(32)
    o : Out(32)
    """

    LATENCY = 1

    i: In(32)
    o: Out(IMPORTANCE_BITS)

    def elaborate(self, platform: object) -> Module:
        """Shift the significand, from 31 bits above the units down; one place less, then one more with the rounding."""
        m = Module()
        fields = FloatLayout(FP32)(self.i)
        top = FP32.bias + IMPORTANCE_BITS - 1 - HEAD_FRACTION
        places, large = Signal(6), Signal()
        m.d.comb += [
            large.eq(fields.exponent > top),
            places.eq(Mux(fields.exponent < top - 63, 63, (top - fields.exponent)[:6])),
        ]
        significand = Cat(C(0, IMPORTANCE_BITS - FP32.fraction), fields.fraction, fields.exponent != 0)
        shifted = Signal(IMPORTANCE_BITS + 1)
        m.d.comb += shifted.eq(significand >> places)
        rounded = (shifted + 1) >> 1
        result = Signal(IMPORTANCE_BITS, reset_less=True)
        m.d.sync += result.eq(Mux(large | (rounded > SCORE_MAX), SCORE_MAX, rounded))
        m.d.comb += self.o.eq(result)
        return m


class Output(wiring.Component):
    """Outputs FP32(sum) x (FP32(1 / total) x value_scale), rounded to operands; sums of their magnitudes.

    Timing
    ------
    A word a cycle, no stall. Outputs leave `latency` cycles after their sums, the magnitude of a row with its last
    outputs.

    Parameters
    ----------
    sizes : AttentionSizes
    operand : str       "fp16" or "bf16".
    mul_latency : int   Registers of the multipliers.

    Members
    -------
    i : In(SumWord), i_valid : In(1)
    o : Out(16 x output_lanes), o_last : Out(1), o_valid : Out(1)
    magnitude : Out(32)    With `o_last`: sum of the magnitudes of the row, saturated at SCORE_MAX.
    """

    def __init__(self, sizes: AttentionSizes, *, operand: str = "fp16", mul_latency: int = 3) -> None:
        self._lanes, self._format, self._mul_latency = sizes.output_lanes, OPERANDS[operand], mul_latency
        super().__init__(
            {
                "i": In(SumWord(sizes)),
                "i_valid": In(1),
                "o": Out(16 * self._lanes),
                "o_last": Out(1),
                "o_valid": Out(1),
                "magnitude": Out(IMPORTANCE_BITS),
            }
        )

    @property
    def _scaled_latency(self) -> int:
        """Cycles from a sum to its FP32 output; the sum waits for the scale of its row."""
        return max(FpFromInteger.LATENCY, self._mul_latency) + self._mul_latency

    @property
    def latency(self) -> int:
        """Cycles from a sum to its output."""
        return self._scaled_latency + Magnitude.LATENCY + 1

    def elaborate(self, platform: object) -> Module:
        """The row's scale beside the conversion of sums | multiply | round, and add up magnitudes."""
        m = Module()
        m.submodules.scale = scale = Shared(FpMultiply, fmt=FP32, latency=self._mul_latency)
        m.d.comb += [scale.a.eq(self._inverse()), scale.b.eq(self.i.value_scale)]
        front = self._scaled_latency - self._mul_latency
        factor = delay(m, scale.o, front - self._mul_latency, "factor")
        results, magnitudes = [], []
        for lane in range(self._lanes):
            m.submodules[f"convert_{lane}"] = convert = Shared(FpFromInteger, width=OUTPUT_BITS)
            m.submodules[f"multiply_{lane}"] = multiply = Shared(FpMultiply, fmt=FP32, latency=self._mul_latency)
            m.submodules[f"narrow_{lane}"] = narrow = Shared(FpNarrow, fmt=self._format, latency=Magnitude.LATENCY)
            m.submodules[f"magnitude_{lane}"] = magnitude = Shared(Magnitude)
            m.d.comb += [
                convert.i.eq(self.i.sums[lane]),
                multiply.a.eq(delay(m, convert.o, front - FpFromInteger.LATENCY, f"sum_{lane}")),
                multiply.b.eq(factor),
                narrow.i.eq(multiply.o),
                magnitude.i.eq(multiply.o),
            ]
            results.append(narrow.o)
            magnitudes.append(magnitude.o)
        valid = delay(m, self.i_valid, self.latency - 1, "valid", reset=True)
        last = delay(m, self.i.last, self.latency - 1, "last")
        m.d.comb += [
            self.o.eq(delay(m, Cat(*results), 1, "results")),
            self.o_valid.eq(delay(m, valid, 1, "valid_out", reset=True)),
            self.o_last.eq(delay(m, last, 1, "last_out")),
        ]
        self._accumulate(m, valid, last, magnitudes)
        return m

    def _inverse(self) -> Value:
        """Exactly r x 2^-(n + RECIPROCAL_BITS) as FP32; r is 0, at least half of 2^RECIPROCAL_BITS, or all of it."""
        one = self.i.r[RECIPROCAL_BITS]
        exponent = FP32.bias - 1 + one - self.i.n
        fraction = Cat(C(0, FP32.fraction + 1 - RECIPROCAL_BITS), self.i.r[: RECIPROCAL_BITS - 1])
        return Mux(self.i.r == 0, 0, Cat(fraction, exponent[: FP32.exponent]))

    def _accumulate(self, m: Module, valid: Value, last: Value, magnitudes: list[Value]) -> None:
        """Magnitudes of a row, saturated."""
        first = Signal(init=1)
        total = Signal(IMPORTANCE_BITS + self._lanes.bit_length() + 1)
        m.d.comb += total.eq(sum(magnitudes, Mux(first, 0, self.magnitude)))
        with m.If(valid):
            m.d.sync += [first.eq(last), self.magnitude.eq(Mux(total > SCORE_MAX, SCORE_MAX, total))]

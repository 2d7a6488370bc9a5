"""One over the sum of a row, as a pipeline of subtractions."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import RECIPROCAL_BITS, SUM_BITS
from hwgen.attention.words import FLOOR_BITS
from hwgen.fp.pipeline import leading_zeros
from hwgen.lib.pipeline import delay

QUOTIENT_BITS = RECIPROCAL_BITS + 1


class Reciprocal(wiring.Component):
    """`r` = floor(2^39 / z), z the upper 20 bits of the normalised total; `n` = floor(log2(total)). Of 0 both are 0.

    Restoring division, two quotient bits a stage.

    Timing
    ------
    `LATENCY` cycles, one total a cycle. No stall, no valid.

    Members
    -------
    total : In(SUM_BITS)
    r : Out(RECIPROCAL_BITS + 1), n : Out(5)
    """

    BITS_A_STAGE = 2
    LATENCY = 2 + -(-QUOTIENT_BITS // BITS_A_STAGE)

    total: In(SUM_BITS)
    r: Out(QUOTIENT_BITS)
    n: Out(FLOOR_BITS)

    def elaborate(self, platform: object) -> Module:
        """Count zeros | shift | two bits of the quotient, as often as it takes."""
        m = Module()
        zeros, total = Signal(FLOOR_BITS, reset_less=True), Signal(SUM_BITS, reset_less=True)
        divisor, empty = Signal(RECIPROCAL_BITS, reset_less=True), Signal(reset_less=True)
        m.d.sync += [
            zeros.eq(leading_zeros(m, self.total, "zeros_of_total")),
            total.eq(self.total),
            divisor.eq((total << zeros)[SUM_BITS - RECIPROCAL_BITS : SUM_BITS]),
            empty.eq(total == 0),
        ]
        # A total of 0 counts as 31 zeros, so that n is 0.
        m.d.comb += self.n.eq(delay(m, ~zeros, self.LATENCY - 1, "n"))
        rest, quotient = Value.cast(1 << RECIPROCAL_BITS - 2), Value.cast(0)[:0]
        left = QUOTIENT_BITS
        while left:
            bits = left % self.BITS_A_STAGE or self.BITS_A_STAGE
            rest, quotient = self._divide(m, rest, divisor, quotient, bits, left)
            divisor, empty = delay(m, divisor, 1, f"divisor_{left}"), delay(m, empty, 1, f"empty_{left}")
            left -= bits
        m.d.comb += self.r.eq(Mux(empty, 0, quotient))
        return m

    def _divide(
        self, m: Module, rest: Value, divisor: Value, quotient: Value, bits: int, left: int
    ) -> tuple[Signal, Signal]:
        """`bits` more bits of the quotient, a cycle later."""
        for bit in range(bits):
            name = f"{left - bit}"
            doubled, fits = Signal(RECIPROCAL_BITS + 1, name=f"doubled_{name}"), Signal(name=f"fits_{name}")
            m.d.comb += [doubled.eq(rest << 1), fits.eq(doubled >= divisor)]
            below = Signal(RECIPROCAL_BITS, name=f"below_{name}")
            m.d.comb += below.eq(Mux(fits, doubled - divisor, doubled))
            rest, quotient = below, Cat(fits, quotient)
        later_rest = Signal(RECIPROCAL_BITS, name=f"rest_{left}", reset_less=True)
        later_quotient = Signal(len(quotient), name=f"quotient_{left}", reset_less=True)
        m.d.sync += [later_rest.eq(rest), later_quotient.eq(quotient)]
        return later_rest, later_quotient

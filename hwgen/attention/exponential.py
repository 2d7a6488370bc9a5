"""One lane of the softmax: the power of two that a score is below the largest of its row."""

from itertools import pairwise

from amaranth.hdl import Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import (
    DIFFERENCE_BITS,
    EXP_BITS,
    EXP_MAX,
    EXP_TABLE,
    NARROW_BITS,
    NARROW_FRACTION,
    POWER_BITS,
    POWER_FRACTION,
    SCALE_BITS,
    SCORE_BITS,
    SEGMENTS,
    TABLE_FRACTION,
)
from hwgen.lib.pipeline import delay

_PIECE_BITS = (SEGMENTS - 1).bit_length()
_INSIDE_BITS = POWER_FRACTION - _PIECE_BITS
_SLOPES = [start - end for start, end in pairwise(EXP_TABLE)]
_SLOPE_BITS = max(_SLOPES).bit_length()
DROPPED_BITS = 5
SHIFT_BITS = NARROW_FRACTION.bit_length()


def saturated(value: Value, bits: int) -> Value:
    """Unsigned `value` in `bits` bits, all ones when it is too large."""
    return Mux(value[bits:].any(), (1 << bits) - 1, value[:bits])


class ExponentialLane(wiring.Component):
    """2^-((maximum - score) x scale) in EXP_BITS bits of fraction, as the contract page defines e.

    Timing
    ------
    `LATENCY` cycles from score to e, one a cycle. No stall, no valid. The scale comes in parts, each some cycles behind
    the score that it belongs to, so that the lanes of a row need no registers for it.

    Members
    -------
    score, maximum : In(signed(SCORE_BITS)), seen : In(1)   e is 0 where not `seen`; else score <= maximum.
    dropped : In(5)       `DROPPED_AFTER` cycles behind: places that the difference is shifted right.
    mantissa : In(16)     `MANTISSA_AFTER` cycles behind.
    shift : In(5)         `SHIFT_AFTER` cycles behind: places that the product is shifted right.
    o : Out(EXP_BITS)
    """

    DROPPED_AFTER = 1
    MANTISSA_AFTER = 2
    SHIFT_AFTER = 4
    LATENCY = 9

    score: In(signed(SCORE_BITS))
    maximum: In(signed(SCORE_BITS))
    seen: In(1)
    dropped: In(DROPPED_BITS)
    mantissa: In(SCALE_BITS)
    shift: In(SHIFT_BITS)
    o: Out(EXP_BITS)

    def elaborate(self, platform: object) -> Module:
        """Subtract | narrow | multiply, twice | shift to t | look up | slope | straight line | shift and round."""
        m = Module()

        def register(name: str, width: int, value: Value) -> Signal:
            result = Signal(width, name=name, reset_less=True)
            m.d.sync += result.eq(value)
            return result

        difference = register("difference", DIFFERENCE_BITS, self.maximum - self.score)
        narrow = register("narrow", NARROW_BITS, saturated(difference >> self.dropped, NARROW_BITS))
        product = delay(m, (narrow * self.mantissa)[: NARROW_BITS + SCALE_BITS], 2, "product")
        t = register("t", POWER_BITS, saturated(product >> self.shift, POWER_BITS))

        start, slope = self._table(m, t[_INSIDE_BITS:POWER_FRACTION])
        inside = delay(m, t[:_INSIDE_BITS], 1, "inside")
        fall = register("fall", _SLOPE_BITS, (slope * inside) >> _INSIDE_BITS)
        value = register("value", TABLE_FRACTION + 1, delay(m, start, 1, "start") - fall)
        octave = delay(m, t[POWER_FRACTION:], 3, "octave")
        # A shift that leaves one bit more, which then rounds, half up.
        rounded = ((value >> (TABLE_FRACTION - EXP_BITS - 1) >> octave) + 1) >> 1
        e = Mux(rounded > EXP_MAX, EXP_MAX, rounded)
        seen = delay(m, self.seen, self.LATENCY - 1, "seen")
        m.d.comb += self.o.eq(register("e", EXP_BITS, Mux(seen, e, 0)))
        return m

    def _table(self, m: Module, piece: Value) -> tuple[Value, Value]:
        """Start and fall of a piece, a cycle later."""
        words = [start | slope << TABLE_FRACTION + 1 for start, slope in zip(EXP_TABLE, _SLOPES)]
        width = TABLE_FRACTION + 1 + _SLOPE_BITS
        m.submodules.table = table = Memory(shape=unsigned(width), depth=SEGMENTS, init=words)
        read = table.read_port()
        m.d.comb += read.addr.eq(piece)
        return read.data[: TABLE_FRACTION + 1], read.data[TABLE_FRACTION + 1 :]


def scale_parts(m: Module, exponent: Value) -> tuple[Signal, Signal]:
    """`dropped` and `shift` of a scale's exponent, at least POWER_FRACTION."""
    dropped, shift = Signal(DROPPED_BITS), Signal(SHIFT_BITS)
    places = Signal(6)
    m.d.comb += places.eq(exponent - POWER_FRACTION)
    with m.If(places > NARROW_FRACTION):
        m.d.comb += [dropped.eq(places - NARROW_FRACTION), shift.eq(NARROW_FRACTION)]
    with m.Else():
        m.d.comb += shift.eq(places)
    return dropped, shift

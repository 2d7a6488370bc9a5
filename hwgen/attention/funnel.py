"""A funnel shifter: pieces of any length and place out of a stream of memory beats."""

from amaranth.hdl import Module, Mux, ShapeLike, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import ADDRESS_ALIGN

UNIT_BITS = 8 * ADDRESS_ALIGN
"""Rows and their pieces are multiples of so many bits."""


class FunnelStep(data.StructLayout):
    """A piece of `units` units behind the one before, or (`move`) from unit `start` of the first beat at hand on.

    release : what is left of the beat with its last unit is dropped. tag : goes along.
    """

    def __init__(self, beat_units: int, width: int, tag: ShapeLike) -> None:
        super().__init__(
            {"start": range(beat_units), "units": range(width + 1), "move": 1, "release": 1, "tag": tag},
        )


class FunnelPiece(data.StructLayout):
    """A piece in the lowest bits, anything above it."""

    def __init__(self, width: int, tag: ShapeLike) -> None:
        super().__init__({"data": UNIT_BITS * width, "tag": tag})


class Funnel(wiring.Component):
    """Gives a piece of the beats for each step.

    Timing
    ------
    A piece is offered a cycle after its step was taken, the step is taken the cycle after the last of its beats at the
    earliest. A piece a cycle, or a beat a cycle.

    Parameters
    ----------
    beat_units : int   Units in a beat, a power of two.
    width : int        Units in the longest piece.
    tag : ShapeLike

    Members
    -------
    beats : In(stream of UNIT_BITS x beat_units)
    step : In(stream of FunnelStep)
    o : Out(stream of FunnelPiece)
    """

    def __init__(self, *, beat_units: int, width: int, tag: ShapeLike) -> None:
        self._beat_units, self._width = beat_units, width
        super().__init__(
            {
                "beats": In(stream.Signature(UNIT_BITS * beat_units)),
                "step": In(stream.Signature(FunnelStep(beat_units, width, tag))),
                "o": Out(stream.Signature(FunnelPiece(width, tag))),
            }
        )

    @property
    def depth(self) -> int:
        """Beats in the window: the longest piece from the last unit of a beat on."""
        return -(-(self._beat_units - 1 + self._width) // self._beat_units)

    def elaborate(self, platform: object) -> Module:
        """Shift beats in, pieces out."""
        m = Module()
        units, depth, step = self._beat_units, self.depth, self.step.payload
        window = Signal(UNIT_BITS * units * depth, reset_less=True)
        level, dropped = Signal(range(depth + 1)), Signal(range(depth + 1))
        place = Signal(range(units))
        start, end = Signal(range(units)), Signal(range(units * (depth + 1)))
        take, room = Signal(), ~self.o.valid | self.o.ready
        m.d.comb += [
            start.eq(Mux(step.move, step.start, place)),
            end.eq(start + step.units),
            self.step.ready.eq(room & (end <= level * units)),
            take.eq(self.step.valid & self.step.ready),
            self.beats.ready.eq((level != depth) | (dropped != 0)),
        ]
        with m.If(take):
            m.d.comb += dropped.eq(Mux(step.release, end + (units - 1), end) // units)
            m.d.sync += place.eq(end % units)
        with m.If(room):
            m.d.sync += [self.o.valid.eq(take), self.o.payload.tag.eq(step.tag)]
            with m.Switch(start):
                for number in range(units):
                    with m.Case(number):
                        piece = window[UNIT_BITS * number :][: UNIT_BITS * self._width]
                        m.d.sync += self.o.payload.data.eq(piece)
        self._shift(m, window, level, dropped)
        return m

    def _shift(self, m: Module, window: Signal, level: Signal, dropped: Value) -> None:
        """Beats that are dropped make room, a beat that arrives goes behind the others."""
        bits, rest, kept = UNIT_BITS * self._beat_units, Signal.like(level), Signal.like(window)
        fired = self.beats.valid & self.beats.ready
        m.d.comb += rest.eq(level - dropped)
        m.d.sync += level.eq(rest + fired)
        with m.Switch(dropped):
            for number in range(self.depth + 1):
                with m.Case(number):
                    m.d.comb += kept.eq(window >> bits * number)
        for number in range(self.depth):
            arrives = fired & (rest == number)
            place = slice(number * bits, (number + 1) * bits)
            m.d.sync += window[place].eq(Mux(arrives, self.beats.payload, kept[place]))

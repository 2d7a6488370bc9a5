"""Spans of beats as bursts, for reads and for writes."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.attention.services.words import BEATS_BITS, BeatSpan
from hwgen.attention.words import ADDRESS_BITS, ReadRequest
from hwgen.attention.writer import PAGE_BYTES


class Bursts(wiring.Component):
    """Cuts spans into bursts of up to `longest` beats that don't cross a multiple of `PAGE_BYTES`.

    Timing
    ------
    A burst a cycle; the first is offered the cycle after its span was taken. A span is taken with the last burst of the
    one before.

    Parameters
    ----------
    beat_bytes : int
    longest : int      Beats, up to 256.
    most : int         Largest value of `room`.

    Members
    -------
    i : In(stream of BeatSpan)     Without beats it is taken and nothing comes of it.
    o : Out(stream of ReadRequest), table : Out(1)   Offered when `room` has its beats.
    room : In(range(most + 1))     Beats that may be asked for; it falls by those of a burst in the cycle after it.
    busy : Out(1)
    """

    def __init__(self, *, beat_bytes: int, longest: int, most: int) -> None:
        self._beat, self._longest = beat_bytes, longest
        super().__init__(
            {
                "i": In(stream.Signature(BeatSpan())),
                "o": Out(stream.Signature(ReadRequest())),
                "table": Out(1),
                "room": In(range(most + 1)),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """The beats that are left of a span."""
        m = Module()
        shift, page = self._beat.bit_length() - 1, max(1, PAGE_BYTES // self._beat)
        following, left = Signal(ADDRESS_BITS - shift), Signal(BEATS_BITS)
        least, to_page = (Signal(range(max(page, self._longest) + 1), name=name) for name in ("least", "to_page"))
        beats = Signal.like(least)
        m.d.comb += [
            to_page.eq(page - following % page),
            least.eq(Mux(left < self._longest, left, self._longest)),
            beats.eq(Mux(least < to_page, least, to_page)),
            self.o.valid.eq((left != 0) & (beats <= self.room)),
            self.o.payload.address.eq(following << shift),
            self.o.payload.beats.eq(beats - 1),
            self.busy.eq(left != 0),
        ]
        fired = self.o.valid & self.o.ready
        m.d.comb += self.i.ready.eq((left == 0) | (fired & (left == beats)))
        with m.If(fired):
            m.d.sync += [following.eq(following + beats), left.eq(left - beats)]
        with m.If(self.i.valid & self.i.ready):
            span = self.i.payload
            m.d.sync += [following.eq(span.address >> shift), left.eq(span.beats), self.table.eq(span.table)]
        return m

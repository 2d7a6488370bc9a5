"""Reads of a job: spans asked for, beats in order."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import AttentionSizes
from hwgen.attention.services.bursts import Bursts
from hwgen.attention.services.words import BeatSpan, ReadBeat
from hwgen.attention.words import ReadRequest
from hwgen.attention.writer import PAGE_BYTES
from hwgen.lib.streams import Queue


class SpanReader(wiring.Component):
    """Reads spans of beats one behind the other; asks only for beats that its queue has room for.

    Timing
    ------
    A request is offered the cycle after its span was taken, a beat the cycle after it came. A beat a cycle for memories
    of a latency up to `reads_in_flight` - 3.

    Parameters
    ----------
    sizes : AttentionSizes

    Members
    -------
    i : In(stream of BeatSpan)
    o : Out(stream of ReadBeat)
    request : Out(stream of ReadRequest)
    data : In(stream of beat)      In the order of the requests, always taken.
    busy : Out(1)
    """

    def __init__(self, sizes: AttentionSizes) -> None:
        self._beat, self._depth = sizes.beat_bytes, sizes.reads_in_flight
        super().__init__(
            {
                "i": In(stream.Signature(BeatSpan())),
                "o": Out(stream.Signature(ReadBeat(self._beat))),
                "request": Out(stream.Signature(ReadRequest())),
                "data": In(stream.Signature(8 * self._beat)),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Bursts as long as there is room | what the beats that come belong to | queue."""
        m = Module()
        longest = min(max(1, self._depth // 4), max(1, PAGE_BYTES // self._beat))
        m.submodules.bursts = bursts = Bursts(beat_bytes=self._beat, longest=longest, most=self._depth)
        wiring.connect(m, wiring.flipped(self.i), bursts.i)
        owner = data.StructLayout({"beats": range(longest), "table": 1})
        m.submodules.owners = owners = Queue(shape=owner, depth=self._depth)
        m.submodules.beats = beats = Queue(shape=ReadBeat(self._beat), depth=self._depth)
        free, left, begun = Signal(range(self._depth + 1), init=self._depth), Signal(range(longest)), Signal()
        asked, came, here = Signal(), Signal(), Signal.like(left)
        m.d.comb += [
            bursts.room.eq(free),
            self.request.valid.eq(bursts.o.valid),
            self.request.payload.eq(bursts.o.payload),
            bursts.o.ready.eq(self.request.ready),
            # As many requests as beats fit: neither queue is ever full here.
            asked.eq(self.request.valid & self.request.ready),
            owners.i.valid.eq(asked),
            owners.i.payload.beats.eq(bursts.o.payload.beats),
            owners.i.payload.table.eq(bursts.table),
            self.data.ready.eq(1),
            came.eq(self.data.valid),
            here.eq(Mux(begun, left, owners.o.payload.beats)),
            owners.o.ready.eq(came & (here == 0)),
            beats.i.valid.eq(came),
            beats.i.payload.data.eq(self.data.payload),
            beats.i.payload.table.eq(owners.o.payload.table),
            self.busy.eq(bursts.busy | (free != self._depth)),
        ]
        with m.If(came):
            m.d.sync += [left.eq(here - 1), begun.eq(here != 0)]
        wiring.connect(m, beats.o, wiring.flipped(self.o))
        taken = self.o.valid & self.o.ready
        m.d.sync += free.eq(free - Mux(asked, bursts.o.payload.beats + 1, 0) + taken)
        return m

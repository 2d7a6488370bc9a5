"""Writes of a job: beats of two streams, each with spans of its own, through one port."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.attention.services.bursts import Bursts
from hwgen.attention.services.words import BeatSpan, StoreBeat, write_burst
from hwgen.attention.words import ReadRequest
from hwgen.attention.writer import WriteBeat
from hwgen.lib.streams import Queue

CHANNELS = 2
SPANS = 16
"""Of a channel: planes of all heads, which are short when a row is all there is."""
BURSTS = 4


class WriteChannel(wiring.Component):
    """Beats of one stream, given out in bursts; a burst is offered when all of its beats are there.

    Timing
    ------
    A beat a cycle.

    Parameters
    ----------
    beat_bytes : int

    Members
    -------
    span : In(stream of BeatSpan)   As many beats as come, in their order.
    i : In(stream of StoreBeat)
    request : Out(stream of ReadRequest)
    o : Out(stream of StoreBeat)
    busy : Out(1)
    """

    def __init__(self, *, beat_bytes: int) -> None:
        self._beat = beat_bytes
        super().__init__(
            {
                "span": In(stream.Signature(BeatSpan())),
                "i": In(stream.Signature(StoreBeat(beat_bytes))),
                "request": Out(stream.Signature(ReadRequest())),
                "o": Out(stream.Signature(StoreBeat(beat_bytes))),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Queue of beats; those that no burst has yet are counted."""
        m = Module()
        longest = write_burst(self._beat)
        m.submodules.spans = spans = Queue(shape=BeatSpan(), depth=SPANS)
        m.submodules.beats = beats = Queue(shape=StoreBeat(self._beat), depth=2 * longest)
        m.submodules.bursts = bursts = Bursts(beat_bytes=self._beat, longest=longest, most=beats.depth)
        wiring.connect(m, wiring.flipped(self.span), spans.i)
        wiring.connect(m, spans.o, bursts.i)
        wiring.connect(m, wiring.flipped(self.i), beats.i)
        wiring.connect(m, beats.o, wiring.flipped(self.o))
        wiring.connect(m, bursts.o, wiring.flipped(self.request))
        waiting = Signal(range(beats.depth + 1))
        asked, came = self.request.valid & self.request.ready, self.i.valid & self.i.ready
        m.d.sync += waiting.eq(waiting + came - Mux(asked, self.request.payload.beats + 1, 0))
        m.d.comb += [
            bursts.room.eq(waiting),
            self.busy.eq(spans.o.valid | bursts.busy | beats.o.valid),
        ]
        return m


class WritePort(wiring.Component):
    """Bursts of `CHANNELS` channels through one port, the first of them first.

    Timing
    ------
    A beat a cycle, burst behind burst.

    Parameters
    ----------
    beat_bytes : int

    Members
    -------
    span_N : In(stream of BeatSpan), i_N : In(stream of StoreBeat)   For channel N.
    request : Out(stream of ReadRequest)
    data : Out(stream of WriteBeat)    In the order of the requests.
    busy : Out(1)
    """

    def __init__(self, *, beat_bytes: int) -> None:
        self._beat = beat_bytes
        ports = {}
        for number in range(CHANNELS):
            ports[f"span_{number}"] = In(stream.Signature(BeatSpan()))
            ports[f"i_{number}"] = In(stream.Signature(StoreBeat(beat_bytes)))
        super().__init__(
            ports
            | {
                "request": Out(stream.Signature(ReadRequest())),
                "data": Out(stream.Signature(WriteBeat(beat_bytes))),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """A burst is chosen; its request and its beats go their own ways."""
        m = Module()
        channels = [WriteChannel(beat_bytes=self._beat) for _ in range(CHANNELS)]
        m.submodules.channel_0, m.submodules.channel_1 = channels
        m.submodules.requests = requests = Queue(shape=ReadRequest(), depth=BURSTS)
        owner = data.StructLayout({"channel": range(CHANNELS), "beats": 8})
        m.submodules.owners = owners = Queue(shape=owner, depth=BURSTS)
        wiring.connect(m, requests.o, wiring.flipped(self.request))
        room, offered = requests.i.ready & owners.i.ready, 0
        for number, channel in reversed(list(enumerate(channels))):
            wiring.connect(m, wiring.flipped(getattr(self, f"span_{number}")), channel.span)
            wiring.connect(m, wiring.flipped(getattr(self, f"i_{number}")), channel.i)
            with m.If(channel.request.valid):
                m.d.comb += [
                    requests.i.payload.eq(channel.request.payload),
                    owners.i.payload.channel.eq(number),
                    owners.i.payload.beats.eq(channel.request.payload.beats),
                ]
            offered = channel.request.valid | offered
        m.d.comb += [
            channels[0].request.ready.eq(room),
            channels[1].request.ready.eq(room & ~channels[0].request.valid),
            requests.i.valid.eq(room & offered),
            owners.i.valid.eq(room & offered),
            self.busy.eq(channels[0].busy | channels[1].busy | requests.o.valid | owners.o.valid | self.data.valid),
        ]
        self._beats(m, channels, owners.o)
        return m

    def _beats(self, m: Module, channels: list[WriteChannel], owner: stream.Interface) -> None:
        """Beats of the burst at hand."""
        done, last, room = Signal(8), Signal(), ~self.data.valid | self.data.ready
        m.d.comb += [last.eq(done == owner.payload.beats), owner.ready.eq(owner.valid & room & last)]
        with m.If(room):
            m.d.sync += self.data.valid.eq(owner.valid)
        with m.If(room & owner.valid):
            m.d.sync += done.eq(Mux(last, 0, done + 1))
        for number, channel in enumerate(channels):
            with m.If(owner.payload.channel == number):
                m.d.comb += channel.o.ready.eq(room & owner.valid)
                with m.If(room):
                    m.d.sync += [
                        self.data.payload.data.eq(channel.o.payload.data),
                        self.data.payload.strobes.eq(channel.o.payload.strobes),
                        self.data.payload.last.eq(last),
                    ]
        return

"""One port for the reads of several parts."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.attention.words import ReadRequest
from hwgen.lib.streams import Queue


class ReadPort(wiring.Component):
    """Gives the port to whoever asks, the first of them first, and the beats to who asked for them.

    Beats come in the order of the requests, and whoever asked takes each at once or stops all of them.

    Timing
    ------
    A request leaves a cycle after it was taken, one a cycle; a beat goes through at once.

    Parameters
    ----------
    clients : int      At least 2.
    beat_bytes : int
    depth : int        Requests under way.

    Members
    -------
    client_request_N : In(stream of ReadRequest), client_data_N : Out(stream of beat)    For client N.
    request : Out(stream of ReadRequest)
    data : In(stream of beat)
    beats : Out(1)     A beat goes through.
    """

    def __init__(self, *, clients: int, beat_bytes: int, depth: int) -> None:
        self._clients, self._depth = clients, depth
        request, beat = stream.Signature(ReadRequest()), stream.Signature(8 * beat_bytes)
        super().__init__(
            {
                **{f"client_request_{number}": In(request) for number in range(clients)},
                **{f"client_data_{number}": Out(beat) for number in range(clients)},
                "request": Out(request),
                "data": In(beat),
                "beats": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """A register for the request that is offered; whose beats are to come is in a queue."""
        m = Module()
        owner = data.StructLayout({"client": range(self._clients), "beats": 8})
        m.submodules.owners = owners = Queue(shape=owner, depth=self._depth)
        room, taken = Signal(), Signal()
        m.d.comb += room.eq((~self.request.valid | self.request.ready) & owners.i.ready)
        with m.If(self.request.ready):
            m.d.sync += self.request.valid.eq(0)
        requests = [getattr(self, f"client_request_{number}") for number in range(self._clients)]
        for number, asked in reversed(list(enumerate(requests))):
            before = [other.valid for other in requests[:number]]
            m.d.comb += asked.ready.eq(room & ~(sum(before) != 0) if before else room)
            with m.If(asked.valid & asked.ready):
                m.d.comb += [
                    taken.eq(1),
                    owners.i.payload.client.eq(number),
                    owners.i.payload.beats.eq(asked.payload.beats),
                ]
                m.d.sync += [self.request.valid.eq(1), self.request.payload.eq(asked.payload)]
        m.d.comb += owners.i.valid.eq(taken)

        left, begun = Signal(8), Signal()
        here = Signal(8)
        front = owners.o.payload
        m.d.comb += [here.eq(front.beats), self.beats.eq(self.data.valid & self.data.ready)]
        with m.If(begun):
            m.d.comb += here.eq(left)
        for number in range(self._clients):
            given = getattr(self, f"client_data_{number}")
            m.d.comb += given.payload.eq(self.data.payload)
            with m.If(owners.o.valid & (front.client == number)):
                m.d.comb += [given.valid.eq(self.data.valid), self.data.ready.eq(given.ready)]
        with m.If(self.beats):
            m.d.sync += [left.eq(here - 1), begun.eq(here != 0)]
        m.d.comb += owners.o.ready.eq(self.beats & (here == 0))
        return m

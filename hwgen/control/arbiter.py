"""Shares the AXI read channels between instruction fetch and the load engine."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch import Arch
from hwgen.lib.axi import ReadSignature

FETCH_ID = 0
LOAD_ID = 1


class ReadArbiter(wiring.Component):
    """Merges the read requests of `fetch` (id 0) and `load` (id 1); beats go back by their id.

    When both ask, they take turns: a request waits for the one that is offered to the bus and one more at most.
    The ids that the masters drive are ignored.

    Timing
    ------
    Requests pass in 1 cycle, one a cycle; answers pass in the same cycle. A master that does not take its beat holds
    up the other one: `Fetch` always takes it.

    Parameters
    ----------
    arch : Arch

    Members
    -------
    fetch : In(ReadSignature), load : In(ReadSignature)
    bus : Out(ReadSignature)
    """

    LATENCY = 1

    def __init__(self, *, arch: Arch) -> None:
        super().__init__(
            {"fetch": In(ReadSignature(arch)), "load": In(ReadSignature(arch)), "bus": Out(ReadSignature(arch))}
        )

    def elaborate(self, platform: object) -> Module:
        """A register for the request, which the two fill in turn; a switch for the answers."""
        m = Module()

        # Requests
        valid = Signal()
        request = Signal.like(self.bus.ar.payload, reset_less=True)
        load_next = Signal()
        chosen = Signal()
        free = ~valid | self.bus.ar.ready
        m.d.comb += [
            chosen.eq(Mux(self.fetch.ar.valid & self.load.ar.valid, load_next, self.load.ar.valid)),
            self.bus.ar.valid.eq(valid),
            self.bus.ar.payload.eq(request),
            self.fetch.ar.ready.eq(free & (chosen == FETCH_ID)),
            self.load.ar.ready.eq(free & (chosen == LOAD_ID)),
        ]
        with m.If(free):
            m.d.sync += [
                valid.eq(self.fetch.ar.valid | self.load.ar.valid),
                request.eq(Mux(chosen, self.load.ar.payload, self.fetch.ar.payload)),
                request.id.eq(chosen),
            ]
            with m.If(self.fetch.ar.valid | self.load.ar.valid):
                m.d.sync += load_next.eq(~chosen)

        # Answers
        for number, master in ((FETCH_ID, self.fetch), (LOAD_ID, self.load)):
            mine = self.bus.r.p.id == number
            m.d.comb += [master.r.payload.eq(self.bus.r.payload), master.r.valid.eq(self.bus.r.valid & mine)]
            with m.If(mine):
                m.d.comb += self.bus.r.ready.eq(master.r.ready)
        return m

"""The requests of the attention engine as bursts on AXI4 channels of its own."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch import Arch
from hwgen.attention.words import ReadRequest
from hwgen.attention.writer import WriteBeat
from hwgen.lib.axi import ReadSignature, WriteSignature
from hwgen.lib.streams import Queue

_READS = 1 << 12
"""Read bursts that may be under way are fewer than this."""


class MemoryPort(wiring.Component):
    """Every request is a burst. Beats to write follow the address of their burst.

    A request beyond the address bits is not made; it counts as one that the memory answered with an error.
    While `abort`, requests and beats are not taken, and the bursts that were announced are completed: what is read is
    dropped, what is to be written has no strobes.

    Timing
    ------
    Addresses and beats to write leave a cycle after they were taken, beats that are read go through at once. One of
    each in a cycle.

    Parameters
    ----------
    arch : Arch      With an attention engine.

    Members
    -------
    request : In(stream of ReadRequest), data : Out(stream of beat)      Beats in the order of the requests.
    write_request : In(stream of ReadRequest), write_data : In(stream of WriteBeat)    As many beats as requested.
    read : Out(ReadSignature), write : Out(WriteSignature with strobes)
    abort : In(1)
    read_failed, write_failed : Out(1)     The memory answered with an error; not while `abort`.
    drained : Out(1)                       No burst is under way.
    """

    def __init__(self, arch: Arch) -> None:
        self._arch = arch
        request = stream.Signature(ReadRequest())
        super().__init__(
            {
                "request": In(request),
                "data": Out(stream.Signature(arch.memory.data_bits)),
                "write_request": In(request),
                "write_data": In(stream.Signature(WriteBeat(arch.beat_bytes))),
                "read": Out(ReadSignature(arch)),
                "write": Out(WriteSignature(arch, strobes=True)),
                "abort": In(1),
                **dict.fromkeys(("read_failed", "write_failed", "drained"), Out(1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Read channels | write channels."""
        m = Module()
        reads, writes = Signal(range(_READS)), Signal(range(self._arch.memory.outstanding + 1))
        r, b = self.read.r, self.write.b
        outside, write_outside = (
            request.valid & (request.payload.address[self._arch.memory.address_bits :] != 0)
            for request in (self.request, self.write_request)
        )
        do_read = self._announce(m, self.request, self.read.ar, (reads != _READS - 1) & ~outside)
        room = (writes != self._arch.memory.outstanding) & ~write_outside
        do_write = self._announce(m, self.write_request, self.write.aw, room)
        m.d.comb += [
            self.data.payload.eq(r.payload.data),
            self.data.valid.eq(r.valid & ~self.abort),
            r.ready.eq(self.data.ready | self.abort),
            self.read_failed.eq(((r.valid & r.payload.resp[1]) | outside) & ~self.abort),
            b.ready.eq(1),
            self.write_failed.eq(((b.valid & b.payload.resp[1]) | write_outside) & ~self.abort),
            self.drained.eq((reads == 0) & (writes == 0)),
        ]
        m.d.sync += [
            reads.eq(reads + do_read - (r.valid & r.ready & r.payload.last)),
            writes.eq(writes + do_write - b.valid),
        ]
        self._write(m)
        return m

    def _announce(self, m: Module, request: stream.Interface, address: stream.Interface, room: Signal) -> Signal:
        """Address register; gives whether it takes a request."""
        taken = Signal()
        m.d.comb += [
            request.ready.eq((~address.valid | address.ready) & room & ~self.abort),
            taken.eq(request.valid & request.ready),
        ]
        with m.If(address.ready):
            m.d.sync += address.valid.eq(0)
        with m.If(taken):
            m.d.sync += [
                address.valid.eq(1),
                address.payload.addr.eq(request.payload.address),
                address.payload.len.eq(request.payload.beats),
            ]
        return taken

    def _write(self, m: Module) -> None:
        """Beat register; the lengths of bursts say where they end."""
        m.submodules.lengths = lengths = Queue(shape=8, depth=max(2, self._arch.memory.outstanding))
        aw, w, beat = self.write.aw, self.write.w, self.write_data
        room, taken, last, sent = Signal(), Signal(), Signal(), Signal(8)
        m.d.comb += [
            lengths.i.payload.eq(aw.payload.len),
            lengths.i.valid.eq(aw.valid & aw.ready),
            lengths.o.ready.eq(taken & last),
            room.eq((~w.valid | w.ready) & lengths.o.valid),
            beat.ready.eq(room & ~self.abort),
            taken.eq(room & (beat.valid | self.abort)),
            last.eq(sent == lengths.o.payload),
        ]
        with m.If(w.ready):
            m.d.sync += w.valid.eq(0)
        with m.If(taken):
            m.d.sync += [
                w.valid.eq(1),
                w.payload.data.eq(beat.payload.data),
                w.payload.strobes.eq(Mux(self.abort, 0, beat.payload.strobes)),
                w.payload.last.eq(last),
                sent.eq(Mux(last, 0, sent + 1)),
            ]

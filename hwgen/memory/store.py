"""Store engine: writes strided blocks of accumulator words to external memory."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import Out

from hwgen.arch import Arch
from hwgen.arch.isa import Cause
from hwgen.lib.axi import WriteSignature
from hwgen.lib.shapes import PC_BITS, AccRead, EngineSignature
from hwgen.lib.streams import Queue
from hwgen.memory.bursts import BurstGenerator
from hwgen.memory.faults import FaultReporter
from hwgen.memory.reader import StoreReader
from hwgen.memory.store_setup import StoreSetup

WRITE_ID = 0
"""AXI identifier of writes; no other engine writes."""


class StoreEngine(wiring.Component):
    """Executes STORE: accumulator words, narrowed, transposed, reduced or as FP32, in bursts on the AXI write channels.

    Words are read ahead of the bursts that they are written with; those of the next instruction while this one's still
    leave, if they take the other way of `StoreReader`. Bursts of the next instruction may be announced while responses
    of this one are still to come; up to `outstanding` bursts are. Errors are reported in program order. After an error,
    and while `stop`, the bursts that were announced are completed; `busy` falls with the last response.

    Timing
    ------
    First `write.aw` 3 cycles after the command (PACKED: `StoreSetup.packed_latency` - 1 more), first `write.w`
    `StoreReader.LATENCY` cycles after it, later by what `BeatPath` takes; one beat a cycle. `done` pulses
    with the last response of an instruction.

    Parameters
    ----------
    arch : Arch

    Members
    -------
    control : Out(EngineSignature) as seen from the engine
    write : Out(WriteSignature)      AXI master.
    acc : Out(AccRead)
    """

    def __init__(self, arch: Arch) -> None:
        self._arch = arch
        super().__init__(
            {"control": Out(EngineSignature()), "write": Out(WriteSignature(arch)), "acc": Out(AccRead(arch))}
        )

    def elaborate(self, platform: object) -> Module:
        """Wire set-up, address side, data side, responses and error reports together."""
        m = Module()
        arch, control = self._arch, self.control
        depth = max(2, arch.memory.outstanding)
        m.submodules.setup = setup = StoreSetup(arch)
        m.submodules.bursts = bursts = BurstGenerator(arch)
        m.submodules.reader = reader = StoreReader(arch)
        m.submodules.lengths = lengths = Queue(shape=data.StructLayout({"len": 8, "shaped": 1}), depth=depth)
        m.submodules.owners = owners = Queue(shape=data.StructLayout({"pc": PC_BITS, "last": 1}), depth=depth)
        m.submodules.faults = faults = FaultReporter()
        wiring.connect(m, wiring.flipped(self.acc), reader.acc)
        drained = owners.level == 0

        # Command -> both sides.
        job = setup.o.payload
        good = setup.o.valid & (job.cause == Cause.NONE)
        m.d.comb += [
            setup.i.payload.eq(control.command.payload),
            setup.i.valid.eq(control.command.valid & ~faults.halt),
            control.command.ready.eq(setup.i.ready & ~faults.halt),
            bursts.i.payload.eq(job.block),
            bursts.i.valid.eq(good & reader.i.ready),
            reader.i.payload.eq(job.words),
            reader.i.valid.eq(good & bursts.i.ready),
            setup.o.ready.eq(good & reader.i.ready & bursts.i.ready),
            setup.clear.eq(faults.halt),
            bursts.clear.eq(faults.halt),
            # What has been announced is completed, the rest is forgotten.
            reader.clear.eq(faults.halt & drained),
        ]
        self._announce(m, bursts, lengths, owners, faults.halt)
        self._write(m, lengths, reader)
        self._respond(m, owners, faults)
        self._report(m, setup, bursts, drained, good, faults)
        return m

    def _announce(self, m: Module, bursts: BurstGenerator, lengths: Queue, owners: Queue, halt: Value) -> None:
        """Address register; who waits for the response is noted on the way in, the length on the way out."""
        aw, burst = self.write.aw, bursts.o.payload
        room, shaped = owners.level < self._arch.memory.outstanding, Signal()
        do_burst = bursts.o.valid & bursts.o.ready
        do_address = aw.valid & aw.ready
        m.d.comb += [
            bursts.o.ready.eq((~aw.valid | aw.ready) & room & ~halt),
            owners.i.valid.eq(do_burst),
            owners.i.payload.pc.eq(burst.pc),
            owners.i.payload.last.eq(burst.last),
            lengths.i.valid.eq(do_address),
            lengths.i.payload.len.eq(aw.payload.len),
            lengths.i.payload.shaped.eq(shaped),
            aw.payload.id.eq(WRITE_ID),
        ]
        with m.If(aw.ready):
            m.d.sync += aw.valid.eq(0)
        with m.If(do_burst):
            m.d.sync += [aw.valid.eq(1), aw.payload.addr.eq(burst.address), aw.payload.len.eq(burst.len)]
            m.d.sync += shaped.eq(burst.tag)

    def _write(self, m: Module, lengths: Queue, reader: StoreReader) -> None:
        """Cut beats into bursts; each burst says which way its beats come."""
        w, shaped = self.write.w, lengths.o.payload.shaped
        sent = Signal(8)
        m.d.comb += [
            w.valid.eq(Mux(shaped, reader.shaped.valid, reader.straight.valid) & lengths.o.valid),
            w.payload.data.eq(Mux(shaped, reader.shaped.payload, reader.straight.payload)),
            w.payload.last.eq(sent == lengths.o.payload.len),
            reader.straight.ready.eq(w.ready & lengths.o.valid & ~shaped),
            reader.shaped.ready.eq(w.ready & lengths.o.valid & shaped),
            lengths.o.ready.eq(w.valid & w.ready & w.payload.last),
        ]
        with m.If(w.valid & w.ready):
            m.d.sync += sent.eq(Mux(w.payload.last, 0, sent + 1))

    def _respond(self, m: Module, owners: Queue, faults: FaultReporter) -> None:
        """Each response belongs to the oldest burst; the last one of an instruction ends it."""
        b, owner = self.write.b, owners.o.payload
        failed = b.payload.resp[1]
        m.d.comb += [
            b.ready.eq(1),
            owners.o.ready.eq(b.valid),
            self.control.done.eq(b.valid & owner.last & ~failed & ~faults.halt),
            faults.fault.eq(b.valid & failed),
            faults.cause.eq(Cause.WRITE_RESPONSE),
            faults.pc.eq(owner.pc),
        ]

    def _report(
        self, m: Module, setup: StoreSetup, bursts: BurstGenerator, drained: Value, good: Value, faults: FaultReporter
    ) -> None:
        """Faults that no response carries wait until all responses before them have come."""
        job, control = setup.o.payload, self.control
        with m.If(drained & bursts.outside):
            m.d.comb += [
                faults.fault.eq(1),
                faults.cause.eq(Cause.MEMORY_ALIGNMENT),
                faults.pc.eq(bursts.o.payload.pc),
            ]
        with m.If(drained & ~bursts.busy & setup.o.valid & ~good):
            m.d.comb += [faults.fault.eq(1), faults.cause.eq(job.cause), faults.pc.eq(job.block.pc)]
        m.d.comb += [
            faults.stop.eq(control.stop),
            faults.drained.eq(drained),
            control.error.eq(faults.error),
            control.error_valid.eq(faults.error_valid),
            control.busy.eq(setup.busy | bursts.busy | ~drained),
        ]

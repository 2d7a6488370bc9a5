"""Store engine: writes strided blocks of accumulator words to external memory."""

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch import Arch
from hwgen.arch.isa import Cause, Format, Opcode
from hwgen.lib.axi import WriteSignature
from hwgen.lib.shapes import PC_BITS, AccRead, CommandLayout, EngineSignature
from hwgen.lib.streams import Queue
from hwgen.memory.bursts import Block, BurstGenerator, beat_log2, merge_runs
from hwgen.memory.faults import FaultReporter, first_cause, operands_of
from hwgen.memory.narrow import StoreReader, WordJob

WRITE_ID = 0
"""AXI identifier of writes; no other engine writes."""


class StoreJob(data.StructLayout):
    """A checked STORE: what is wrong with it (`cause`), what to write, which words to read."""

    def __init__(self, arch: Arch) -> None:
        super().__init__({"cause": 4, "block": Block(), "words": WordJob(arch)})


class StoreSetup(wiring.Component):
    """Checks the rules of STORE that tie fields together, and works out what both sides of the engine need.

    The whole range of accumulator words is checked at once, so that no part of a bad STORE is written.
    That each field is in its range has been checked at dispatch.

    Timing
    ------
    Latency 1 cycle, one instruction a cycle.

    Parameters
    ----------
    arch : Arch

    Members
    -------
    i : In(stream of CommandLayout)
    o : Out(stream of StoreJob)
    clear : In(1)   Forget the job that waits.
    """

    LATENCY = 1

    def __init__(self, arch: Arch) -> None:
        self._arch = arch
        super().__init__(
            {"i": In(stream.Signature(CommandLayout())), "o": Out(stream.Signature(StoreJob(arch))), "clear": In(1)}
        )

    def elaborate(self, platform: object) -> Module:
        """One register stage behind checks and products."""
        m = Module()
        pc, store = self.i.payload.pc, operands_of(Opcode.STORE, self.i.payload.operands)
        job = Signal(StoreJob(self._arch), reset_less=True)
        wide = store.format == Format.FP32
        beats = Mux(wide, store.words << 1, store.words)
        counts = merge_runs(
            self._arch,
            stride=store.row_stride,
            rows=store.rows,
            plane_stride=0,
            planes=Const(1),
            beats=beats,
            row_beats=beats,
        )
        block = counts | {"pc": pc, "address": store.dram_addr, "stride": store.row_stride}
        m.d.comb += [self.i.ready.eq(~self.o.valid | self.o.ready), self.o.payload.eq(job)]
        with m.If(self.i.ready):
            m.d.sync += self.o.valid.eq(self.i.valid)
        with m.If(self.i.ready & self.i.valid):
            m.d.sync += [job.cause.eq(self._cause(store)), job.words.wide.eq(wide)]
            m.d.sync += [job.block[name].eq(value) for name, value in block.items()]
            m.d.sync += [job.words[name].eq(store[name]) for name in ("addr", "stride", "rows", "words")]
            m.d.sync += [job.words.mask[col].eq(store.lanes > col) for col in range(self._arch.array.cols)]
        with m.If(self.clear):
            m.d.sync += self.o.valid.eq(0)
        return m

    def _cause(self, store: data.View) -> Value:
        """The rule that a STORE breaks."""
        low = (1 << beat_log2(self._arch)) - 1
        end = store.addr + (store.rows - 1)[:16] * store.stride + store.words
        return first_cause(
            (Cause.BAD_FIELD, store.lanes > self._arch.array.cols),
            (Cause.SCRATCHPAD_RANGE, end > self._arch.scratchpads.acc_depth),
            (Cause.MEMORY_ALIGNMENT, ((store.dram_addr | store.row_stride) & low) != 0),
        )


class StoreEngine(wiring.Component):
    """Executes STORE: accumulator words, narrowed or as FP32, in bursts on the AXI write channels.

    Accumulator words are read only for bursts that have been announced. Bursts of the next instruction may be announced
    while responses of this one are still to come; up to `outstanding` bursts are. Errors are reported in program order.
    After an error, and while `stop`, the bursts that were announced are completed; `busy` falls with the last response.

    Timing
    ------
    First `write.aw` 3 cycles after the command, first `write.w` `StoreReader.LATENCY` + 1 cycles after it; one beat a
    cycle. `done` pulses with the last response of an instruction.

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
        m.submodules.jobs = jobs = Queue(shape=WordJob(arch), depth=max(2, arch.control.queue_depth))
        m.submodules.reader = reader = StoreReader(arch)
        m.submodules.lengths = lengths = Queue(shape=8, depth=depth)
        m.submodules.owners = owners = Queue(shape=data.StructLayout({"pc": PC_BITS, "last": 1}), depth=depth)
        m.submodules.faults = faults = FaultReporter()
        wiring.connect(m, jobs.o, reader.i)
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
            bursts.i.valid.eq(good & jobs.i.ready),
            jobs.i.payload.eq(job.words),
            jobs.i.valid.eq(good & bursts.i.ready),
            setup.o.ready.eq(good & jobs.i.ready & bursts.i.ready),
            setup.clear.eq(faults.halt),
            bursts.clear.eq(faults.halt),
        ]
        # What has been announced is completed, the rest is forgotten.
        m.d.comb += [part.clear.eq(faults.halt & drained) for part in (jobs, reader)]
        self._announce(m, bursts, lengths, owners, reader, faults.halt)
        self._write(m, lengths, reader)
        self._respond(m, owners, faults)
        self._report(m, setup, bursts, drained, good, faults)
        return m

    def _announce(
        self, m: Module, bursts: BurstGenerator, lengths: Queue, owners: Queue, reader: StoreReader, halt: Value
    ) -> None:
        """Address register; who waits for the response is noted on the way in, the length on the way out."""
        aw, burst = self.write.aw, bursts.o.payload
        room = owners.level < self._arch.memory.outstanding
        do_burst = bursts.o.valid & bursts.o.ready
        do_address = aw.valid & aw.ready
        m.d.comb += [
            bursts.o.ready.eq((~aw.valid | aw.ready) & room & ~halt),
            owners.i.valid.eq(do_burst),
            owners.i.payload.pc.eq(burst.pc),
            owners.i.payload.last.eq(burst.last),
            lengths.i.valid.eq(do_address),
            lengths.i.payload.eq(aw.payload.len),
            reader.announce.eq(do_address),
            reader.announced.eq(aw.payload.len),
            aw.payload.id.eq(WRITE_ID),
        ]
        with m.If(aw.ready):
            m.d.sync += aw.valid.eq(0)
        with m.If(do_burst):
            m.d.sync += [aw.valid.eq(1), aw.payload.addr.eq(burst.address), aw.payload.len.eq(burst.len)]

    def _write(self, m: Module, lengths: Queue, reader: StoreReader) -> None:
        """Cut beats into bursts."""
        w = self.write.w
        sent = Signal(8)
        m.d.comb += [
            w.valid.eq(reader.o.valid & lengths.o.valid),
            w.payload.data.eq(reader.o.payload),
            w.payload.last.eq(sent == lengths.o.payload),
            reader.o.ready.eq(w.ready & lengths.o.valid),
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
            control.busy.eq(setup.o.valid | bursts.busy | ~drained),
        ]

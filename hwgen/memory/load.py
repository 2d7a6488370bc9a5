"""Load engine: reads strided blocks of external memory and sends them, beat by beat, to the scratchpads.

With two memory ports there are two: one for LOAD, one for FILL.
"""

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch import Arch
from hwgen.arch.isa import Cause, Opcode, Target
from hwgen.lib.axi import ReadSignature
from hwgen.lib.shapes import CommandLayout, EngineSignature, LoadBeat
from hwgen.lib.streams import Queue
from hwgen.memory.bursts import Block, BurstGenerator, beat_log2, merge_runs
from hwgen.memory.faults import FaultReporter, first_cause, operands_of
from hwgen.memory.place import PLACE_FIELDS, BeatPlacer, PlaceJob

READ_ID = 1
"""AXI identifier of the load engines; instruction fetch has 0."""


class LoadJob(data.StructLayout):
    """A checked LOAD: what is wrong with it (`cause`), whether it reads `memory`, what to read, where to put it."""

    def __init__(self) -> None:
        super().__init__({"cause": 4, "memory": 1, "block": Block(), "place": PlaceJob()})


class LoadSetup(wiring.Component):
    """Checks the rules of LOAD and FILL that tie fields together, and works out what both sides of the engine need.

    That each field is in its range has been checked at dispatch.

    Timing
    ------
    Latency 2 cycles, one instruction a cycle.

    Parameters
    ----------
    arch : Arch

    Members
    -------
    i : In(stream of CommandLayout)
    o : Out(stream of LoadJob)
    busy : Out(1)   An instruction is inside.
    clear : In(1)   Forget the instructions inside.
    """

    LATENCY = 2

    def __init__(self, arch: Arch) -> None:
        self._arch = arch
        super().__init__(
            {
                "i": In(stream.Signature(CommandLayout())),
                "o": Out(stream.Signature(LoadJob())),
                "busy": Out(1),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """A register stage behind the beats of a row, another behind checks and the product that merges rows."""
        m = Module()
        command, row_beats = Signal(CommandLayout(), reset_less=True), Signal(32, reset_less=True)
        waiting, free = Signal(), ~self.o.valid | self.o.ready
        m.d.comb += [self.i.ready.eq(~waiting | free), self.busy.eq(waiting | self.o.valid)]
        with m.If(self.i.ready):
            m.d.sync += waiting.eq(self.i.valid)
        with m.If(self.i.ready & self.i.valid):
            load = operands_of(Opcode.LOAD, self.i.payload.operands)  # FILL has the same fields
            m.d.sync += [command.eq(self.i.payload), row_beats.eq(load.planes * load.beats)]
        job = Signal(LoadJob(), reset_less=True)
        m.d.comb += self.o.payload.eq(job)
        with m.If(free):
            m.d.sync += self.o.valid.eq(waiting)
        with m.If(free & waiting):
            self._derive(m, command.pc, operands_of(Opcode.LOAD, command.operands), row_beats, job)
        with m.If(self.clear):
            m.d.sync += [waiting.eq(0), self.o.valid.eq(0)]
        return m

    def _derive(self, m: Module, pc: Value, load: data.View, row_beats: Value, job: data.View) -> None:
        """Fill the job."""
        counts = merge_runs(
            self._arch,
            stride=load.row_stride,
            rows=load.rows,
            plane_stride=load.plane_stride,
            planes=load.planes,
            beats=load.beats,
            row_beats=row_beats[:16],
            block_beats=row_beats[:16] * load.rows,
        )
        m.d.sync += [job.cause.eq(self._cause(load, row_beats)), job.memory.eq(row_beats != 0)]
        m.d.sync += [job.block[name].eq(value) for name, value in counts.items()]
        m.d.sync += [
            job.block.pc.eq(pc),
            job.block.address.eq(load.dram_addr),
            job.block.stride.eq(load.row_stride),
            job.block.plane_stride.eq(load.plane_stride),
            job.place.pc.eq(pc),
            job.place.beats.eq(row_beats),
        ]
        m.d.sync += [job.place[name].eq(load[name]) for name in PlaceJob().members if name not in ("pc", "beats")]

    def _cause(self, load: data.View, row_beats: Value) -> Value:
        """The rule that a LOAD breaks."""
        array, total = self._arch.array, row_beats + load.pad
        low = (1 << beat_log2(self._arch)) - 1
        index_words = 4 // array.lanes
        odd = (load.target == Target.ACC32) & total[0]
        split = (load.target == Target.IDX) & (((load.addr | load.stride) & (index_words - 1)) != 0)
        round_size = Const(array.rows) << load.chunk_log2
        uneven = (load.target == Target.ACT_CHUNKS) & (load.stride != 0) & (round_size < array.cols)
        torn = (load.target == Target.PACKED) & ~_is_multiple_of_5(total[:16])
        return first_cause(
            (Cause.BAD_FIELD, (total == 0) | (total >= 1 << 16) | odd | split | uneven | torn),
            (Cause.MEMORY_ALIGNMENT, ((load.dram_addr | load.row_stride | load.plane_stride) & low) != 0),
        )


def _is_multiple_of_5(value: Value) -> Value:
    """Of 16 bits: 16 leaves 1 when divided by 5, so a number and the sum of its hexadecimal digits leave the same."""
    digits = sum((value.word_select(place, 4) for place in range(1, 4)), value[:4])[:6]
    digits = digits[:4] + digits[4:]
    return (digits == 0) | (digits == 5) | (digits == 10) | (digits == 15)


class LoadEngine(wiring.Component):
    """Executes LOAD, or FILL: bursts on the AXI read channels, pads, and the place of each beat.

    The request side runs ahead of the receive side by up to `queue_depth` instructions and `outstanding` bursts, so
    that consecutive instructions keep the bus busy. Errors are reported in program order, for the first beat that
    meets one; that beat and all later ones are not written. After an error, and while `stop`, what memory still
    sends is dropped, and `busy` falls when nothing is under way.

    Timing
    ------
    First `read.ar` 4 cycles after the command; a beat is offered on `beats` 1 cycle after it arrived; one beat a cycle,
    pads too. `done` pulses in the cycle in which the last beat is accepted.

    Parameters
    ----------
    arch : Arch
    opcode : Opcode     LOAD or FILL, which loads accumulator words alone.

    Members
    -------
    control : Out(EngineSignature) as seen from the engine
    read : Out(ReadSignature)           AXI master, identifier 1.
    beats : Out(stream of LoadBeat)
    """

    def __init__(self, arch: Arch, opcode: Opcode = Opcode.LOAD) -> None:
        self._arch, self._opcode = arch, opcode
        super().__init__(
            {
                "control": Out(EngineSignature()),
                "read": Out(ReadSignature(arch)),
                "beats": Out(stream.Signature(LoadBeat(arch))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Wire set-up, request side, receive side and error reports together."""
        m = Module()
        arch, control = self._arch, self.control
        m.submodules.setup = setup = LoadSetup(arch)
        m.submodules.bursts = bursts = BurstGenerator(arch)
        m.submodules.queue = queue = Queue(shape=PlaceJob(), depth=arch.control.queue_depth)
        m.submodules.placer = placer = BeatPlacer(arch, acc_only=self._opcode == Opcode.FILL)
        m.submodules.faults = faults = FaultReporter()
        wiring.connect(m, queue.o, placer.i)
        outstanding = Signal(range(arch.memory.outstanding + 1))

        # Command -> both sides.
        job = setup.o.payload
        good = setup.o.valid & (job.cause == Cause.NONE)
        m.d.comb += [
            setup.i.payload.eq(control.command.payload),
            setup.i.valid.eq(control.command.valid & ~faults.halt),
            control.command.ready.eq(setup.i.ready & ~faults.halt),
            bursts.i.payload.eq(job.block),
            bursts.i.valid.eq(good & job.memory & queue.i.ready),
            queue.i.payload.eq(job.place),
            queue.i.valid.eq(good & (bursts.i.ready | ~job.memory)),
            setup.o.ready.eq(good & queue.i.ready & (bursts.i.ready | ~job.memory)),
        ]
        m.d.comb += [part.clear.eq(faults.halt) for part in (setup, bursts, queue, placer)]

        self._request(m, bursts, outstanding, faults.halt)
        pending = self._receive(m, placer, outstanding, faults)

        # Faults that no beat carries wait until all before them is done.
        starved = placer.o.valid & placer.o.payload.memory & (outstanding == 0) & bursts.outside & ~self.beats.valid
        empty = ~placer.o.valid & (queue.level == 0) & ~pending & ~self.beats.valid
        with m.If(starved):
            m.d.comb += [faults.fault.eq(1), faults.cause.eq(Cause.MEMORY_ALIGNMENT), faults.pc.eq(placer.o.payload.pc)]
        with m.If(empty & setup.o.valid & ~good):
            m.d.comb += [faults.fault.eq(1), faults.cause.eq(job.cause), faults.pc.eq(job.place.pc)]
        drained = (outstanding == 0) & ~self.beats.valid
        m.d.comb += [
            faults.stop.eq(control.stop),
            faults.drained.eq(drained),
            control.error.eq(faults.error),
            control.error_valid.eq(faults.error_valid),
            control.busy.eq(setup.busy | ~empty | ~drained),
        ]
        return m

    def _request(self, m: Module, bursts: BurstGenerator, outstanding: Value, halt: Value) -> None:
        """Address register and the count of bursts from there to their last beat."""
        ar, r = self.read.ar, self.read.r
        do_request = Signal()
        do_last = r.valid & r.ready & r.payload.last
        m.d.comb += [
            bursts.o.ready.eq((~ar.valid | ar.ready) & (outstanding != self._arch.memory.outstanding) & ~halt),
            do_request.eq(bursts.o.valid & bursts.o.ready),
            ar.payload.id.eq(READ_ID),
        ]
        with m.If(ar.ready):
            m.d.sync += ar.valid.eq(0)
        with m.If(do_request):
            m.d.sync += [
                ar.valid.eq(1),
                ar.payload.addr.eq(bursts.o.payload.address),
                ar.payload.len.eq(bursts.o.payload.len),
            ]
        m.d.sync += outstanding.eq(outstanding + do_request - do_last)

    def _receive(self, m: Module, placer: BeatPlacer, outstanding: Value, faults: FaultReporter) -> Value:
        """Join places with beats and padding in the output register; gives whether an instruction's end is in there."""
        r, beats, place = self.read.r, self.beats, placer.o.payload
        pending = Signal()
        free = ~beats.valid | beats.ready
        do_place = placer.o.valid & (r.valid | ~place.memory) & free & ~faults.halt
        failed = place.memory & r.payload.resp[1]
        bad = failed | place.outside
        m.d.comb += [
            placer.o.ready.eq(do_place),
            r.ready.eq(faults.halt | (placer.o.valid & place.memory & free)),
            self.control.done.eq(pending & free & ~faults.halt),
            faults.fault.eq(do_place & bad),
            faults.cause.eq(Mux(failed, Cause.READ_RESPONSE, Cause.SCRATCHPAD_RANGE)),
            faults.pc.eq(place.pc),
        ]
        with m.If(free):
            m.d.sync += [
                beats.valid.eq(do_place & ~bad & ~place.drop),
                pending.eq(do_place & ~bad & place.last),
            ]
        with m.If(do_place):
            m.d.sync += beats.payload.data.eq(Mux(place.memory, r.payload.data, 0))
            m.d.sync += [beats.payload[name].eq(place[name]) for name in PLACE_FIELDS]
        return pending

# amaranth: UnusedElaboratable=no
"""Vector engine: elementwise work on blocks of accumulator words."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch import Arch
from hwgen.arch.isa import INTEGER, READS_X, READS_Z, Cause, Opcode, Operation
from hwgen.lib.pipeline import delay
from hwgen.lib.shapes import PC_BITS, WORD_BITS, AccRead, AccWrite, EngineSignature
from hwgen.lib.shared import Shared
from hwgen.lib.streams import Queue
from hwgen.memory.faults import FaultReporter, first_cause, operands_of
from hwgen.memory.walk import BlockWalker
from hwgen.vector.curve import CurveWrite
from hwgen.vector.lane import LaneControl, VectorLane

SOURCES = ("x", "y", "z")
"""Operands that are read, the most urgent first; also the first blocks of the walk, before d."""


class Setting(data.StructLayout):
    """How results are computed: for every lane, and on the way there."""

    def __init__(self) -> None:
        super().__init__({"lane": LaneControl(), "shuffle": 3})


class Job(data.StructLayout):
    """A VECTOR under way.

    reads, once : sources that it reads, those that never change. bad : it is illegal. beyond : its curve lies outside
    the table.
    """

    def __init__(self) -> None:
        bits = len(SOURCES)
        super().__init__({"pc": PC_BITS, "setting": Setting(), "reads": bits, "once": bits, "bad": 1, "beyond": 1})


class VectorEngine(wiring.Component):
    """Executes VECTOR: walks over the blocks of x, y, z and d word by word, works on all columns of a word at once.

    A step reads a word of each source that the operation reads, in any order, and d is written in the order of steps.
    A source with hold and stride 0 is the same word throughout and is read in the first step only.
    An instruction takes its first step after the last write of the one before, because it may read what that wrote;
    its command is taken while those writes are under way.
    After an error, and while `stop`, words that have been read are written and `busy` falls.

    Timing
    ------
    A command is taken in any cycle after the last step of the one before (or in the first of all). If it is taken in
    cycle c, and the one before makes its last write in cycle w, the first reads are offered in cycle max(c, w) + 1.
    `done` pulses in cycle w.

    In a step every source has its request up until it is accepted; the step ends with the last of them, and the next
    one begins in the following cycle: one step a cycle if the sources lie in different banks that nobody else uses.
    Its word is written `latency` cycles later. Words that a refused write holds up wait in a queue with room for all
    that is under way at one a cycle, `latency + 1`; while it is full no step begins.

    n steps that are never refused take n - 1 + `latency` cycles from the first reads to the last write; instructions
    of n steps follow one another in n + `latency` cycles.

    An illegal instruction is reported in the cycle after its first step would have begun, a word outside the
    scratchpad in the cycle after its step would have: the steps before it are written.

    Parameters
    ----------
    arch : Arch

    Members
    -------
    control : Out(EngineSignature) as seen from the engine
    x, y, z : Out(AccRead)
    d : Out(AccWrite)
    curve : In(CurveWrite)   Into the tables of all lanes, a cycle later; only if vector.curve_entries is not 0.
    """

    def __init__(self, arch: Arch) -> None:
        self._arch = arch
        sizes = {name: getattr(arch.vector, name) for name in ("mul_latency", "add_latency", "curve_entries")}
        self._lanes = [Shared(VectorLane, **sizes) for _ in range(arch.array.cols)]
        super().__init__(
            {"control": Out(EngineSignature())}
            | {name: Out(AccRead(arch)) for name in SOURCES}
            | {"d": Out(AccWrite(arch))}
            | ({"curve": In(CurveWrite())} if arch.vector.curve_entries else {})
        )

    @property
    def latency(self) -> int:
        """Cycles from the last accepted read of a step to its write: read, operand register, lane, result queue."""
        return AccRead.LATENCY + 1 + self._lanes[0].component.latency + Queue.LATENCY

    def elaborate(self, platform: object) -> Module:
        """Wire walk, lanes, result queue and error reports together."""
        m = Module()
        control, depth = self.control, self.latency + 1
        m.submodules.walker = walker = BlockWalker(blocks=len(SOURCES) + 1)
        m.submodules.places = places = Queue(shape=data.StructLayout({"address": WORD_BITS, "last": 1}), depth=depth)
        m.submodules.results = results = Queue(shape=32 * self._arch.array.cols, depth=depth)
        m.submodules.faults = faults = FaultReporter()
        drained = places.level == 0
        job = self._take(m, walker, faults.halt)
        # What is under way keeps its setting.
        setting = Signal(Setting(), reset_less=True)
        with m.If(drained):
            m.d.sync += setting.eq(job.setting)

        do_step = self._read(m, walker, places, job, faults)
        self._compute(m, do_step, setting, results)
        self._write(m, places, results, faults.halt)
        m.d.comb += [
            control.busy.eq(walker.o.valid | ~drained),
            faults.stop.eq(control.stop),
            faults.drained.eq(drained),
            control.error.eq(faults.error),
            control.error_valid.eq(faults.error_valid),
        ]
        return m

    def _take(self, m: Module, walker: BlockWalker, halt: Value) -> data.View:
        """Give a command to the walker as soon as that has nothing to do; the rest of it is the result."""
        command, walk = self.control.command, walker.i.payload
        vector = operands_of(Opcode.VECTOR, command.payload.operands)
        m.d.comb += [
            command.ready.eq(~walker.o.valid & ~halt),
            walker.i.valid.eq(command.valid & command.ready),
            walker.clear.eq(halt),
            walk.rows.eq(vector.rows),
            walk.words.eq(vector.words),
        ]
        for corner, name in zip(walk.corners, (*SOURCES, "d")):
            m.d.comb += [corner.addr.eq(vector[f"{name}_addr"]), corner.stride.eq(vector[f"{name}_stride"])]
            if name in SOURCES:
                m.d.comb += corner.hold.eq(vector[f"{name}_hold"])

        job = Signal(Job(), reset_less=True)
        with m.If(command.ready):
            m.d.sync += [job.pc.eq(command.payload.pc), *self._describe(job, vector)]
        return job

    def _describe(self, job: data.View, vector: data.View) -> list:
        """What a VECTOR does, and whether it breaks a rule that ties fields together."""
        operation = vector.operation
        too_far = vector.shuffle >= self._arch.array.cols.bit_length()
        curve, size = operation == Operation.CURVE, vector.y_stride
        shifted = ((vector.shift != 0) & ~curve | vector.right) & ~_is_in(operation, INTEGER)
        uneven = (size < 2) | ((size & (size - 1)) != 0) | ((vector.y_addr & (size - 1)) != 0)
        return [
            *(job.setting.lane[name].eq(vector[name]) for name, _ in LaneControl()),
            job.setting.shuffle.eq(vector.shuffle),
            job.reads.eq(Cat(1, ~_is_in(operation, READS_X), _is_in(operation, READS_Z))),
            job.once.eq(Cat(vector[f"{name}_hold"] & (vector[f"{name}_stride"] == 0) for name in SOURCES)),
            job.bad.eq(too_far | shifted | (curve & uneven)),
            job.beyond.eq(curve & (vector.y_addr + size > self._arch.vector.curve_entries)),
        ]

    def _read(self, m: Module, walker: BlockWalker, places: Queue, job: data.View, faults: FaultReporter) -> Value:
        """Request the words of a step; gives whether the last of them has just been accepted."""
        step, depth = walker.o.payload, self._arch.scratchpads.acc_depth
        begins = walker.o.valid & (~step.first | (places.level == 0))
        outside = job.beyond | Cat(used & (word >= depth) for used, word in zip([*job.reads, 1], step.words)).any()
        wanted = begins & places.i.ready & ~job.bad & ~outside & ~faults.halt
        taken, arrived = Signal(len(SOURCES)), []
        for index, name in enumerate(SOURCES):
            port, needed = getattr(self, name), job.reads[index] & (step.first | ~job.once[index])
            m.d.comb += [port.address.eq(step.words[index]), port.valid.eq(wanted & needed & ~taken[index])]
            arrived.append(~needed | taken[index] | port.ready)
        do_step = wanted & Cat(arrived).all()
        m.d.sync += taken.eq(Mux(do_step, 0, Cat(arrived) & wanted.replicate(len(SOURCES))))
        m.d.comb += [
            walker.o.ready.eq(do_step),
            places.i.valid.eq(do_step),
            places.i.payload.address.eq(step.words[len(SOURCES)]),
            places.i.payload.last.eq(step.last),
            faults.fault.eq(begins & (job.bad | outside)),
            faults.cause.eq(first_cause((Cause.BAD_FIELD, job.bad), (Cause.SCRATCHPAD_RANGE, outside))),
            faults.pc.eq(job.pc),
        ]
        return do_step

    def _compute(self, m: Module, do_step: Value, setting: data.View, results: Queue) -> None:
        """Keep each operand when it arrives; one cycle after the last of a step they go into the lanes."""
        operands = {name: self._operand(m, name, setting.shuffle) for name in SOURCES}
        has_table = self._arch.vector.curve_entries != 0
        write = delay(m, self.curve, 1, "curve", reset=True) if has_table else None
        outputs = []
        for col, lane in enumerate(self._lanes):
            m.submodules[f"lane_{col}"] = lane
            m.d.comb += [getattr(lane, name).eq(operands[name][col]) for name in SOURCES]
            m.d.comb += lane.control.eq(setting.lane)
            if write is not None:
                m.d.comb += lane.curve.eq(write)
            outputs.append(lane.o)
        cycles = self.latency - Queue.LATENCY
        m.d.comb += [
            results.i.valid.eq(delay(m, do_step, cycles, "step", reset=True)),
            results.i.payload.eq(Cat(outputs)),
        ]

    def _operand(self, m: Module, name: str, shuffle: Value) -> list[Signal]:
        """Registers of a source, one for each column; they keep what they have until the next word arrives."""
        port, cols = getattr(self, name), self._arch.array.cols
        arrives = delay(m, port.valid & port.ready, AccRead.LATENCY, f"{name}_arrives", reset=True)
        operand = []
        for col in range(cols):
            register = Signal(32, name=f"{name}_{col}", reset_less=True)
            word = Signal(32, name=f"{name}_word_{col}")
            m.d.comb += word.eq(port.data.word_select(col, 32))
            if name == "y":
                with m.Switch(shuffle):
                    for bit in range(cols.bit_length() - 1):
                        with m.Case(bit + 1):
                            m.d.comb += word.eq(port.data.word_select(col ^ 1 << bit, 32))
            with m.If(arrives):
                m.d.sync += register.eq(word)
            operand.append(register)
        return operand

    def _write(self, m: Module, places: Queue, results: Queue, halt: Value) -> None:
        """Write results in order."""
        m.d.comb += [
            self.d.valid.eq(results.o.valid),
            self.d.address.eq(places.o.payload.address),
            self.d.data.eq(results.o.payload),
            self.d.halves.eq(0b11),
            results.o.ready.eq(self.d.ready),
            places.o.ready.eq(results.o.valid & self.d.ready),
            self.control.done.eq(results.o.valid & self.d.ready & places.o.payload.last & ~halt),
        ]


def _is_in(operation: Value, codes: frozenset[Operation]) -> Value:
    """Whether an operation is one of `codes`."""
    return Cat(operation == code for code in sorted(codes)).any()

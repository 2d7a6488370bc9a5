# amaranth: UnusedElaboratable=no
"""Vector engine: elementwise work on blocks of accumulator words."""

import itertools

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value
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
from hwgen.vector.operands import SOURCES, Arrival, operand_registers
from hwgen.vector.split import last_word, shares


class Setting(data.StructLayout):
    """How results are computed: for every lane, and on the way there."""

    def __init__(self) -> None:
        super().__init__({"lane": LaneControl(), "shuffle": 3})


class Job(data.StructLayout):
    """A VECTOR under way.

    reads, once : sources that it reads, those that never change. origin : for each source the first one that is the
    same block. bad : it is illegal. beyond : its curve lies outside the table.
    """

    def __init__(self) -> None:
        bits = len(SOURCES)
        origin = data.ArrayLayout(range(bits), bits)
        sources = {"reads": bits, "once": bits, "origin": origin}
        super().__init__({"pc": PC_BITS, "setting": Setting(), **sources, "bad": 1, "beyond": 1})


class Place(data.StructLayout):
    """Where the words of a step go: first address, whether there are two words, whether the instruction ends."""

    def __init__(self) -> None:
        super().__init__({"address": WORD_BITS, "pair": 1, "last": 1})


class VectorEngine(wiring.Component):
    """Executes VECTOR: walks over the blocks of x, y, z and d in steps of `vector.words` words of a row (the last one
    may have one word), works on all columns of the words at once.

    A step reads its words of each source that the operation reads, in any order, and d is written in the order of
    steps. A source with hold is one word of a step; with stride 0 too it is the same word throughout and is read in the
    first step only. A source with the address, stride and hold of an earlier one is not read, it takes the same words.
    An instruction takes its first step after the last write of the one before, because it may read what that wrote;
    its command is taken while those writes are under way.
    After an error, and while `stop`, words that have been read are written and `busy` falls.

    Timing
    ------
    A command is taken in any cycle after the last step of the one before (or in the first of all). If it is taken in
    cycle c, and the one before makes its last write in cycle w, the first reads are offered in cycle max(c, w) + 1.
    `done` pulses in cycle w.

    In a step every source has its requests up until they are accepted; the step ends with the last of them, and the
    next one begins in the following cycle: one step a cycle if the sources lie in different banks that nobody else
    uses. Its words are written `latency` cycles later. Steps that a refused write holds up wait in a queue with room
    for all that is under way at one a cycle, `latency + 1`; while it is full no step begins.

    n steps that are never refused take n - 1 + `latency` cycles from the first reads to the last write; instructions
    of n steps follow one another in n + `latency` cycles.

    An illegal instruction is reported in the cycle after its first step would have begun, a word outside the
    scratchpad in the cycle after its step would have: the steps before it are written, nothing of the step is.

    Parameters
    ----------
    arch : Arch

    Members
    -------
    control : Out(EngineSignature) as seen from the engine
    x, y, z : Out(AccRead), `vector.words` of each; of two, port h has words whose address modulo 2 is h
    d : Out(AccWrite), as many
    curve : In(CurveWrite)   Into the tables of all lanes, a cycle later; only if vector.curve_entries is not 0.
    """

    def __init__(self, arch: Arch) -> None:
        self._arch = arch
        sizes = {name: getattr(arch.vector, name) for name in ("mul_latency", "add_latency", "curve_entries")}
        self._lanes = [Shared(VectorLane, **sizes) for _ in range(arch.vector.words * arch.array.cols)]
        self._pace = pace = arch.vector.words
        super().__init__(
            {"control": Out(EngineSignature())}
            | {name: Out(AccRead(arch)).array(pace) for name in SOURCES}
            | {"d": Out(AccWrite(arch)).array(pace)}
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
        m.submodules.walker = walker = BlockWalker(blocks=len(SOURCES) + 1, pace=self._pace)
        m.submodules.places = places = Queue(shape=Place(), depth=depth)
        m.submodules.results = results = Queue(shape=32 * self._pace * self._arch.array.cols, depth=depth)
        m.submodules.faults = faults = FaultReporter()
        drained = places.level == 0
        job = self._take(m, walker, faults.halt)
        # What is under way keeps its setting.
        setting = Signal(Setting(), reset_less=True)
        with m.If(drained):
            m.d.sync += setting.eq(job.setting)

        do_step, arrivals = self._read(m, walker, places, job, faults)
        self._compute(m, do_step, arrivals, setting, results)
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
        used = Cat(1, ~_is_in(operation, READS_X), _is_in(operation, READS_Z))
        origins = _first_equals([Cat(vector[f"{n}_addr"], vector[f"{n}_stride"], vector[f"{n}_hold"]) for n in SOURCES])
        return [
            *(job.setting.lane[name].eq(vector[name]) for name, _ in LaneControl()),
            job.setting.shuffle.eq(vector.shuffle),
            job.reads.eq(used & Cat(origin == index for index, origin in enumerate(origins))),
            *(job.origin[index].eq(origin) for index, origin in enumerate(origins)),
            job.once.eq(Cat(vector[f"{name}_hold"] & (vector[f"{name}_stride"] == 0) for name in SOURCES)),
            job.bad.eq(too_far | shifted | (curve & uneven)),
            job.beyond.eq(curve & (vector.y_addr + size > self._arch.vector.curve_entries)),
        ]

    def _read(
        self, m: Module, walker: BlockWalker, places: Queue, job: data.View, faults: FaultReporter
    ) -> tuple[Value, list[Arrival]]:
        """Request the words of a step; gives whether the last of them has just been accepted, and where they arrive."""
        step, depth, d = walker.o.payload, self._arch.scratchpads.acc_depth, len(SOURCES)
        begins = walker.o.valid & (~step.first | (places.level == 0))
        words = [last_word(word, step.pair, hold) for word, hold in zip(step.words, step.holds)]
        outside = job.beyond | Cat(used & (word >= depth) for used, word in zip([*job.reads, 1], words)).any()
        wanted = begins & places.i.ready & ~job.bad & ~outside & ~faults.halt
        arrived, arrivals = self._request(m, step, job, wanted)
        do_step = wanted & arrived
        m.d.comb += [
            walker.o.ready.eq(do_step),
            places.i.valid.eq(do_step),
            places.i.payload.address.eq(step.words[d]),
            places.i.payload.pair.eq(step.pair),
            places.i.payload.last.eq(step.last),
            faults.fault.eq(begins & (job.bad | outside)),
            faults.cause.eq(first_cause((Cause.BAD_FIELD, job.bad), (Cause.SCRATCHPAD_RANGE, outside))),
            faults.pc.eq(job.pc),
        ]
        return do_step, arrivals

    def _request(self, m: Module, step: data.View, job: data.View, wanted: Value) -> tuple[Value, list[Arrival]]:
        """Offer what has not been accepted of the step; gives whether the rest is, and where the words arrive."""
        taken, arrived, arrivals = Signal(len(SOURCES) * self._pace), [], []
        for index, name in enumerate(SOURCES):
            needed = job.reads[index] & (step.first | ~job.once[index])
            parts = shares(step.words[index], step.pair, step.holds[index], self._pace)
            for port, share in zip(getattr(self, name), parts):
                asked, before = needed & share.words.any(), taken[len(arrived)]
                m.d.comb += [port.address.eq(share.address), port.valid.eq(wanted & asked & ~before)]
                arrived.append(~asked | before | port.ready)
                arrivals.append(Arrival(m, port, index, share.words, job.origin))
        everything = Cat(arrived).all()
        m.d.sync += taken.eq(Mux(everything, 0, Cat(arrived) & wanted.replicate(len(taken))))
        return everything, arrivals

    def _compute(self, m: Module, do_step: Value, arrivals: list[Arrival], setting: data.View, results: Queue) -> None:
        """Keep each operand when it arrives; one cycle after the last of a step they go into the lanes."""
        operands = [[] for _ in SOURCES]
        for index, word in itertools.product(range(len(SOURCES)), range(self._pace)):
            operands[index] += operand_registers(m, index, word, arrivals, setting.shuffle, self._arch.array.cols)
        has_table = self._arch.vector.curve_entries != 0
        write = delay(m, self.curve, 1, "curve", reset=True) if has_table else None
        outputs = []
        for number, lane in enumerate(self._lanes):
            m.submodules[f"lane_{number}"] = lane
            m.d.comb += [getattr(lane, name).eq(operand[number]) for name, operand in zip(SOURCES, operands)]
            m.d.comb += lane.control.eq(setting.lane)
            if write is not None:
                m.d.comb += lane.curve.eq(write)
            outputs.append(lane.o)
        cycles = self.latency - Queue.LATENCY
        m.d.comb += [
            results.i.valid.eq(delay(m, do_step, cycles, "step", reset=True)),
            results.i.payload.eq(Cat(outputs)),
        ]

    def _write(self, m: Module, places: Queue, results: Queue, halt: Value) -> None:
        """Write results in order, the words of a step together or, if one is refused, one after the other."""
        place, bits = places.o.payload, 32 * self._arch.array.cols
        written, arrived = Signal(self._pace), []
        for port, share in zip(self.d, shares(place.address, place.pair, C(0, 1), self._pace)):
            asked, before = share.words.any(), written[len(arrived)]
            words = [results.o.payload.word_select(word, bits) for word in range(self._pace)]
            m.d.comb += [
                port.valid.eq(results.o.valid & asked & ~before),
                port.address.eq(share.address),
                port.data.eq(Mux(share.words[0], words[0], words[-1])),
                port.halves.eq(0b11),
            ]
            arrived.append(~asked | before | port.ready)
        everything = Cat(arrived).all()
        m.d.sync += written.eq(Mux(everything, 0, Cat(arrived) & results.o.valid.replicate(self._pace)))
        m.d.comb += [
            results.o.ready.eq(everything),
            places.o.ready.eq(results.o.valid & everything),
            self.control.done.eq(results.o.valid & everything & place.last & ~halt),
        ]


def _first_equals(blocks: list[Value]) -> list[Value]:
    """For each block the number of the first one that is equal to it."""
    origins = []
    for index, block in enumerate(blocks):
        origin = C(index, range(len(blocks)))
        for earlier in reversed(range(index)):
            origin = Mux(block == blocks[earlier], earlier, origin)
        origins.append(origin)
    return origins


def _is_in(operation: Value, codes: frozenset[Operation]) -> Value:
    """Whether an operation is one of `codes`."""
    return Cat(operation == code for code in sorted(codes)).any()

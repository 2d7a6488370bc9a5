"""Vector engine: elementwise FP32 work on blocks of accumulator words."""

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch import Arch
from hwgen.arch.isa import Cause, Opcode
from hwgen.lib.shapes import PC_BITS, WORD_BITS, AccRead, AccWrite, CommandLayout, EngineSignature
from hwgen.lib.shared import Shared
from hwgen.lib.streams import Queue
from hwgen.memory.faults import FaultReporter, first_cause, operands_of, out_of_table
from hwgen.memory.walk import BlockWalker, Walk
from hwgen.vector.lane import VectorLane

BLOCKS = ("x", "y", "d")
"""Blocks of a VECTOR in the order in which the walker visits them."""


class VectorJob(data.StructLayout):
    """A checked VECTOR: what is wrong with it (`cause`), what to do, and the blocks x, y, d."""

    def __init__(self) -> None:
        super().__init__({"pc": PC_BITS, "cause": 4, "add": 1, "relu": 1, "walk": Walk(len(BLOCKS))})


class VectorSetup(wiring.Component):
    """Checks a VECTOR and arranges its fields.

    Timing
    ------
    Latency 1 cycle, one instruction a cycle.

    Members
    -------
    i : In(stream of CommandLayout)
    o : Out(stream of VectorJob)
    clear : In(1)   Forget the job that waits.
    """

    LATENCY = 1

    i: In(stream.Signature(CommandLayout()))
    o: Out(stream.Signature(VectorJob()))
    clear: In(1)

    def elaborate(self, platform: object) -> Module:
        """One register stage behind the checks."""
        m = Module()
        vector = operands_of(Opcode.VECTOR, self.i.payload.operands)
        job = Signal(VectorJob(), reset_less=True)
        m.d.comb += [self.i.ready.eq(~self.o.valid | self.o.ready), self.o.payload.eq(job)]
        with m.If(self.i.ready):
            m.d.sync += self.o.valid.eq(self.i.valid)
        with m.If(self.i.ready & self.i.valid):
            m.d.sync += [
                job.pc.eq(self.i.payload.pc),
                job.cause.eq(first_cause((Cause.BAD_FIELD, out_of_table(Opcode.VECTOR, vector)))),
                job.add.eq(vector.add),
                job.relu.eq(vector.relu),
                job.walk.rows.eq(vector.rows),
                job.walk.words.eq(vector.words),
            ]
            for index, name in enumerate(BLOCKS):
                corner = job.walk.corners[index]
                m.d.sync += [corner.addr.eq(vector[f"{name}_addr"]), corner.stride.eq(vector[f"{name}_stride"])]
        with m.If(self.clear):
            m.d.sync += self.o.valid.eq(0)
        return m


class VectorEngine(wiring.Component):
    """Executes VECTOR: reads words of x and y, works on all columns at once, writes words of d in the same order.

    The next instruction starts when the last word of this one is written, because it may read what this one wrote.
    After an error, and while `stop`, words that have been read are written and `busy` falls.

    Timing
    ------
    First read 2 cycles after the command. A word is written `latency` cycles after its later operand was accepted; one
    word a cycle when x, y and d lie in different banks. When the scratchpad refuses writes, reads pause; what they
    return has room.

    Parameters
    ----------
    arch : Arch

    Members
    -------
    control : Out(EngineSignature) as seen from the engine
    x, y : Out(AccRead)
    d : Out(AccWrite)
    """

    def __init__(self, arch: Arch) -> None:
        self._arch = arch
        super().__init__(
            {
                "control": Out(EngineSignature()),
                "x": Out(AccRead(arch)),
                "y": Out(AccRead(arch)),
                "d": Out(AccWrite(arch)),
            }
        )

    @property
    def latency(self) -> int:
        """Cycles from an accepted read to the write of its result: read, operand register, lane, result queue."""
        return AccRead.LATENCY + 1 + self._arch.array.add_latency + Queue.LATENCY

    def elaborate(self, platform: object) -> Module:
        """Wire set-up, walk, lanes, result queue and error reports together."""
        m = Module()
        arch, control = self._arch, self.control
        # Room for every word between read and write at one word a cycle, plus the cycle in which a place becomes free.
        depth = self.latency + 1
        m.submodules.setup = setup = VectorSetup()
        m.submodules.walker = walker = BlockWalker(blocks=len(BLOCKS))
        m.submodules.places = places = Queue(shape=data.StructLayout({"address": WORD_BITS, "last": 1}), depth=depth)
        m.submodules.results = results = Queue(shape=32 * arch.array.cols, depth=depth)
        m.submodules.faults = faults = FaultReporter()
        mode = Signal(data.StructLayout({"pc": PC_BITS, "add": 1, "relu": 1}), reset_less=True)
        job = setup.o.payload
        idle = ~walker.o.valid & (places.level == 0)
        good = setup.o.valid & (job.cause == Cause.NONE)
        m.d.comb += [
            setup.i.payload.eq(control.command.payload),
            setup.i.valid.eq(control.command.valid & ~faults.halt),
            control.command.ready.eq(setup.i.ready & ~faults.halt),
            setup.o.ready.eq(good & idle),
            setup.clear.eq(faults.halt),
            walker.i.payload.eq(job.walk),
            walker.i.valid.eq(good & idle),
            walker.clear.eq(faults.halt),
            control.busy.eq(setup.o.valid | ~idle),
        ]
        with m.If(good & idle):
            m.d.sync += [mode.pc.eq(job.pc), mode.add.eq(job.add), mode.relu.eq(job.relu)]

        do_pair = self._read(m, walker, places, mode, faults)
        self._compute(m, do_pair, mode, results)
        self._write(m, places, results, faults.halt)
        with m.If(idle & setup.o.valid & ~good):
            m.d.comb += [faults.fault.eq(1), faults.cause.eq(job.cause), faults.pc.eq(job.pc)]
        m.d.comb += [
            faults.stop.eq(control.stop),
            faults.drained.eq(places.level == 0),
            control.error.eq(faults.error),
            control.error_valid.eq(faults.error_valid),
        ]
        return m

    def _read(self, m: Module, walker: BlockWalker, places: Queue, mode: data.View, faults: FaultReporter) -> Value:
        """Request both operands of a step, in any order; gives whether the later one has just been accepted."""
        step = walker.o.payload
        x_taken, y_taken = Signal(), Signal()
        beyond = [step.words[index] >= self._arch.scratchpads.acc_depth for index in range(len(BLOCKS))]
        outside = beyond[0] | (beyond[1] & mode.add) | beyond[2]
        wanted = walker.o.valid & places.i.ready & ~outside & ~faults.halt
        x_done = x_taken | (self.x.valid & self.x.ready)
        y_done = y_taken | (self.y.valid & self.y.ready) | ~mode.add
        do_pair = wanted & x_done & y_done
        m.d.comb += [
            self.x.address.eq(step.words[0]),
            self.x.valid.eq(wanted & ~x_taken),
            self.y.address.eq(step.words[1]),
            self.y.valid.eq(wanted & mode.add & ~y_taken),
            walker.o.ready.eq(do_pair),
            places.i.valid.eq(do_pair),
            places.i.payload.address.eq(step.words[2]),
            places.i.payload.last.eq(step.last),
            faults.fault.eq(walker.o.valid & outside),
            faults.cause.eq(Cause.SCRATCHPAD_RANGE),
            faults.pc.eq(mode.pc),
        ]
        waiting = wanted & ~do_pair
        m.d.sync += [x_taken.eq(waiting & x_done), y_taken.eq(waiting & mode.add & y_done)]
        return do_pair

    def _compute(self, m: Module, do_pair: Value, mode: data.View, results: Queue) -> None:
        """Keep each operand when it arrives; one cycle after the later one the pair goes into the lanes."""
        operands = []
        for name, port in (("x", self.x), ("y", self.y)):
            arrived = _delay(m, port.valid & port.ready, AccRead.LATENCY, name)
            operand = Signal(len(port.data), name=f"{name}_operand", reset_less=True)
            with m.If(arrived):
                m.d.sync += operand.eq(port.data)
            operands.append(operand)
        x, y = operands
        outputs = []
        for col in range(self._arch.array.cols):
            lane = Shared(VectorLane, add_latency=self._arch.array.add_latency)
            m.submodules[f"lane_{col}"] = lane
            m.d.comb += [
                lane.x.eq(x.word_select(col, 32)),
                lane.y.eq(y.word_select(col, 32)),
                lane.add.eq(mode.add),
                lane.relu.eq(mode.relu),
            ]
            outputs.append(lane.o)
        m.d.comb += [
            results.i.valid.eq(_delay(m, do_pair, AccRead.LATENCY + 1 + lane.component.latency, "pair")),
            results.i.payload.eq(Cat(outputs)),
        ]

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


def _delay(m: Module, flag: Value, cycles: int, name: str) -> Value:
    """A flag `cycles` cycles later."""
    for stage in range(cycles):
        later = Signal(name=f"{name}_after_{stage + 1}")
        m.d.sync += later.eq(flag)
        flag = later
    return flag

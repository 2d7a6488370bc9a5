"""Vector engine: elementwise FP32 work on blocks of accumulator words."""

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import Out

from hwgen.arch import Arch
from hwgen.arch.isa import Cause, Opcode
from hwgen.lib.shapes import PC_BITS, WORD_BITS, AccRead, AccWrite, EngineSignature
from hwgen.lib.shared import Shared
from hwgen.lib.streams import Queue
from hwgen.memory.faults import FaultReporter, operands_of
from hwgen.memory.walk import BlockWalker
from hwgen.vector.lane import VectorLane

BLOCKS = ("x", "y", "d")
"""Blocks of a VECTOR in the order in which the walker visits them."""


class VectorEngine(wiring.Component):
    """Executes VECTOR: reads words of x and y, works on all columns at once, writes words of d in the same order.

    The next instruction starts when the last word of this one is written, because it may read what this one wrote.
    After an error, and while `stop`, words that have been read are written and `busy` falls.

    Timing
    ------
    First read 1 cycle after the command. A word is written `latency` cycles after its later operand was accepted; one
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
        """Wire walk, lanes, result queue and error reports together."""
        m = Module()
        arch, control = self._arch, self.control
        # Room for every word between read and write at one word a cycle, plus the cycle in which a place becomes free.
        depth = self.latency + 1
        m.submodules.walker = walker = BlockWalker(blocks=len(BLOCKS))
        m.submodules.places = places = Queue(shape=data.StructLayout({"address": WORD_BITS, "last": 1}), depth=depth)
        m.submodules.results = results = Queue(shape=32 * arch.array.cols, depth=depth)
        m.submodules.faults = faults = FaultReporter()
        mode = Signal(data.StructLayout({"pc": PC_BITS, "add": 1, "relu": 1}), reset_less=True)
        idle = ~walker.o.valid & (places.level == 0)
        accept = idle & ~faults.halt
        vector, walk = operands_of(Opcode.VECTOR, control.command.payload.operands), walker.i.payload

        m.d.comb += [
            control.command.ready.eq(accept),
            control.busy.eq(~idle),
            walker.i.valid.eq(control.command.valid & accept),
            walker.clear.eq(faults.halt),
            walk.rows.eq(vector.rows),
            walk.words.eq(vector.words),
        ]
        for index, name in enumerate(BLOCKS):
            corner = walk.corners[index]
            m.d.comb += [corner.addr.eq(vector[f"{name}_addr"]), corner.stride.eq(vector[f"{name}_stride"])]
        with m.If(accept):
            m.d.sync += [mode.pc.eq(control.command.payload.pc), mode.add.eq(vector.add), mode.relu.eq(vector.relu)]

        do_pair = self._read(m, walker, places, mode, faults)
        self._compute(m, do_pair, mode, results)
        self._write(m, places, results, faults.halt)
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

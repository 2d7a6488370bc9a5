"""What the engines share about commands and errors: fields, the first cause that holds, and the way an engine stops."""

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.isa import Cause, Opcode
from hwgen.lib.shapes import PC_BITS, ErrorLayout, operand_layout


def operands_of(opcode: Opcode, bits: Value) -> data.View:
    """View the operand bits of a command as the fields of `opcode`."""
    layout = operand_layout(opcode)
    return data.View(layout, bits[: layout.size])


def first_cause(*checks: tuple[Cause, Value]) -> Value:
    """Cause of the first check that holds, `Cause.NONE` if none does."""
    found = Const(Cause.NONE, 4)
    for cause, holds in reversed(checks):
        found = Mux(holds, Const(cause, 4), found)
    return found


class FaultReporter(wiring.Component):
    """Reports the first fault of an engine and holds the engine still until the run has ended.

    Timing
    ------
    `error_valid` pulses 1 cycle after `fault`; `halt` is high from then on, or from the cycle in which `stop` rises,
    until `stop` has risen and fallen and the engine is drained.

    Members
    -------
    fault : In(1)      The engine met an error in this cycle; ignored while `halt`.
    cause, pc : In     What and where.
    stop : In(1)       From `EngineSignature`.
    drained : In(1)    No transfer is under way.
    error : Out(ErrorLayout), error_valid : Out(1)   For `EngineSignature`.
    halt : Out(1)      Start nothing, drop what has not started, pulse no `done`.
    """

    LATENCY = 1

    fault: In(1)
    cause: In(4)
    pc: In(PC_BITS)
    stop: In(1)
    drained: In(1)
    error: Out(ErrorLayout())
    error_valid: Out(1)
    halt: Out(1)

    def elaborate(self, platform: object) -> Module:
        """Two flags: `halted`, and whether our own error still has to come back as `stop`."""
        m = Module()
        halted, own = Signal(), Signal()
        report = self.fault & ~self.halt
        m.d.comb += self.halt.eq(halted | self.stop)
        m.d.sync += self.error_valid.eq(report)
        with m.If(report):
            m.d.sync += [self.error.cause.eq(self.cause), self.error.pc.eq(self.pc), halted.eq(1), own.eq(1)]
        with m.Elif(self.stop):
            m.d.sync += [halted.eq(1), own.eq(0)]
        with m.Elif(self.drained & ~own):
            m.d.sync += halted.eq(0)
        return m

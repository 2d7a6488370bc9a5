"""Start, end, first error and watchdog of a run."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.isa import Cause
from hwgen.control.words import REGISTER_BITS
from hwgen.lib.shapes import PC_BITS, ErrorLayout


class Fault(data.StructLayout):
    """An error with the engine that met it, as the STATUS and ERROR_PC registers hold it."""

    def __init__(self) -> None:
        super().__init__({"cause": ErrorLayout()["cause"].shape, "engine": 8, "pc": PC_BITS})


class RunControl(wiring.Component):
    """Begins a run, keeps its first error, and ends it when everything has come to rest.

    A run ends when `complete`, or after an error when `quiet`. The watchdog is an error of its own; should the
    transfers under way not finish either, the run ends after another `watchdog` cycles without progress all the same.

    Timing
    ------
    `running` rises 1 cycle after `start`; `stop` 1 cycle after the error. `done` is high in the last cycle of the run,
    the first one in which it may end. `stop` stays until the next start, so that nothing left in a queue is started.

    Members
    -------
    start : In(1)           Pulse, while not `running`.
    watchdog : In(32)       Cycles without progress after which the run is stopped; 0 means never.
    progress : In(1)        Something moved.
    complete : In(1)        All instructions are done and nothing moves any more.
    quiet : In(1)           Nothing moves any more.
    fault : In(Fault), fault_valid : In(1)      An error in this cycle, the most important one.
    stuck : In(Fault)       What to report when the watchdog finds an error.
    running : Out(1), stop : Out(1), done : Out(1)
    first : Out(Fault)      First error of the run; cause NONE if there was none.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "start": In(1),
                "watchdog": In(REGISTER_BITS),
                "progress": In(1),
                "complete": In(1),
                "quiet": In(1),
                "fault": In(Fault()),
                "fault_valid": In(1),
                "stuck": In(Fault()),
                "running": Out(1),
                "stop": Out(1),
                "done": Out(1),
                "first": Out(Fault()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """A state machine of three states: idle, running, stopping."""
        m = Module()
        still = Signal(REGISTER_BITS)
        expired = Signal()
        m.d.comb += expired.eq((self.watchdog != 0) & (still >= self.watchdog))
        m.d.sync += still.eq(still + 1)
        with m.If(self.progress | self.start | ~self.running | expired):
            m.d.sync += still.eq(0)

        with m.FSM():
            with m.State("idle"), m.If(self.start):
                m.d.sync += [self.running.eq(1), self.stop.eq(0), self.first.eq(0)]
                m.next = "running"
            with m.State("running"):
                with m.If(self.fault_valid):
                    m.d.sync += [self.first.eq(self.fault), self.stop.eq(1)]
                    m.next = "stopping"
                with m.Elif(self.complete):
                    m.d.comb += self.done.eq(1)
                    m.next = "idle"
                with m.Elif(expired):
                    m.d.sync += [self.first.eq(self.stuck), self.first.cause.eq(Cause.WATCHDOG), self.stop.eq(1)]
                    m.next = "stopping"
            with m.State("stopping"), m.If(self.quiet | expired):
                m.d.comb += self.done.eq(1)
                m.next = "idle"
        with m.If(self.done):
            m.d.sync += self.running.eq(0)
        return m

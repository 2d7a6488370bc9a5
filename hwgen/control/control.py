"""The command processor: from a program in memory to commands for the engines, and back to a report."""

from amaranth.hdl import C, Cat, Module, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch import Arch
from hwgen.arch.isa import Cause, Engine, engines
from hwgen.arch.registers import FETCH, TensorState
from hwgen.control.counters import Counters, read_ports, write_ports
from hwgen.control.dispatch import Dispatch
from hwgen.control.fetch import Fetch
from hwgen.control.queue import EngineQueue, TokenBank
from hwgen.control.run import RunControl
from hwgen.control.words import RunSignature
from hwgen.lib.axi import ReadSignature
from hwgen.lib.shapes import EngineSignature, engine_places


class Controller(wiring.Component):
    """Fetches a program, starts its instructions when their tokens are there, counts, and stops at the first error.

    When several errors meet in one cycle, that of the lowest engine is kept; for one engine its own error goes before a
    token overflow, and that before a bad field. A watchdog error names the lowest engine that has an instruction which
    is not done, and its oldest such instruction; engine FETCH if there is none.

    After an error no command is offered, from the cycle after the error on.
    An engine must show `busy` from the cycle after it accepted a command until its last effect and its last memory
    transfer are over, also after an error or `stop`. `stop` falls when the next run starts; an engine then forgets its
    error.

    Timing
    ------
    With data_bits >= 256, an instruction is offered to its engine 3 cycles after its beat arrived. A token given in one
    cycle can start an instruction in the next. A run of no instruction takes 1 cycle.

    Parameters
    ----------
    arch : Arch

    Members
    -------
    E is what `engine_places` says, P the number of read ports, Q that of write ports.

    run : In(RunSignature)                  To the register file.
    program : Out(ReadSignature)            To the read arbiter.
    engines : In(EngineSignature) of each engine, indexed by `Engine`
    progress : In(1)        An engine gets on with its instruction; holds off the watchdog, as every command, `done` and
                            memory beat does.
    tensor_state : In(TensorState)          What the tensor engine does; IDLE while it has no command.
    read_beat : In(P)       Bit p: a beat passes on read port p, program included.
    write_beat : In(Q)      Bit q: a beat is written by write port q.
    waiting : Out(E) of each engine         Engines whose token its next instruction lacks.
    running : Out(1)                        A run is under way.
    """

    def __init__(self, *, arch: Arch) -> None:
        self._arch = arch
        self._engines = engines(arch)
        count = engine_places(self._engines)
        super().__init__(
            {
                "run": In(RunSignature(self._engines)),
                "program": Out(ReadSignature(arch)),
                "engines": In(EngineSignature()).array(count),
                "progress": In(1),
                "tensor_state": In(range(len(TensorState))),
                "read_beat": In(read_ports(self._engines)),
                "write_beat": In(write_ports(self._engines)),
                "waiting": Out(count).array(count),
                "running": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Fetch, dispatch, queues, tokens; then what goes back to the host."""
        m = Module()
        m.submodules.fetch = fetch = Fetch(arch=self._arch)
        m.submodules.dispatch = dispatch = Dispatch(self._engines)
        m.submodules.tokens = tokens = TokenBank(width=self._arch.control.token_bits, engines=self._engines)
        m.submodules.control = control = RunControl()
        depth = self._arch.control.queue_depth
        queues = [EngineQueue(engine=engine, depth=depth, engines=self._engines) for engine in self._engines]
        m.d.comb += self.running.eq(control.running)

        # Program
        settings = self.run.settings
        wiring.connect(m, fetch.port, wiring.flipped(self.program))
        wiring.connect(m, fetch.o, dispatch.i)
        m.d.comb += [
            fetch.start.eq(self.run.start),
            fetch.address.eq(Cat(settings.program_low, settings.program_high)),
            fetch.count.eq(settings.count),
            fetch.stop.eq(control.stop),
            dispatch.clear.eq(self.run.start),
            tokens.clear.eq(self.run.start),
        ]

        # Engines
        for engine, queue in zip(self._engines, queues):
            m.submodules[f"{engine.name.lower()}_queue"] = queue
            self._elaborate_engine(m, engine, queue, tokens)
            wiring.connect(m, dispatch.o[engine], queue.i)
            m.d.comb += [queue.stop.eq(control.stop), self.engines[engine].stop.eq(control.stop)]

        self._elaborate_end(m, control, fetch, dispatch, queues)
        self._elaborate_faults(m, control, fetch, dispatch, queues, tokens)
        self._elaborate_report(m, control)
        return m

    def _elaborate_engine(self, m: Module, engine: Engine, queue: EngineQueue, tokens: TokenBank) -> None:
        """Connect an engine with its queue, and the queue with its row and column of tokens."""
        port = self.engines[engine]
        wiring.connect(m, queue.command, wiring.flipped(port.command))
        m.d.comb += [
            queue.done.eq(port.done),
            queue.clear.eq(self.run.start),
            queue.available.eq(tokens.available[engine]),
            tokens.take[engine].eq(queue.take),
            tokens.give[engine].eq(queue.give),
            self.waiting[engine].eq(queue.waiting),
        ]

    def _elaborate_end(
        self, m: Module, control: RunControl, fetch: Fetch, dispatch: Dispatch, queues: list[EngineQueue]
    ) -> None:
        """When a run is over, and what keeps the watchdog quiet."""
        quiet = ~(fetch.busy | Cat(port.busy for port in self.engines).any())
        moved = [port.command.valid & port.command.ready | port.done for port in self.engines]
        moved.append(fetch.o.valid & fetch.o.ready)
        moved += [self.program.ar.valid & self.program.ar.ready, self.read_beat, self.write_beat]
        m.d.comb += [
            control.start.eq(self.run.start),
            control.watchdog.eq(self.run.settings.watchdog),
            control.progress.eq(self.progress | Cat(moved).any()),
            control.quiet.eq(quiet),
            control.complete.eq(quiet & fetch.finished & dispatch.empty & Cat(queue.empty for queue in queues).all()),
            self.run.idle.eq(~control.running),
            self.run.done.eq(control.done),
        ]

    def _elaborate_faults(
        self,
        m: Module,
        control: RunControl,
        fetch: Fetch,
        dispatch: Dispatch,
        queues: list[EngineQueue],
        tokens: TokenBank,
    ) -> None:
        """Choose among the errors of a cycle: the list is in order of importance."""
        faults: list[tuple[Value, Value | Cause, int, Value]] = []
        for engine, queue in zip(self._engines, queues):
            port = self.engines[engine]
            bad_field = dispatch.error_valid & (dispatch.error_engine == engine)
            faults += [
                (port.error_valid, port.error.cause, engine, port.error.pc),
                (tokens.overflow[engine], Cause.TOKEN_OVERFLOW, engine, queue.pc),
                (bad_field, dispatch.error.cause, engine, dispatch.error.pc),
            ]
        faults += [
            (dispatch.error_valid, dispatch.error.cause, FETCH, dispatch.error.pc),
            (fetch.error_valid, fetch.error.cause, FETCH, fetch.error.pc),
        ]
        stuck = [(~queue.empty, Cause.WATCHDOG, engine, queue.pc) for engine, queue in zip(self._engines, queues)]
        stuck.append((C(1), Cause.WATCHDOG, FETCH, fetch.pc))

        m.d.comb += control.fault_valid.eq(Cat(fault[0] for fault in faults).any())
        for chosen, candidates in ((control.fault, faults), (control.stuck, stuck)):
            for valid, cause, engine, pc in reversed(candidates):
                with m.If(valid):
                    m.d.comb += [chosen.cause.eq(cause), chosen.engine.eq(engine), chosen.pc.eq(pc)]

    def _elaborate_report(self, m: Module, control: RunControl) -> None:
        """Counters and the first error, as the host reads them."""
        m.submodules.counters = counters = Counters(self._engines)
        m.d.comb += [
            counters.running.eq(control.running),
            counters.clear.eq(self.run.start),
            counters.busy.eq(Cat(port.busy for port in self.engines)),
            counters.tensor_state.eq(self.tensor_state),
            counters.waiting.eq(self.waiting[Engine.TENSOR]),
            counters.read_beat.eq(self.read_beat),
            counters.write_beat.eq(self.write_beat),
        ]
        report, counts = self.run.report, counters.counts
        m.d.comb += [
            report.status.cause.eq(control.first.cause),
            report.status.engine.eq(control.first.engine),
            report.error_pc.eq(control.first.pc),
            Cat(report.cycles_low, report.cycles_high).eq(counts.cycles),
        ]
        m.d.comb += [report[name].eq(counts[name]) for name, _ in report.shape() if name in counts.shape().members]

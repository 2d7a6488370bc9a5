"""The attention engine as an engine of the accelerator: ATTEND instructions become jobs."""

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import Out

from hwgen.arch import Arch
from hwgen.arch.isa import Cause, Opcode
from hwgen.arch.services import Job
from hwgen.attention.core import AttentionCore
from hwgen.attention.memory_port import MemoryPort
from hwgen.attention.services.core import ServiceCore
from hwgen.lib.axi import ReadSignature, WriteSignature
from hwgen.lib.shapes import EngineSignature
from hwgen.memory.faults import FaultReporter, first_cause, operands_of


class AttentionEngine(wiring.Component):
    """Executes ATTEND, one instruction after the other, each until memory has answered its last write.

    A job that is under way when the engine meets an error, or while `stop`, is given up: bursts that were announced are
    completed without writing anything more, and importance of tokens and heads is left as it may be. A descriptor that
    is refused changes nothing.

    Timing
    ------
    A job begins 1 cycle after its instruction was taken; `done` pulses when it has ended and no burst
    is under way.

    Parameters
    ----------
    arch : Arch      With an attention engine.

    Members
    -------
    control : Out(EngineSignature) as seen from the engine
    read : Out(ReadSignature), write : Out(WriteSignature with strobes)    AXI master.
    working : Out(1)     Products take a word.
    """

    def __init__(self, arch: Arch) -> None:
        self._arch = arch
        super().__init__(
            {
                "control": Out(EngineSignature()),
                "read": Out(ReadSignature(arch)),
                "write": Out(WriteSignature(arch, strobes=True)),
                "working": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """The cores and their port, the course of an instruction, errors."""
        m = Module()
        arch, attends = self._arch, Signal()
        options = {"operand": arch.array.operand, "mul_latency": arch.vector.mul_latency}
        core, services = AttentionCore(arch.attention, **options), ServiceCore(arch.attention, **options)
        m.submodules.port = port = MemoryPort(arch)
        m.submodules.faults = faults = FaultReporter()
        m.submodules.core = ResetInserter(port.abort & attends)(core)
        m.submodules.services = ResetInserter(port.abort & ~attends)(services)
        self._share(m, core, services, port, attends)
        for name in ("read", "write"):
            wiring.connect(m, getattr(port, name), wiring.flipped(getattr(self, name)))
        self._run(m, (core, services, port, faults), attends)
        counted = Signal()
        m.d.sync += counted.eq(core.products_busy[0])
        m.d.comb += self.working.eq(core.products_busy[0] != counted)
        return m

    def _share(self, m: Module, core: AttentionCore, services: ServiceCore, port: MemoryPort, attends: Value) -> None:
        """The port is lent to the core that runs; importance belongs to the one, `alive` to the other."""
        for name in ("request", "write_request", "write_data"):
            first, second, target = (getattr(part, name) for part in (core, services, port))
            m.d.comb += [
                target.payload.eq(Mux(attends, first.payload, second.payload)),
                target.valid.eq(Mux(attends, first.valid, second.valid)),
                first.ready.eq(target.ready & attends),
                second.ready.eq(target.ready & ~attends),
            ]
        m.d.comb += [
            core.data.payload.eq(port.data.payload),
            core.data.valid.eq(port.data.valid & attends),
            services.data.payload.eq(port.data.payload),
            services.data.valid.eq(port.data.valid & ~attends),
            port.data.ready.eq(Mux(attends, core.data.ready, services.data.ready)),
        ]
        for source, target, names in (
            (core, services, ("heads", "token_data")),
            (services, core, ("alive", "heads_clear", "token_address")),
            (services, core, ("token_write_address", "token_write_data", "token_write_enable")),
        ):
            m.d.comb += [getattr(target, name).eq(getattr(source, name)) for name in names]

    def _run(
        self, m: Module, parts: tuple[AttentionCore, ServiceCore, MemoryPort, FaultReporter], attends: Signal
    ) -> None:
        """The course of an instruction."""
        control, (core, services, port, faults) = self.control, parts
        instruction = Signal.like(control.command.payload, reset_less=True)
        crooked = self._command(m, core, services, operands_of(Opcode.ATTEND, instruction.operands), attends)
        m.d.comb += control.busy.eq(1)
        with m.FSM():
            with m.State("idle"):
                m.d.comb += [control.busy.eq(0), faults.drained.eq(1), control.command.ready.eq(~faults.halt)]
                m.d.sync += instruction.eq(control.command.payload)
                with m.If(control.command.valid & control.command.ready):
                    m.next = "begin"
            begins, refused = self._job(m, (core, services), faults, attends, crooked)
            self._ends(m, port, faults)
        self._report(m, port, faults, begins & crooked, refused, instruction.pc)

    def _command(
        self, m: Module, core: AttentionCore, services: ServiceCore, attend: data.View, attends: Signal
    ) -> Value:
        """What an instruction says, to both cores; gives whether no descriptor can be at its address."""
        low = self._arch.beat_bytes.bit_length() - 1
        m.d.comb += [
            attends.eq(attend.job == Job.ATTENTION),
            core.command.payload.eq(attend.addr),
            services.command.payload.job.eq(attend.job),
            services.command.payload.address.eq(attend.addr),
        ]
        return (attend.addr[:low] != 0) | (attend.addr[self._arch.memory.address_bits :] != 0)

    def _job(
        self, m: Module, cores: tuple[AttentionCore, ServiceCore], faults: FaultReporter, attends: Value, crooked: Value
    ) -> tuple[Value, Value]:
        """States in which a job is under way. Gives whether it is to begin, and whether its descriptor is refused."""
        core, services = cores
        begins, refused = Signal(), Signal()
        with m.State("begin"):
            m.d.comb += begins.eq(1)
            with m.If(faults.halt):
                m.next = "idle"
            with m.Elif(~crooked):
                m.d.comb += [core.command.valid.eq(attends), services.command.valid.eq(~attends)]
                with m.If(Mux(attends, core.command.ready, services.command.ready)):
                    m.next = "running"
        with m.State("running"):
            m.d.comb += refused.eq(core.error | services.error)
            with m.If(faults.halt):
                m.next = "abort"
            with m.Elif(core.done | services.done | refused):
                m.next = "end"
        return begins, refused

    def _ends(self, m: Module, port: MemoryPort, faults: FaultReporter) -> None:
        """States in which bursts are completed: of a job that has ended, of one that is given up."""
        with m.State("end"), m.If(port.drained):
            m.d.comb += self.control.done.eq(~faults.halt)
            m.next = "idle"
        with m.State("abort"):
            m.d.comb += port.abort.eq(1)
            with m.If(port.drained):
                m.next = "idle"

    def _report(
        self, m: Module, port: MemoryPort, faults: FaultReporter, crooked: Value, refused: Value, pc: Value
    ) -> None:
        """Errors of the instruction at hand."""
        checks = (
            (Cause.MEMORY_ALIGNMENT, crooked),
            (Cause.BAD_DESCRIPTOR, refused),
            (Cause.READ_RESPONSE, port.read_failed),
            (Cause.WRITE_RESPONSE, port.write_failed),
        )
        control = self.control
        m.d.comb += [
            faults.fault.eq(Cat(holds for _, holds in checks).any()),
            faults.cause.eq(first_cause(*checks)),
            faults.pc.eq(pc),
            faults.stop.eq(control.stop),
            control.error.eq(faults.error),
            control.error_valid.eq(faults.error_valid),
        ]

"""What the cycles of a program's ATTEND instructions depend on, from the golden machine."""

from hwgen.arch import Arch, UserError
from hwgen.arch.commands import Command
from hwgen.arch.isa import Opcode
from hwgen.arch.services import Job
from models.attention_engine.engine import AttentionEngine
from models.machine import Machine, MachineResult
from models.machine_state import Fault
from models.memory import Memory
from sim.attention.model import ModelJob, golden_job
from sim.attention.services_model import ModelService, golden_service


def attend_jobs(arch: Arch, program: bytes, memory: Memory) -> list[ModelJob | ModelService]:
    """Run an encoded program on the golden machine, which changes `memory`; the job of each of its ATTENDs.

    Raises as `Machine.run` does.
    """
    return watched_run(arch, program, memory)[1]


def watched_run(arch: Arch, program: bytes, memory: Memory) -> tuple[MachineResult, list[ModelJob | ModelService]]:
    """The same with what the run did."""
    machine = Machine(arch, memory)
    if machine.state.attention is None:
        return machine.run(program), []
    machine.state.attention = engine = _Watched(machine.state.attention)
    return machine.run(program, watch=engine.watch), engine.jobs


class _Watched:
    """Stands before an engine and notes its jobs."""

    def __init__(self, engine: AttentionEngine) -> None:
        self._engine = engine
        self.sizes, self.memory, self.operand = engine.sizes, engine.memory, engine.operand
        self.importance = engine.importance
        self.jobs: list[ModelJob | ModelService] = []

    def run(self, job: dict[str, int]) -> None:
        """As `AttentionEngine.run`."""
        self.jobs.append(golden_job(self._engine, job))

    def watch(self, item: Command) -> None:
        """Note a job beside attention that is about to run; one that the machine will refuse is left to it."""
        if item.opcode != Opcode.ATTEND or item.job == Job.ATTENTION:
            return
        try:
            self.jobs.append(golden_service(self.sizes, self.memory, item.job, item.addr, self.importance))
        except (UserError, Fault, ValueError):
            return

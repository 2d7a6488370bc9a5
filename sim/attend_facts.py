"""What the cycles of a program's attention jobs depend on, from the golden machine."""

from hwgen.arch import Arch
from models.attention_engine.engine import AttentionEngine
from models.machine import Machine
from models.memory import Memory
from sim.attention_model import ModelJob, golden_job


def attention_jobs(arch: Arch, program: bytes, memory: Memory) -> list[ModelJob]:
    """Run an encoded program on the golden machine, which changes `memory`; the jobs of its ATTENTION instructions.

    Raises as `Machine.run` does.
    """
    machine = Machine(arch, memory)
    if machine.state.attention is None:
        return []
    machine.state.attention = engine = _Watched(machine.state.attention)
    machine.run(program)
    return engine.jobs


class _Watched:
    """Stands before an engine and notes its jobs."""

    def __init__(self, engine: AttentionEngine) -> None:
        self._engine = engine
        self.sizes, self.memory, self.operand = engine.sizes, engine.memory, engine.operand
        self.importance = engine.importance
        self.jobs: list[ModelJob] = []

    def run(self, job: dict[str, int]) -> None:
        """As `AttentionEngine.run`."""
        self.jobs.append(golden_job(self._engine, job))

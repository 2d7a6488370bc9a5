"""What the cycles of a program's attention jobs depend on, from the golden machine."""

from collections.abc import Callable

from hwgen.arch import Arch
from models.attention_engine.engine import AttentionEngine, JobResult
from models.attention_engine.row import RowResult
from models.machine import Machine
from models.memory import Memory
from sim.attention_model import ModelJob, row_facts


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


class _Watched(AttentionEngine):
    """An engine that notes its jobs."""

    def __init__(self, engine: AttentionEngine) -> None:
        super().__init__(engine.sizes, engine.memory, operand=engine.operand)
        self.jobs: list[ModelJob] = []

    def run(self, job: dict[str, int], watch: Callable[[RowResult], None] = lambda row: None) -> JobResult:
        """As `AttentionEngine.run`."""
        alive = sum(int(flag) << head for head, flag in enumerate(self.importance.alive))
        rows: list[RowResult] = []
        result = super().run(job, rows.append)
        self.jobs.append(ModelJob(job, [row_facts(row, job) for row in rows], alive))
        for row in rows:
            watch(row)
        return result

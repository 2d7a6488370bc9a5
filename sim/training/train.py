"""Training on the accelerator: a program of one step, run for batch after batch on RTL, on the golden machine, or both.

The host writes a batch and the scalars of the step (a learning rate, for instance) into memory, starts the program, and
reads the loss. Everything else, from the first product to the last update, is done by the accelerator.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwgen.arch import UserError
from models.machine import Machine
from scheduler.training.program import Code, TrainingProgram
from sim.device import Device, SimulationError
from sim.memory import MemoryModel
from sim.runner import Simulator, run_on

Batch = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class StepResult:
    """What one step did."""

    number: int
    loss: float
    cycles: int | None
    """Cycles on RTL."""
    words: int
    """Bytes of memory that were compared with the golden machine, if both ran."""


class GoldenTrainer:
    """A training run on the golden machine."""

    def __init__(self, program: TrainingProgram, image: NDArray[np.uint8] | None = None) -> None:
        self.program = program
        self.machine = Machine(program.arch, {0: program.image() if image is None else image})
        self._run(program.start)

    @property
    def memory(self) -> NDArray[np.uint8]:
        """External memory as it is."""
        return np.frombuffer(self.machine.memory.read(0, self.program.memory_size), np.uint8)

    def step(self, batch: Batch, scalars: Mapping[str, float]) -> None:
        """One training step."""
        memory = self.memory.copy()
        self.program.write_batch(memory, batch)
        self.program.write_scalars(memory, scalars)
        self.machine.memory.write(0, memory)
        self._run(self.program.step)

    def _run(self, code: Code) -> None:
        if code.commands:
            self.machine.run(code.encode())


class RtlTrainer:
    """A training run on the Verilated accelerator, which keeps its scratchpads from step to step."""

    def __init__(self, program: TrainingProgram, simulator: Simulator, memory: MemoryModel | None = None) -> None:
        self.program, self.model = program, memory or MemoryModel()
        self.device: Device = simulator.power_up()
        self.memory = program.image()
        self.cycles = 0
        self._run(program.start)

    def step(self, batch: Batch, scalars: Mapping[str, float]) -> None:
        """One training step; `cycles` are its cycles."""
        self.program.write_batch(self.memory, batch)
        self.program.write_scalars(self.memory, scalars)
        self._run(self.program.step)

    def close(self) -> None:
        """Power down."""
        self.device.close()

    def _run(self, code: Code) -> None:
        if not code.commands:
            return
        result = run_on(
            self.device,
            self.memory,
            program=code.address,
            count=len(code.commands),
            memory=self.model,
            timeout_cycles=1_000_000_000,
        )
        if not result.status.ok:
            raise SimulationError(f"the hardware stopped: {result.status}")
        self.memory, self.cycles = result.memory, result.cycles


def train(
    program: TrainingProgram,
    batches: Iterable[tuple[Batch, Mapping[str, float]]],
    *,
    golden: GoldenTrainer | None = None,
    rtl: RtlTrainer | None = None,
) -> Iterator[StepResult]:
    """Run a step for each (batch, scalars); with both backends, compare all of memory after each step.

    Raises `SimulationError` at the first difference, `UserError` when the loss is not a number.
    """
    for number, (batch, scalars) in enumerate(batches):
        for trainer in (golden, rtl):
            if trainer is not None:
                trainer.step(batch, scalars)
        memory = rtl.memory if rtl is not None else golden.memory
        if golden is not None and rtl is not None:
            _compare(program, number, golden.memory, rtl.memory)
        loss = program.read_loss(memory)
        if not np.isfinite(loss):
            raise UserError(f"step {number}: the loss is {loss}; {_first_bad(program, memory)}")
        both = golden is not None and rtl is not None
        yield StepResult(number, loss, rtl.cycles if rtl else None, program.memory_size if both else 0)


def _compare(program: TrainingProgram, number: int, golden: NDArray[np.uint8], rtl: NDArray[np.uint8]) -> None:
    if np.array_equal(golden, rtl):
        return
    address = int(np.flatnonzero(golden != rtl)[0])
    name = next(
        (item.name for item in program.places.memory.segments if item.address <= address < item.address + item.size),
        "the program",
    )
    raise SimulationError(f"step {number}: RTL and golden differ first at {address:#x}, in {name}")


def _first_bad(program: TrainingProgram, memory: NDArray[np.uint8]) -> str:
    """The first tensor, in the order of the graph, that holds a value that is not finite."""
    for item in program.graph.operators:
        for name in item.names("result"):
            if name in program.places.features and not np.isfinite(program.read_feature(memory, name)).all():
                return f"the first tensor with a value that is not finite is {name}"
    return "all stored tensors are finite"

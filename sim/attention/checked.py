"""Programs with ATTEND run one after the other on an accelerator that stays powered up, each checked to the word."""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from hwgen.arch import Arch, UserError
from hwgen.arch.isa import Cause
from models.machine import MachineResult
from models.memory import Memory
from scheduler.attention.program import EncoderProgram, Values
from scheduler.training.program import Code
from sim.attention.facts import watched_run
from sim.check import GoldenResult, check_run
from sim.cycles import CycleDevice, ModelResult
from sim.device import Device
from sim.memory import MemoryModel
from sim.report import Comparison
from sim.runner import EVENT_LIMIT, RunResult, Status, build, run_on
from sim.verilate import Progress

SPARE_CYCLES = 1_000_000
"""RTL is stopped so long after twice the cycles that the model says."""


@dataclass(frozen=True)
class Foretold:
    """What golden machine and cycle model say of a run, before RTL does."""

    code: Code
    image: NDArray[np.uint8]
    """External memory before the run, from address 0."""
    golden: GoldenResult
    model: ModelResult

    @property
    def memory(self) -> NDArray[np.uint8]:
        """External memory after the run; not to be written."""
        return np.frombuffer(self.golden.memory, np.uint8)


@dataclass(frozen=True)
class Checked:
    """A run: what RTL left, or what golden machine and cycle model say if RTL has not run."""

    run: RunResult
    work: MachineResult
    comparison: Comparison | None
    """None without RTL."""
    model_cycles: int
    """By the cycle model."""


class CheckedRuns:
    """Runs programs; a context manager, because it holds devices. RTL is built when it is first needed.

    `rtl`: False leaves golden machine and cycle model alone.
    """

    def __init__(self, arch: Arch, memory: MemoryModel, *, rtl: bool, progress: Progress) -> None:
        self._arch, self._memory, self._rtl, self._progress = arch, memory, rtl, progress
        self.about = ""
        """Begins what is told of the progress, such as `"token 2 of 4: "`."""
        self._open = ExitStack()
        self._model = self._open.enter_context(CycleDevice(arch))
        self._device: Device | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _say(self, text: str) -> None:
        self._progress(self.about + text)

    def foretell(self, code: Code, image: NDArray[np.uint8]) -> Foretold:
        """Run a program on the golden machine, then on the cycle model; `image` stays as it is."""
        self._say("running on the golden machine")
        after = Memory({0: image})
        work, attend = watched_run(self._arch, code.encode(), after)
        self._say("running the cycle model")
        settings = {"address": code.address, "memory": self._memory, "event_limit": EVENT_LIMIT}
        model = self._model.run(code.encode(), attend=attend, **settings)
        return Foretold(code, image, GoldenResult(after.read(0, image.size), work, None), model)

    def carry_out(self, said: Foretold) -> Checked:
        """Run it on RTL and compare all of memory. Raises `SimulationError` when the hardware misbehaves."""
        run, comparison = _as_run(said), None
        if self._rtl:
            run = self._on_rtl(said)
            comparison = check_run(run, said.golden, 0)
        return Checked(run, said.golden.result, comparison, said.model.cycles)

    def _on_rtl(self, said: Foretold) -> RunResult:
        if self._device is None:
            self._device = self._open.enter_context(build(self._arch, progress=self._say).power_up())
        self._say("running on RTL")
        return run_on(
            self._device,
            said.image,
            program=said.code.address,
            count=len(said.code.commands),
            memory=self._memory,
            timeout_cycles=2 * said.model.cycles + SPARE_CYCLES,
            progress=lambda text: self._say(f"running on RTL: {text}"),
        )


def _as_run(said: Foretold) -> RunResult:
    """What RTL would have given."""
    return RunResult(memory=said.memory, status=Status(Cause.NONE, None, 0), **vars(said.model))


def finite(program: EncoderProgram, hidden: Values) -> Values:
    """Hidden states that a program gave. Raises `UserError` unless all of them are finite."""
    if not np.isfinite(hidden).all():
        raise UserError(f"hidden states grow beyond {program.arch.array.operand}: the model's weights are too large")
    return hidden

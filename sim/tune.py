"""Durations of instructions by the cycle model, for the offline schedule."""

import numpy as np
from numpy.typing import NDArray

from hwgen.arch import Arch
from hwgen.arch.isa import Engine
from scheduler.training.order import Duration, duration
from scheduler.training.program import Code
from sim.cycles import ModelResult, run_model
from sim.device import DONE, ISSUE
from sim.memory import MemoryModel

LONGEST = 3
"""An instruction that took more than this many times its estimate waited for others; it counts as that long."""


class Tuner:
    """What `compile_step` measures schedules with, for a memory; it keeps the run of the fastest one."""

    def __init__(self, arch: Arch, memory: MemoryModel) -> None:
        self.arch, self.memory = arch, memory
        self._best: tuple[Code, ModelResult] | None = None

    def __call__(self, code: Code) -> tuple[int, list[Duration]]:
        """Cycles of a program, and the duration of each of its instructions."""
        result = run_code(self.arch, code, self.memory)
        if self._best is None or result.cycles < self._best[1].cycles:
            self._best = code, result
        return result.cycles, durations(self.arch, code, result)

    def result(self, code: Code) -> ModelResult:
        """The run of a program, with the events of all its instructions."""
        if self._best is not None and self._best[0] is code:
            return self._best[1]
        return run_code(self.arch, code, self.memory)


def run_code(arch: Arch, code: Code, memory: MemoryModel) -> ModelResult:
    """Run a program through the cycle model; the events are beginning and end of every instruction."""
    limit = 2 * len(code.commands)
    return run_model(arch, code.encode(), address=code.address, memory=memory, event_limit=limit, state_events=False)


def durations(arch: Arch, code: Code, result: ModelResult) -> list[Duration]:
    """Of each instruction: cycles since the one before it on its engine ended, or since it was issued."""
    commands = code.commands
    spans = [duration(item, arch) for item in commands]
    for engine in Engine:
        places = [place for place, item in enumerate(commands) if item.engine == engine]
        issued, ended = _cycles(result, engine, ISSUE), _cycles(result, engine, DONE)
        before = np.concatenate([[0], ended])[:-1]
        busy = ended - np.maximum(issued, before)
        total = ended - issued
        for place, own, whole in zip(places, busy.tolist(), total.tolist(), strict=True):
            own = max(own, 1)
            spans[place] = Duration(own, max(own, min(whole, LONGEST * spans[place].total)))
    return spans


def _cycles(result: ModelResult, engine: Engine, kind: int) -> NDArray[np.int64]:
    events = result.events
    return events["cycle"][(events["kind"] == kind) & (events["engine"] == engine)].astype(np.int64)

"""Durations of instructions by the cycle model, for the offline schedule."""

import numpy as np
from numpy.typing import NDArray

from hwgen.arch import Arch
from hwgen.arch.arrays import engines
from hwgen.arch.isa import Engine
from scheduler.training.program import Code
from scheduler.training.schedule.order import Durations, durations
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

    def __call__(self, code: Code) -> tuple[int, Durations]:
        """Cycles of a program, and the durations of its instructions."""
        result = run_code(self.arch, code, self.memory)
        if self._best is None or result.cycles < self._best[1].cycles:
            self._best = code, result
        return result.cycles, measured(self.arch, code, result)

    def result(self, code: Code) -> ModelResult:
        """The run of a program, with the events of all its instructions."""
        if self._best is not None and self._best[0] is code:
            return self._best[1]
        return run_code(self.arch, code, self.memory)


def run_code(arch: Arch, code: Code, memory: MemoryModel) -> ModelResult:
    """Run a program through the cycle model; the events are beginning and end of every instruction."""
    limit = 2 * len(code.commands)
    return run_model(arch, code.encode(), address=code.address, memory=memory, event_limit=limit, state_events=False)


def measured(arch: Arch, code: Code, result: ModelResult) -> Durations:
    """Of each instruction: cycles since the one before it on its engine ended, or since it was issued."""
    issued, ended = spans(code, result)
    busy = own_cycles(code, issued, ended)
    longest = LONGEST * durations(code.commands, arch).total
    return Durations(busy, np.maximum(busy, np.minimum(ended - issued, longest)))


def spans(code: Code, result: ModelResult) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last cycle of each instruction. Raises `ValueError` if the run's events do not have them all."""
    executes, events = engines(code.commands), result.events
    found = np.zeros((2, executes.size), np.int64)
    for engine in Engine:
        mine = events[events["engine"] == engine]
        for row, kind in zip(found, (ISSUE, DONE)):
            cycles = mine["cycle"][mine["kind"] == kind]
            if cycles.size != np.count_nonzero(executes == engine):
                raise ValueError(f"the run has events of {cycles.size} {engine.name} instructions, not of all")
            row[executes == engine] = cycles
    return found[0], found[1]


def own_cycles(code: Code, issued: NDArray[np.int64], ended: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cycles of each instruction in which the one before it on its engine has ended; at least one."""
    executes, found = engines(code.commands), np.ones_like(ended)
    for engine in Engine:
        mine = executes == engine
        before = np.concatenate([[0], ended[mine][:-1]])[: np.count_nonzero(mine)]
        found[mine] = np.maximum(ended[mine] - np.maximum(issued[mine], before), 1)
    return found

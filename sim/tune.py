"""Durations of instructions by the cycle model, for the offline schedule."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hwgen.arch import Arch
from hwgen.arch.isa import Command, Engine, encode
from scheduler.training.order import Duration, duration
from sim.cycles import ModelResult, run_model
from sim.device import DONE, ISSUE
from sim.memory import MemoryModel

LONGEST = 3
"""An instruction that took more than this many times its estimate waited for others; it counts as that long."""


def measure(arch: Arch, memory: MemoryModel) -> Callable[[tuple[Command, ...]], tuple[int, list[Duration]]]:
    """What `compile_step` takes to measure a schedule, for a memory."""

    def run(commands: tuple[Command, ...]) -> tuple[int, list[Duration]]:
        program = b"".join(encode(item) for item in commands)
        result = run_model(arch, program, memory=memory, event_limit=2 * len(commands), state_events=False)
        return result.cycles, durations(arch, commands, result)

    return run


def durations(arch: Arch, commands: tuple[Command, ...], result: ModelResult) -> list[Duration]:
    """Of each instruction: cycles since the one before it on its engine ended, or since it was issued."""
    spans = [duration(item, arch) for item in commands]
    for engine in Engine:
        places = [place for place, item in enumerate(commands) if item.engine == engine]
        issued, ended = _cycles(result, engine, ISSUE), _cycles(result, engine, DONE)
        count = min(len(places), len(issued), len(ended))
        before = np.concatenate([[0], ended[:count]])[:count]
        busy = ended[:count] - np.maximum(issued[:count], before)
        total = ended[:count] - issued[:count]
        for place, own, whole in zip(places, busy.tolist(), total.tolist()):
            own = max(own, 1)
            spans[place] = Duration(own, max(own, min(whole, LONGEST * spans[place].total)))
    return spans


def _cycles(result: ModelResult, engine: Engine, kind: int) -> NDArray[np.int64]:
    events = result.events
    return events["cycle"][(events["kind"] == kind) & (events["engine"] == engine)].astype(np.int64)

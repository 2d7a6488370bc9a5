"""One program on RTL and on the golden machine: same memory, same end."""

from dataclasses import dataclass

import numpy as np

from hwgen.arch import Arch
from models.machine import Machine, MachineResult
from models.machine_state import MachineError
from sim.device import SimulationError
from sim.report import Comparison, compare
from sim.runner import RunResult


@dataclass(frozen=True)
class GoldenResult:
    """What the golden machine made of a program."""

    memory: bytes
    result: MachineResult | None
    """None when the run stopped."""
    error: MachineError | None


def run_golden(arch: Arch, image: np.ndarray, base: int, program: bytes) -> GoldenResult:
    """Run an encoded program on the golden machine with `image` (bytes) at address `base`."""
    machine = Machine(arch, {base: image})
    try:
        result, error = machine.run(program), None
    except MachineError as stopped:
        result, error = None, stopped
    return GoldenResult(machine.memory.read(base, image.size), result, error)


def check_run(run: RunResult, golden: GoldenResult, base: int) -> Comparison:
    """Compare a run that succeeded on the golden machine, word by word.

    Raises `MachineError` if it did not succeed there, `SimulationError` if the hardware stopped.
    """
    if golden.error is not None:
        raise golden.error
    if not run.status.ok:
        raise SimulationError(f"the hardware stopped: {run.status}")
    return compare(run.memory, golden.memory, base)

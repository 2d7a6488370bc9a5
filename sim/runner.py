"""Builds the Verilated accelerator of an architecture and runs programs on it."""

import ctypes
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwgen.arch import Arch
from hwgen.arch.isa import Cause, Engine
from hwgen.arch.registers import FETCH, MAGIC, REGISTERS, register
from sim.design import compile_verilog, repeated_modules, verilog
from sim.device import Device, SimulationError, load_library
from sim.memory import MemoryModel
from sim.verilate import Progress

EVENT_LIMIT = 1 << 20
"""Events that a run keeps for its timeline."""
CHUNK = 20_000
"""Cycles between two reports of progress."""


@dataclass(frozen=True)
class Status:
    """Why a run ended: `cause` NONE is success; `engine` is None when the fetch of the program failed."""

    cause: Cause
    engine: Engine | None
    pc: int

    @property
    def ok(self) -> bool:
        """True for a run without error."""
        return self.cause is Cause.NONE

    def __str__(self) -> str:
        if self.ok:
            return "ok"
        where = self.engine.name.lower() if self.engine is not None else "fetch"
        return f"{self.cause.name} in {where} at instruction {self.pc}"


@dataclass(frozen=True)
class RunResult:
    """What a run left behind."""

    memory: np.ndarray
    """The memory image after the run (bytes)."""
    status: Status
    cycles: int
    """Cycles from the start to ap_done, from the hardware's own counter."""
    counters: dict[str, int]
    """Every read-only counter register by name."""
    states: np.ndarray
    """Cycles of each engine in each trace state while the host waited: uint64 [engine, state]."""
    events: np.ndarray
    """Array of `sim.device.EVENT`, ascending in cycle."""
    dropped_events: int
    """Events beyond EVENT_LIMIT."""


class Simulator:
    """A compiled accelerator. Every `run` powers up a new instance; `power_up` gives one that keeps its contents."""

    def __init__(self, arch: Arch, library: ctypes.CDLL, verilog: str) -> None:
        self.arch, self.library, self.verilog = arch, library, verilog

    def power_up(self) -> Device:
        """A reset instance with empty on-chip memories; close it after use."""
        device = Device(self.library)
        device.reset()
        if device.read(register("ID").offset) != MAGIC:
            raise SimulationError("the ID register does not hold its constant")
        return device

    def run(self, image: np.ndarray, **options: object) -> RunResult:
        """Power up, run one program to its end, power down; options as in `run_on`."""
        with self.power_up() as device:
            return run_on(device, image, **options)


@dataclass(frozen=True)
class Waveform:
    """Record cycles `first`..`last` (from the start of the run) into `path`."""

    path: Path
    first: int = 0
    last: int = 10_000


def run_on(
    device: Device,
    image: np.ndarray,
    *,
    program: int,
    count: int,
    base: int = 0,
    memory: MemoryModel | None = None,
    timeout_cycles: int = 10_000_000,
    watchdog: int = 1 << 20,
    waveform: Waveform | None = None,
    progress: Progress | None = None,
) -> RunResult:
    """Run the `count` instructions at byte address `program` on a powered-up instance.

    `image` (bytes) lies at byte address `base` and is copied; the result holds it as it is after the run.
    Raises `SimulationError` when the run does not end in `timeout_cycles`, when the design breaks a rule of the bus, or
    when memory transactions are under way after it said that it was done. An error that the hardware reports is in
    `status`.
    """
    image = np.array(image, np.uint8)
    device.attach(image, base, memory or MemoryModel())
    for name, value in start_registers(program, count, watchdog):
        device.write(register(name).offset, value)
    device.start_log(EVENT_LIMIT)
    if waveform is not None:
        device.record(waveform.path, waveform.first, waveform.last)
    device.write(register("CTRL").offset, 1)
    ended = _wait(device, timeout_cycles, progress)
    device.finish()
    _check(device, ended, timeout_cycles)
    states, (events, dropped) = device.states(), device.events()
    return _result(device, image, states, events, dropped)


def start_registers(program: int, count: int, watchdog: int) -> list[tuple[str, int]]:
    """Names and values of the registers to write before CTRL."""
    values = {"PROGRAM_LOW": program & 0xFFFFFFFF, "PROGRAM_HIGH": program >> 32, "COUNT": count, "WATCHDOG": watchdog}
    return [*values.items(), ("ISR", 1), ("GIE", 1), ("IER", 1)]


def _wait(device: Device, timeout_cycles: int, progress: Progress | None) -> bool:
    while device.now < timeout_cycles:
        if device.run(min(CHUNK, timeout_cycles - device.now)):
            return True
        if device.complaints():
            return False
        if progress is not None:
            progress(f"{device.now:,} cycles")
    return False


def _check(device: Device, ended: bool, timeout_cycles: int) -> None:
    complaints = device.complaints()
    if complaints:
        raise SimulationError("the design broke a rule: " + "; ".join(complaints))
    if not ended:
        states = ", ".join(f"{e.name.lower()} {list(map(int, device.states()[e][:8]))}" for e in Engine)
        raise SimulationError(f"the run did not end in {timeout_cycles} cycles (cycles in each state: {states})")
    if not device.idle:
        raise SimulationError("memory transactions were under way after the run had ended")


def _result(device: Device, image: np.ndarray, states: np.ndarray, events: np.ndarray, dropped: int) -> RunResult:
    values = {item.name: device.read(item.offset) for item in REGISTERS if 0x28 <= item.offset < 0xF0}
    cause, engine = values["STATUS"] & 0xFF, values["STATUS"] >> 8 & 0xFF
    status = Status(Cause(cause), None if engine == FETCH else Engine(engine), values["ERROR_PC"])
    device.write(register("ISR").offset, 1)
    device.read(register("CTRL").offset)
    return RunResult(
        memory=image,
        status=status,
        cycles=values["CYCLES_LOW"] | values["CYCLES_HIGH"] << 32,
        counters={name: value for name, value in values.items() if name not in ("STATUS", "ERROR_PC")},
        states=states,
        events=events[np.argsort(events["cycle"], kind="stable")],
        dropped_events=dropped,
    )


def build(arch: Arch, *, trace: bool = False, progress: Progress | None = None) -> Simulator:
    """Generate and compile the accelerator; cached by content. `trace` makes a slower one that can write waveforms."""
    report = progress or (lambda text: None)
    report(f"Verilog of {arch.name}")
    text = verilog(arch)
    library = compile_verilog(
        [text], no_inline=repeated_modules(text), trace=trace, progress=lambda step: report(f"{arch.name}: {step}")
    )
    return Simulator(arch, load_library(library), text)

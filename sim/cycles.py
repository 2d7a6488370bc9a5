"""The cycle model: how long a program takes, without its data. Equal to the RTL in every cycle, and far faster.

`model/` follows the control of every block of `hwgen` in C++; the memory is the one behind the RTL. Cycles in which
everything goes on as in the one before are passed at once.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from hwgen.arch import INSTRUCTION_BYTES, Arch, ProgramError
from hwgen.arch.isa import TABLE, Engine, Opcode
from hwgen.arch.registers import TensorState
from hwgen.arch.services import Job as AttendJob
from hwgen.lib.streams import SkidBuffer
from sim.attention.model import ModelJob, job_tables
from sim.attention.services_model import ModelService, service_tables
from sim.cycle_library import Job, attend_sizes, library, sizes
from sim.device import ENGINES, EVENT, STATE, STATES, SimulationError, memory_settings
from sim.memory import MemoryModel

FIRST_CYCLE = SkidBuffer.LATENCY + 2
"""Cycle in which a run is under way first, counted from the one in which the host writes CTRL: the write takes effect,
`run.start`, `running`."""
COUNTERS = (
    *("CYCLES", "READ_BEATS", "WRITE_BEATS"),
    *(f"BUSY_{engine.name}" for engine in Engine),
    *(f"TENSOR_{state.name}" for state in TensorState),
)
"""Counters of `model/machine.h` in their order."""
_ENDED, _HUNG = 1, 2


@dataclass(frozen=True)
class ModelResult:
    """What a run takes: equal to the fields of `sim.runner.RunResult`."""

    cycles: int
    counters: dict[str, int]
    states: np.ndarray
    """Cycles of each engine in each trace state: uint64 [engine, state]."""
    events: np.ndarray
    """Array of `sim.device.EVENT`, ascending in cycle; at most as many as were asked for."""
    dropped_events: int


class CycleDevice:
    """A powered-up accelerator of the model; a context manager, because it holds memory of the library.

    As in the hardware, a run may begin a few cycles earlier or later for what the one before left behind.
    """

    def __init__(self, arch: Arch, *, every_cycle: bool = False) -> None:
        self._arch, self._library = arch, library()
        numbers = ctypes.byref(sizes(arch)), ctypes.byref(attend_sizes(arch))
        self._handle = self._library.model_new(*numbers, every_cycle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._library.model_free(self._handle)

    def run(
        self,
        program: bytes,
        *,
        address: int = 0,
        memory: MemoryModel | None = None,
        timeout_cycles: int = 10_000_000_000,
        event_limit: int = 0,
        state_events: bool = True,
        attend: Sequence[ModelJob | ModelService] = (),
    ) -> ModelResult:
        """Run a program; see `run_model`. After an error the device is of no use any more."""
        check_counts(program)
        _check_attend(program, self._arch, attend)
        job = Job(program, address, len(program) // INSTRUCTION_BYTES, FIRST_CYCLE, event_limit, state_events)
        tables = _set_jobs(job, self._arch, attend)
        settings = memory_settings(memory or MemoryModel(), 0, 0)
        self._library.model_start(self._handle, ctypes.byref(settings), ctypes.byref(job))
        ended = self._library.model_run(self._handle, timeout_cycles)
        if ended != _ENDED:
            what, now = "hangs in" if ended == _HUNG else "has not ended in", self._library.model_now(self._handle)
            raise SimulationError(f"the program {what} cycle {now}: {_waiting(self._handle, program)}")
        del tables  # the library reads them until here
        return _result(self._handle)


def run_model(arch: Arch, program: bytes, *, every_cycle: bool = False, **options: Any) -> ModelResult:
    """Run an encoded, legal program on a device just powered up; options as in `CycleDevice.run`.

    address : byte address of the program in external memory; a multiple of the beat size and of 32.
    event_limit : events to keep; the runner keeps `sim.runner.EVENT_LIMIT`.
    state_events : whether changes of state count as events; otherwise those of instructions alone, two of each.
    every_cycle : pass cycles one by one, however alike they are; for tests.
    attend : for each ATTEND, in program order, what its cycles depend on (`sim.attention.facts`).

    Raises `ProgramError` for an unknown opcode or a count of zero, for ATTENDs whose jobs are not those of `attend`;
    `SimulationError` when the run does not end in `timeout_cycles` or when every engine
    waits: it names the instructions and the tokens that they lack.
    """
    with CycleDevice(arch, every_cycle=every_cycle) as device:
        return device.run(program, **options)


def check_counts(program: bytes) -> None:
    """Raise `ProgramError` for an unknown opcode or a field below its least value: the model could not go on."""
    if len(program) % INSTRUCTION_BYTES:
        raise ProgramError(f"{len(program)} bytes are no whole number of instructions of {INSTRUCTION_BYTES} bytes")
    words = np.frombuffer(program, "<u8").reshape(-1, INSTRUCTION_BYTES // 8)
    opcodes = words[:, 0] & np.uint64(0xFF)
    unknown = np.flatnonzero(~np.isin(opcodes, list(TABLE)))
    if unknown.size:
        raise ProgramError(f"instruction {unknown[0]}: no instruction has opcode {opcodes[unknown[0]]}")
    for opcode, row in TABLE.items():
        indices = np.flatnonzero(opcodes == opcode)
        for item in row.operands:
            if item.low <= 0:
                continue
            low = indices[_field(words[indices], row.offsets[item.name], item.width) < item.low]
            if low.size:
                raise ProgramError(f"instruction {low[0]}: {opcode.name}.{item.name} must be at least {item.low}")


def _check_attend(program: bytes, arch: Arch, jobs: Sequence[ModelJob | ModelService]) -> None:
    """Raise `ProgramError` unless the ATTENDs of a program have these jobs."""
    words = np.frombuffer(program, "<u8").reshape(-1, INSTRUCTION_BYTES // 8)
    row = TABLE[Opcode.ATTEND]
    places = np.flatnonzero(words[:, 0] & np.uint64(0xFF) == Opcode.ATTEND)
    kinds = _field(words[places], row.offsets["job"], row.operands[0].width)
    if places.size and arch.attention is None:
        raise ProgramError(f"instruction {places[0]} is ATTEND, but {arch.name} has no attention engine")
    if len(places) != len(jobs):
        raise ProgramError(f"the program has {len(places)} jobs of ATTEND, facts of {len(jobs)} are given")
    for place, kind, job in zip(places, kinds, map(_kind, jobs)):
        if kind != job:
            raise ProgramError(f"instruction {place} is an ATTEND of job {kind}, facts are of {job.name}")


def _kind(job: ModelJob | ModelService) -> AttendJob:
    return AttendJob.ATTENTION if isinstance(job, ModelJob) else job.job


def _set_jobs(target: Job, arch: Arch, jobs: Sequence[ModelJob | ModelService]) -> tuple:
    """Point to the jobs of ATTEND; gives what must be kept as long as the library reads it."""
    if not jobs:
        return ()
    attention = [job for job in jobs if isinstance(job, ModelJob)]
    first = job_tables(arch.attention, attention)
    second = service_tables([job for job in jobs if isinstance(job, ModelService)])
    target.attention_count = len(attention)
    target.attention_jobs, target.rows, target.services = map(ctypes.addressof, (*first[:2], second[0]))
    target.places, target.passes, target.service_items, target.service_passes = (
        array.ctypes.data for array in (*first[2:], *second[1:])
    )
    return first, second


def _field(words: np.ndarray, offset: int, width: int) -> np.ndarray:
    """Bits of encoded instructions, uint64 [instruction, 4]."""
    word, shift = divmod(offset, 64)
    value = words[:, word] >> np.uint64(shift)
    if shift + width > 64:
        value = value | words[:, word + 1] << np.uint64(64 - shift)
    return value & np.uint64((1 << width) - 1)


def _waiting(handle: int, program: bytes) -> str:
    """Which instruction of each engine is not done, and what the next one waits for."""
    table = np.zeros((ENGINES, 3), np.int64)
    library().model_queues(handle, table.ctypes.data)
    parts = []
    for oldest, following, lacks in table.tolist():
        if lacks:
            tokens = " and ".join(source.name.lower() for source in Engine if lacks >> source & 1)
            parts.append(f"instruction {following} ({_opcode(program, following)}) waits for a token of {tokens}")
        elif oldest >= 0:
            parts.append(f"instruction {oldest} ({_opcode(program, oldest)}) is not done")
    return "; ".join(parts) or "no instruction is under way"


def _opcode(program: bytes, index: int) -> str:
    return Opcode(program[index * INSTRUCTION_BYTES]).name


def _order(events: np.ndarray) -> tuple[np.ndarray, ...]:
    """Keys that put events in the order of the runner, the last key first: by cycle, then as the trace meets them."""
    met = events["cycle"] + events["length"]
    return events["kind"], events["engine"], events["kind"] != STATE, met, events["cycle"]


def _result(handle: int) -> ModelResult:
    values, states = np.zeros(len(COUNTERS), np.uint64), np.zeros((ENGINES, STATES), np.uint64)
    library().model_counters(handle, values.ctypes.data)
    library().model_states(handle, states.ctypes.data)
    pointer, dropped = ctypes.c_void_p(), ctypes.c_uint64()
    count = library().model_events(handle, ctypes.byref(pointer), ctypes.byref(dropped))
    raw = ctypes.string_at(pointer.value, count * EVENT.itemsize) if count else b""
    events = np.frombuffer(raw, EVENT)
    counters = dict(zip(COUNTERS, map(int, values)))
    cycles = counters.pop("CYCLES")
    return ModelResult(
        cycles=cycles,
        counters={"CYCLES_LOW": cycles & 0xFFFFFFFF, "CYCLES_HIGH": cycles >> 32, **counters},
        states=states,
        events=events[np.lexsort(_order(events))],
        dropped_events=dropped.value,
    )

"""One powered-up Verilated accelerator, reached through the C functions of `harness.cpp`."""

import ctypes
from pathlib import Path
from typing import Self

import numpy as np

from sim.memory import CHANCE_UNIT, CHANNELS, MemoryModel

EVENT = np.dtype(
    [("cycle", "<u8"), ("length", "<u4"), ("kind", "u1"), ("engine", "u1"), ("state", "u1"), ("unused", "u1")]
)
"""One event of the trace, as `TraceEvent` of `trace_log.h`."""
STATE, ISSUE, DONE = 0, 1, 2
"""Kinds of events."""
ENGINES, STATES = 6, 16
"""Rows and columns of the table of states."""


class SimulationError(RuntimeError):
    """The design under simulation misbehaved: no answer, a broken bus rule, or a failed assertion."""


class Settings(ctypes.Structure):
    """`MemorySettings` of `memory_timing.h`: same fields, same order."""

    _fields_ = [
        *((name, ctypes.c_uint64) for name in ("base", "size", "rate_numerator", "rate_denominator", "seed")),
        *((name, ctypes.c_uint64) for name in ("error_low", "error_high")),
        *((name, ctypes.c_uint32) for name in ("read_latency", "write_latency", "outstanding", "stall_every")),
        ("stall_chance", ctypes.c_uint32 * len(CHANNELS)),
    ]


def memory_settings(memory: MemoryModel, base: int, size: int) -> Settings:
    """Settings of a memory whose image has `size` bytes from `base` on."""
    made = Settings(base=base, size=size, seed=memory.seed, stall_every=memory.stall_every)
    if memory.bandwidth is not None:
        made.rate_numerator, made.rate_denominator = memory.bandwidth.numerator, memory.bandwidth.denominator
    if memory.error_range is not None:
        made.error_low, made.error_high = memory.error_range
    made.read_latency, made.write_latency = memory.read_latency, memory.write_latency
    made.outstanding = memory.outstanding
    for channel, chance in enumerate(memory.stall_chances):
        made.stall_chance[channel] = round(chance * CHANCE_UNIT)
    return made


_U64, _U32, _INT, _VOID, _TEXT = ctypes.c_uint64, ctypes.c_uint32, ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p
_SIGNATURES = {
    "new": (_VOID,),
    "free": (None, _VOID),
    "beat_bytes": (_U32,),
    "attach": (None, _VOID, _VOID, ctypes.POINTER(Settings)),
    "reset": (None, _VOID, _INT),
    "write": (_INT, _VOID, _U32, _U32),
    "read": (_INT, _VOID, _U32, ctypes.POINTER(_U32)),
    "start_log": (None, _VOID, _U64),
    "record": (_INT, _VOID, _TEXT, _U64, _U64),
    "run": (_INT, _VOID, _U64),
    "finish": (None, _VOID),
    "now": (_U64, _VOID),
    "idle": (_INT, _VOID),
    "failed": (_INT, _VOID),
    "states": (None, _VOID, _VOID),
    "events": (_U64, _VOID, ctypes.POINTER(_VOID), ctypes.POINTER(_U64)),
    "traffic": (None, _VOID, _VOID),
    "complaints": (_TEXT, _VOID),
}


def load_library(path: Path) -> ctypes.CDLL:
    """Open a library made from `harness.cpp` and declare its functions."""
    library = ctypes.CDLL(str(path))
    for name, (result, *arguments) in _SIGNATURES.items():
        function = getattr(library, f"harness_{name}")
        function.restype, function.argtypes = result, arguments
    return library


class Device:
    """A powered-up accelerator; a context manager, because it holds memory of the library.

    On-chip memories hold zeros after power-up and keep their contents from run to run.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._handle = library.harness_new()
        self._image: np.ndarray | None = None
        self.beat_bytes: int = library.harness_beat_bytes()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Power down; further calls are not allowed."""
        if self._handle:
            self._library.harness_free(self._handle)
            self._handle = None

    def attach(self, image: np.ndarray, base: int, memory: MemoryModel) -> None:
        """Put `image` (uint8, contiguous, writable) at byte address `base`; the accelerator changes it in place."""
        if image.dtype != np.uint8 or image.ndim != 1 or not (image.flags.c_contiguous and image.flags.writeable):
            raise ValueError("image must be a writable contiguous array of bytes")
        self._image = image
        settings = memory_settings(memory, base, image.size)
        self._library.harness_attach(self._handle, image.ctypes.data, ctypes.byref(settings))

    def reset(self, cycles: int = 4) -> None:
        """Hold reset for some cycles."""
        self._library.harness_reset(self._handle, cycles)

    def write(self, address: int, value: int) -> None:
        """Write a host register. Raises `SimulationError` when the bus does not answer OKAY."""
        answer = self._library.harness_write(self._handle, address, value)
        if answer:
            raise SimulationError(f"write of register {address:#x} was answered with {answer}")

    def read(self, address: int) -> int:
        """Read a host register. Raises `SimulationError` when the bus does not answer OKAY."""
        value = _U32()
        answer = self._library.harness_read(self._handle, address, ctypes.byref(value))
        if answer:
            raise SimulationError(f"read of register {address:#x} was answered with {answer}")
        return value.value

    def start_log(self, limit: int) -> None:
        """Make this cycle number 0 and log from here; at most `limit` events are kept."""
        self._library.harness_start_log(self._handle, limit)

    def record(self, path: Path, first: int, last: int) -> None:
        """Write a waveform of cycles `first`..`last` to `path`; needs a library that was built with `trace`."""
        if not self._library.harness_record(self._handle, str(path).encode(), first, last):
            raise ValueError("this library was built without waveforms")

    def run(self, cycles: int) -> bool:
        """Run until the interrupt rises (True) or `cycles` have passed (False)."""
        return bool(self._library.harness_run(self._handle, cycles))

    def finish(self) -> None:
        """Close the log and the waveform."""
        self._library.harness_finish(self._handle)

    @property
    def now(self) -> int:
        """Cycles since the log was started."""
        return self._library.harness_now(self._handle)

    def complaints(self) -> list[str]:
        """What the design did wrong so far: broken bus rules and failed assertions."""
        texts = self._library.harness_complaints(self._handle).decode().splitlines()
        if self._library.harness_failed(self._handle):
            texts.append("an assertion of the design failed")
        return texts

    @property
    def idle(self) -> bool:
        """True when no memory transaction is under way."""
        return bool(self._library.harness_idle(self._handle))

    def states(self) -> np.ndarray:
        """Cycles of each engine in each state since the log was started: uint64 [ENGINES, STATES]."""
        table = np.zeros((ENGINES, STATES), np.uint64)
        self._library.harness_states(self._handle, table.ctypes.data)
        return table

    def events(self) -> tuple[np.ndarray, int]:
        """Events in the order they were closed (array of EVENT), and how many did not fit."""
        pointer, dropped = _VOID(), _U64()
        count = self._library.harness_events(self._handle, ctypes.byref(pointer), ctypes.byref(dropped))
        if not count:
            return np.zeros(0, EVENT), dropped.value
        raw = ctypes.string_at(pointer.value, count * EVENT.itemsize)
        return np.frombuffer(raw, EVENT).copy(), dropped.value

    def traffic(self) -> tuple[int, int]:
        """Beats read and written since `attach`."""
        beats = np.zeros(2, np.uint64)
        self._library.harness_traffic(self._handle, beats.ctypes.data)
        return int(beats[0]), int(beats[1])

"""The host-visible registers as one table; hardware, C header, JSON and REGISTERS.md come from it.

The first four follow the `ap_ctrl_hs` layout that the Vitis runtime expects. All registers are 32 bits wide.
"""

import enum
from dataclasses import dataclass, field

from hwgen.arch.isa import Engine


class Access(enum.StrEnum):
    """How the host may use a register or field."""

    READ_WRITE = "RW"
    READ_ONLY = "RO"
    WRITE_ONE_CLEARS = "W1C"
    CLEAR_ON_READ = "COR"
    WRITE_ONE_SETS = "W1S"


@dataclass(frozen=True)
class Bits:
    """A named part of a register."""

    name: str
    low: int
    width: int
    access: Access
    doc: str


@dataclass(frozen=True)
class Register:
    """One 32-bit register at byte `offset`."""

    name: str
    offset: int
    doc: str
    bits: tuple[Bits, ...] = field(default=())
    access: Access = Access.READ_ONLY
    reset: int = 0


class TensorState(enum.IntEnum):
    """What the tensor engine did in a cycle; each has a counter, and together they make up the run's cycles."""

    IDLE = 0
    BUSY = 1
    TOKENS = 2
    MEMORY = 3
    FILL = 4
    WEIGHTS = 5
    DRAIN = 6
    BUBBLE = 7


TENSOR_STATE_DOC = {
    TensorState.IDLE: "no tensor instruction is left or has arrived yet",
    TensorState.BUSY: "every processing element takes a product",
    TensorState.TOKENS: "waits for the vector engine",
    TensorState.MEMORY: "waits for the load, fill, store or attend engine",
    TensorState.FILL: "waits for activations or earlier sums on their way through the array",
    TensorState.WEIGHTS: "waits for stationary weights on their way into the array",
    TensorState.DRAIN: "waits for results on their way out of the array",
    TensorState.BUBBLE: "interleave factor is below the adder latency",
}

_ABSENT = {Engine.FILL: "; 0 with one memory port", Engine.ATTEND: "; 0 without `attention`"}
_RW, _RO = Access.READ_WRITE, Access.READ_ONLY
MAGIC = 0x53504C4D
"""Content of ID: 'SPLM'."""

REGISTERS: tuple[Register, ...] = (
    Register(
        "CTRL",
        0x00,
        "Start and status of the kernel (ap_ctrl_hs).",
        (
            Bits("ap_start", 0, 1, Access.WRITE_ONE_SETS, "write 1 to start; reads 1 until the run has been accepted"),
            Bits("ap_done", 1, 1, Access.CLEAR_ON_READ, "the run has ended, with or without error"),
            Bits("ap_idle", 2, 1, _RO, "no run is under way"),
            Bits("ap_ready", 3, 1, _RO, "a new start is accepted"),
        ),
        _RW,
        0xC,
    ),
    Register(
        "GIE", 0x04, "Global interrupt enable.", (Bits("enable", 0, 1, _RW, "1: the interrupt line may rise"),), _RW
    ),
    Register("IER", 0x08, "Interrupt enable.", (Bits("done", 0, 1, _RW, "1: ap_done raises the interrupt"),), _RW),
    Register(
        "ISR", 0x0C, "Interrupt status.", (Bits("done", 0, 1, Access.WRITE_ONE_CLEARS, "ap_done has risen"),), _RW
    ),
    Register(
        "PROGRAM_LOW", 0x10, "Byte address of the program, bits 31-0; a multiple of the beat size and of 32.", (), _RW
    ),
    Register("PROGRAM_HIGH", 0x14, "Byte address of the program, bits 63-32.", (), _RW),
    Register("COUNT", 0x1C, "Instructions in the program; 0 ends at once.", (), _RW),
    Register(
        "WATCHDOG", 0x24, "Cycles without any progress after which a run is stopped; 0 means never.", (), _RW, 1 << 20
    ),
    Register(
        "STATUS",
        0x28,
        "Why the last run ended.",
        (
            Bits("cause", 0, 8, _RO, "0: all went well; else a number from the table of causes"),
            Bits("engine", 8, 8, _RO, "engine that met the error (255: fetch)"),
        ),
    ),
    Register("ERROR_PC", 0x2C, "Index of the instruction that met the error."),
    Register("CYCLES_LOW", 0x30, "Cycles of the last run, bits 31-0."),
    Register("CYCLES_HIGH", 0x34, "Cycles of the last run, bits 63-32."),
    Register("READ_BEATS", 0x38, "Beats read from memory in the last run by all ports, program included."),
    Register("WRITE_BEATS", 0x3C, "Beats written to memory in the last run."),
    *(
        Register(
            f"BUSY_{engine.name}",
            0x40 + 4 * engine,
            f"Cycles in which the {engine.name.lower()} engine executed{_ABSENT.get(engine, '')}.",
        )
        for engine in Engine
    ),
    *(
        Register(f"TENSOR_{state.name}", 0x60 + 4 * state, f"Tensor engine cycles: {TENSOR_STATE_DOC[state]}.")
        for state in TensorState
    ),
    Register("ID", 0xF0, "Constant 0x53504C4D.", (), _RO, MAGIC),
    Register(
        "ARCH_HASH", 0xF4, "First 32 bits of the SHA-256 of the architecture, to match a program with its hardware."
    ),
)

ADDRESS_BITS = 12
"""Width of the register bus address."""
FETCH = 255
"""STATUS.engine when the program itself could not be read."""


def register(name: str) -> Register:
    """Look up a register by name; KeyError if there is none."""
    return next(item for item in REGISTERS if item.name == name)

"""The instruction set as one table; `commands.py`, the layout in hardware and ISA.md all come from it.

An instruction is 256 bits, little-endian. Bits 0-31 are the header, the operands follow from bit 32 in table order.
"""

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property

from hwgen.arch.config import INSTRUCTION_BYTES, Arch
from hwgen.arch.fields import Field
from hwgen.arch.services import Job


class Engine(enum.IntEnum):
    """Who executes an instruction; also its bit in the `wait` and `signal` masks."""

    LOAD = 0
    TENSOR = 1
    VECTOR = 2
    STORE = 3
    FILL = 4
    ATTEND = 5


class Opcode(enum.IntEnum):
    """First byte of an instruction. Zero is illegal, so that running off into empty memory stops."""

    LOAD = 1
    TENSOR = 2
    VECTOR = 3
    STORE = 4
    FILL = 5
    ATTEND = 6


class Target(enum.IntEnum):
    """Where LOAD and FILL put their beats."""

    ACT_ROWS = 0
    ACT_CHUNKS = 1
    WGT = 2
    IDX = 3
    ACC32 = 4
    ACC16 = 5
    COLS = 6
    PACKED = 7
    CURVE = 8


ACC_TARGETS = (Target.ACC32, Target.ACC16)
"""Targets in the accumulators."""


class Dataflow(enum.IntEnum):
    """What stays in the processing elements during a TENSOR instruction."""

    OUTPUT_STATIONARY = 0
    WEIGHT_STATIONARY = 1


class Walk(enum.IntEnum):
    """Which operand of a TENSOR instruction is not contiguous: convolutions walk over windows of an image."""

    NONE = 0
    ACT = 1
    WGT = 2


class Operation(enum.IntEnum):
    """What VECTOR computes from the words x, y and z."""

    COPY = 0
    ADD = 1
    SUB = 2
    MUL = 3
    MAC = 4
    MAX = 5
    MIN = 6
    POSITIVE = 7
    EQUAL = 8
    AND = 9
    OR = 10
    XOR = 11
    IADD = 12
    ISUB = 13
    CURVE = 14


READS_X = frozenset({Operation.COPY, Operation.CURVE})
"""Operations that read x alone."""
READS_Z = frozenset({Operation.MAC, Operation.EQUAL})
"""Operations that read x, y and z; all others read x and y."""
INTEGER = frozenset({Operation.AND, Operation.OR, Operation.XOR, Operation.IADD, Operation.ISUB})
"""Operations on bit patterns, whose y may be shifted."""


class Format(enum.IntEnum):
    """What STORE writes."""

    FP32 = 0
    OPERAND = 1
    DENSE = 2
    PACKED = 3


class Cause(enum.IntEnum):
    """Why a run stopped early; the STATUS register holds it."""

    NONE = 0
    BAD_OPCODE = 1
    BAD_FIELD = 2
    SCRATCHPAD_RANGE = 3
    MEMORY_ALIGNMENT = 4
    READ_RESPONSE = 5
    WRITE_RESPONSE = 6
    WATCHDOG = 7
    TOKEN_OVERFLOW = 8
    BAD_DESCRIPTOR = 9


_HEADER = (
    Field("opcode", 8, "operation", choices=Opcode),
    Field("wait", 8, "bit e: take one token from engine e before starting"),
    Field("signal", 8, "bit e: give one token to engine e when done"),
    Field("reserved", 8, "must be zero", high=0),
)


@dataclass(frozen=True)
class Instruction:
    """One row of the instruction table."""

    opcode: Opcode
    engine: Engine
    purpose: str
    operands: tuple[Field, ...]
    offsets: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        offset, offsets = 0, {}
        for item in self.fields:
            offsets[item.name] = offset
            offset += item.width
        if offset > 8 * INSTRUCTION_BYTES:
            raise ValueError(f"{self.opcode.name} takes {offset} bits")
        object.__setattr__(self, "offsets", offsets)

    @property
    def fields(self) -> tuple[Field, ...]:
        """Header and operands, least significant first."""
        return _HEADER + self.operands

    @cached_property
    def others(self) -> int:
        """Mask of the engines that tokens may come from and go to."""
        return mask_of(Engine) & ~(1 << self.engine)


_ACC = "accumulator word"
_ROWS = (
    Instruction(
        Opcode.LOAD,
        Engine.LOAD,
        "Read a strided block of external memory into a scratchpad.",
        (
            Field("target", 4, "destination", choices=Target),
            Field("chunk_log2", 4, "ACT_CHUNKS: log2 of the values that one bank takes of a row", high=6),
            Field("addr", 20, "first scratchpad word"),
            Field(
                "stride",
                20,
                "scratchpad words between rows (ACT_ROWS, ACT_CHUNKS: between rounds over the banks; "
                "COLS, PACKED: between words of a row)",
            ),
            Field("rows", 16, "rows of the block", low=1),
            Field("beats", 16, "memory beats read in each run of a row"),
            Field("pad", 16, "zero beats appended to each row"),
            Field("dram_addr", 48, "byte address of the first beat, a multiple of the beat size"),
            Field("row_stride", 32, "bytes between rows, a multiple of the beat size"),
            Field("planes", 16, "runs of `beats` beats in each row", low=1),
            Field("plane_stride", 32, "bytes between the runs of a row, a multiple of the beat size"),
        ),
    ),
    Instruction(
        Opcode.TENSOR,
        Engine.TENSOR,
        "Multiply a tile of activations by a tile of weights on the array.",
        (
            Field("dataflow", 1, "what stays in the processing elements", choices=Dataflow),
            Field("sparse", 1, "1: weights are N:M with stored indices; 0: dense, a group is `array.lanes` values"),
            Field(
                "first",
                1,
                "1: sums start at +0; 0: they continue (OS: those held in the array, WS: those at acc_addr)",
            ),
            Field("last", 1, "OS: 1 writes the sums to acc_addr, 0 keeps them in the array; WS: must be 1"),
            Field("n", 5, "sparse: weights kept of each group", high=16),
            Field("m", 5, "sparse: values of a group", high=16),
            Field("tile_cols", 5, "interleave over columns: column blocks of `array.cols`", low=1, high=16),
            Field(
                "tile_rows",
                5,
                "OS: interleave over rows: row blocks of `array.rows`; WS: must be 1",
                low=1,
                high=16,
            ),
            Field("groups", 16, "OS: groups along the reduction; WS: array rows that hold weights", low=1),
            Field(
                "rows",
                16,
                "OS: output rows written, at most tile_rows x array.rows; WS: activation rows streamed",
                low=1,
            ),
            Field("act_addr", 20, "first activation word in every bank"),
            Field("act_stride", 20, "OS: words between row blocks"),
            Field("wgt_addr", 20, "first weight (and index) word"),
            Field("acc_addr", 20, f"first {_ACC} of the result"),
            Field("acc_stride", 20, f"{_ACC}s between output rows"),
            Field("walk", 2, "which operand the fields below describe", choices=Walk),
            Field("run", 12, "ACT: activation words, WGT: groups before each jump"),
            Field("jump", 18, "ACT: activation words, WGT: weight words skipped between runs"),
            Field("step", 10, "WGT: weight words from one word of the reduction to the next"),
            Field("col_step", 8, "WGT: weight words from one column block to the next"),
            Field("col_run", 5, "WGT: column blocks before each col_jump", high=16),
            Field("col_jump", 13, "WGT: weight words from the first column block of a run to that of the next"),
        ),
    ),
    Instruction(
        Opcode.VECTOR,
        Engine.VECTOR,
        "Elementwise work on accumulator words: d = relu?(operation(x, y, z)).",
        (
            Field("operation", 5, "what is computed", choices=Operation),
            Field("relu", 1, "1: negative results become +0, NaN stays"),
            Field("shuffle", 3, "0: y as it is; s: column i takes that of column i xor 2**(s-1)"),
            Field(
                "shift",
                5,
                "integer operations: bits by which y is shifted first; CURVE: log2 of the entries a unit",
            ),
            Field("right", 1, "1: shift to the right, filling with zeros; 0: to the left"),
            Field("x_hold", 1, "1: every word of a row of x is its first one"),
            Field("y_hold", 1, "1: every word of a row of y is its first one"),
            Field("z_hold", 1, "1: every word of a row of z is its first one"),
            Field("rows", 16, "rows of the block", low=1),
            Field("words", 16, f"{_ACC}s in a row", low=1),
            Field("x_addr", 20, f"first {_ACC} of x"),
            Field("x_stride", 20, f"{_ACC}s between rows of x"),
            Field("y_addr", 20, f"first {_ACC} of y; CURVE: first entry of the curve"),
            Field(
                "y_stride",
                20,
                f"{_ACC}s between rows of y; 0 repeats one row, as a bias does; CURVE: entries of the curve",
            ),
            Field("z_addr", 20, f"first {_ACC} of z"),
            Field("z_stride", 20, f"{_ACC}s between rows of z"),
            Field("d_addr", 20, f"first {_ACC} of d"),
            Field("d_stride", 20, f"{_ACC}s between rows of d"),
        ),
    ),
    Instruction(
        Opcode.STORE,
        Engine.STORE,
        "Write a strided block of accumulator words to external memory.",
        (
            Field(
                "format",
                4,
                "FP32 (two beats a word), or operands (rounded): OPERAND rows, DENSE and PACKED columns of weights",
                choices=Format,
            ),
            Field("lanes", 8, "valid values in the last word of each row; the rest is written as +0", low=1, high=64),
            Field("addr", 20, f"first {_ACC}"),
            Field("stride", 20, f"{_ACC}s between rows"),
            Field("rows", 16, "rows of the block", low=1),
            Field("words", 16, f"{_ACC}s in a row", low=1),
            Field("dram_addr", 48, "byte address of the first beat, a multiple of the beat size"),
            Field("row_stride", 32, "bytes between rows, a multiple of the beat size"),
            Field("transpose", 1, "1: the transposed block is stored; not with FP32"),
            Field("n", 5, "PACKED: weights kept of each group", high=16),
            Field("m", 5, "PACKED: values of a group", high=16),
            Field("planes", 16, "planes of the block, `words` words of each row apart", low=1),
            Field(
                "plane_stride",
                32,
                "bytes between planes, a multiple of the beat size, negative if they go down",
                low=-(1 << 31),
                high=(1 << 31) - 1,
            ),
        ),
    ),
)
_LOAD = _ROWS[0]
_FILL = Instruction(
    Opcode.FILL,
    Engine.FILL,
    "LOAD into the accumulators, by a memory port of its own; only with `memory.ports` = 2.",
    tuple(
        replace(item, low=Target.ACC32, high=Target.ACC16) if item.name == "target" else item for item in _LOAD.operands
    ),
)
_ATTEND = Instruction(
    Opcode.ATTEND,
    Engine.ATTEND,
    "Run a job of the attention engine; only with `attention`.",
    (
        Field("job", 4, "what the descriptor describes", choices=Job),
        Field("addr", 48, "byte address of the descriptor, a multiple of the beat size"),
    ),
)
TABLE: dict[Opcode, Instruction] = {row.opcode: row for row in (*_ROWS, _FILL, _ATTEND)}


def engines(arch: Arch) -> tuple[Engine, ...]:
    """Engines of an architecture, by number: FILL belongs to the second memory port, ATTEND to `attention`."""
    absent = {Engine.FILL: arch.memory.ports == 1, Engine.ATTEND: arch.attention is None}
    return tuple(engine for engine in Engine if not absent.get(engine, False))


def mask_of(present: Iterable[Engine]) -> int:
    """Engines as bits of a `wait` or `signal` mask."""
    return sum(1 << engine for engine in present)


def load_opcode(arch: Arch, target: Target) -> Opcode:
    """Who loads `target` if LOAD has other things to do: FILL, if there is a second memory port and it can."""
    return Opcode.FILL if arch.memory.ports == 2 and target in ACC_TARGETS else Opcode.LOAD

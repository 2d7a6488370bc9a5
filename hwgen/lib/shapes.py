"""Words and interfaces that engines exchange, all derived from `Arch` and the instruction table."""

from collections.abc import Collection
from functools import reduce
from operator import or_

from amaranth.hdl import Shape, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch import Arch
from hwgen.arch.isa import TABLE, Cause, Engine, Instruction, Opcode, Target

PC_BITS = 24
"""Width of an instruction index."""
WORD_BITS = 20
"""Width of a scratchpad word address, as in the instruction table."""


def _code_bits(codes: type) -> int:
    return max(codes).bit_length()


def instruction_layout(row: Instruction) -> data.StructLayout:
    """Fields of one instruction, header included, least significant first."""
    return data.StructLayout({item.name: item.width for item in row.fields})


class CommandLayout(data.StructLayout):
    """An instruction on its way to an engine: `operands` are the bits above the 32-bit header.

    View them with `operand_layout(opcode)`.
    """

    def __init__(self) -> None:
        super().__init__({"pc": PC_BITS, "opcode": 8, "operands": 256 - 32})


def operand_layout(opcode: Opcode) -> data.StructLayout:
    """Operands of one instruction, for viewing `CommandLayout.operands` (pass the low bits it needs)."""
    return data.StructLayout({item.name: Shape(item.width, item.signed) for item in TABLE[opcode].operands})


class ErrorLayout(data.StructLayout):
    """What an engine reports when it must stop: cause (see `Cause`) and instruction index."""

    def __init__(self) -> None:
        super().__init__({"cause": _code_bits(Cause), "pc": PC_BITS})


class EngineSignature(wiring.Signature):
    """Control side of every engine, seen from the engine.

    Members
    -------
    command : In(stream of CommandLayout)  Next instruction; its tokens have been taken.
    done : Out(1)      Pulses for each instruction, in order, when its last effect is visible.
    busy : Out(1)      An instruction is under way.
    error : Out(ErrorLayout), error_valid : Out(1)   Pulses once at an error; the engine then takes no command.
    stop : In(1)       Another engine met an error: finish transfers under way, start nothing.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "command": In(stream.Signature(CommandLayout())),
                "done": Out(1),
                "busy": Out(1),
                "error": Out(ErrorLayout()),
                "error_valid": Out(1),
                "stop": In(1),
            }
        )


class LoadBeat(data.StructLayout):
    """One beat on its way into a scratchpad, with its place worked out by the load engine.

    target : `Target`. data : one beat. address : word in the bank or memory.
    ACT_ROWS: `bank` takes the whole beat (`whole` = 1).
    ACT_CHUNKS with chunks of at least a beat: as ACT_ROWS. Smaller chunks (`whole` = 0): bank `bank + i` takes
    chunk `i` of the beat for every i < C / B, at operand `position` of the word; B = 2**chunk_log2; banks >= R are
    dropped.
    WGT: `part` is the lane. IDX: 4/lanes index words, `step` words apart from `address` on. ACC32: `part` is the half.
    ACC16: whole word. COLS and PACKED arrive as WGT and IDX. CURVE: an entry, in the lowest bytes.
    """

    def __init__(self, arch: Arch) -> None:
        super().__init__(
            {
                "target": _code_bits(Target),
                "data": arch.memory.data_bits,
                "address": WORD_BITS,
                "step": WORD_BITS,
                "bank": arch.row_bits,
                "whole": 1,
                "chunk_log2": 3,
                "position": (arch.array.cols - 1).bit_length(),
                "part": 2,
            }
        )


class AccRead(wiring.Signature):
    """A read port of the accumulator scratchpad, seen from the reader.

    A request is accepted in a cycle with `valid & ready`; its word is on `data` exactly `AccRead.LATENCY` cycles later,
    for that one cycle.

    Members
    -------
    valid : Out(1), ready : In(1), address : Out(20)
    data : In(C x FP32)
    """

    LATENCY = 2

    def __init__(self, arch: Arch) -> None:
        super().__init__({"valid": Out(1), "ready": In(1), "address": Out(WORD_BITS), "data": In(32 * arch.array.cols)})


class AccWrite(wiring.Signature):
    """A write port of the accumulator scratchpad, seen from the writer; written in the cycle with `valid & ready`.

    `halves` enables the lower and upper half of the word (ACC32 beats). A read accepted in a later cycle sees the data.

    Members
    -------
    valid : Out(1), ready : In(1), address : Out(20), data : Out(C x FP32), halves : Out(2)
    """

    def __init__(self, arch: Arch) -> None:
        super().__init__(
            {
                "valid": Out(1),
                "ready": In(1),
                "address": Out(WORD_BITS),
                "data": Out(32 * arch.array.cols),
                "halves": Out(2),
            }
        )


ALL_ENGINES = tuple(Engine)
"""Engines that an architecture can have; `hwgen.arch.isa.engines` has those of one."""


def engine_places(engines: Collection[Engine]) -> int:
    """Places of arrays and masks that engines have by number; there is one for an engine in between that is absent."""
    return max(engines) + 1


def waits_for_memory(waiting: Value, engines: Collection[Engine]) -> Value:
    """Whether a mask of `engine_places` has an engine that moves memory: all but TENSOR and VECTOR."""
    movers = (Engine.LOAD, Engine.STORE, Engine.FILL, Engine.ATTEND)
    return reduce(or_, (waiting[engine] for engine in movers if engine in engines))


TRACE_BITS = 4
"""Bits of the state that each engine shows on the top-level `trace` port."""
OPERAND = unsigned(16)

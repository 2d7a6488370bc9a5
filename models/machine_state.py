"""What the golden machine remembers between instructions, the errors it meets, and checks that its engines share."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwgen.arch import Arch, ProgramError, UserError
from hwgen.arch.commands import Command
from hwgen.arch.isa import Cause, Engine
from hwgen.arch.registers import FETCH
from models.attention_engine.engine import AttentionEngine
from models.memory import BusError, Memory


class Fault(Exception):
    """An instruction broke a rule of ISA.md; the machine adds engine and instruction index."""

    def __init__(self, cause: Cause, text: str) -> None:
        super().__init__(text)
        self.cause = cause


class Undefined(Exception):
    """An instruction whose result ISA.md leaves open; the machine adds the instruction index."""


class MachineError(UserError):
    """A run that stopped: `cause` and `engine` as the STATUS register shows them, `pc` as ERROR_PC does.

    `engine` is `registers.FETCH` if the opcode is unknown, so that no engine got the instruction.
    """

    def __init__(self, cause: Cause, engine: int, pc: int, text: str) -> None:
        where = "instruction fetch" if engine == FETCH else f"the {Engine(engine).name.lower()} engine"
        super().__init__(f"instruction {pc} stopped {where} with {cause.name}: {text}")
        self.cause, self.engine, self.pc = cause, engine, pc


class UndefinedResultError(ProgramError):
    """A program whose result ISA.md leaves undefined at instruction `pc`; the golden machine refuses to choose one."""

    def __init__(self, pc: int, text: str) -> None:
        super().__init__(f"instruction {pc} has no defined result: {text}")
        self.pc = pc


class AttentionPort:
    """The memory as the attention engine sees it: an access to a gap stops the instruction. Methods are `Memory`'s."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def read(self, address: int, size: int) -> bytes:
        """Raises `Fault` with READ_RESPONSE."""
        return _access(Cause.READ_RESPONSE, self._memory.read, address, size)

    def read_rows(self, address: int, rows: int, size: int, stride: int) -> NDArray[np.uint8]:
        """Raises `Fault` with READ_RESPONSE."""
        return _access(Cause.READ_RESPONSE, self._memory.read_rows, address, rows, size, stride)

    def write(self, address: int, data: bytes | NDArray[np.uint8]) -> None:
        """Raises `Fault` with WRITE_RESPONSE."""
        _access(Cause.WRITE_RESPONSE, self._memory.write, address, data)


def _access(cause: Cause, access: Any, *arguments: Any) -> Any:
    try:
        return access(*arguments)
    except BusError as error:
        raise Fault(cause, str(error)) from None


class State:
    """Scratchpads and external memory.

    act : uint16 [R, act_depth*C], operand bit patterns
    wgt : uint16 [wgt_depth, lanes, C]
    idx : uint8 [wgt_depth, lanes, C]
    acc : uint32 [acc_depth, C], FP32 bit patterns
    curve : uint32 [curve_entries, 2], FP32 bit patterns of slope and offset
    held : uint32 [interleave_max, C, R], sums that an output-stationary instruction left in the array, slot by slot
    held_slots : how many slots of `held` are valid
    attention : attention engine with its importance, or None
    """

    def __init__(self, arch: Arch, memory: Memory) -> None:
        array, pads = arch.array, arch.scratchpads
        self.arch, self.memory = arch, memory
        self.act = np.zeros((array.rows, pads.act_depth * array.cols), dtype=np.uint16)
        self.wgt = np.zeros((pads.wgt_depth, array.lanes, array.cols), dtype=np.uint16)
        self.idx = np.zeros((pads.wgt_depth, array.lanes, array.cols), dtype=np.uint8)
        self.acc = np.zeros((pads.acc_depth, array.cols), dtype=np.uint32)
        self.curve = np.zeros((arch.vector.curve_entries, 2), dtype=np.uint32)
        self.held = np.zeros((array.interleave_max, array.cols, array.rows), dtype=np.uint32)
        self.held_slots = 0
        self.attention: AttentionEngine | None = None
        if arch.attention:
            port = AttentionPort(memory)
            self.attention = AttentionEngine(arch.attention, port, operand=array.operand)


def require(condition: bool, text: str) -> None:
    """BAD_FIELD unless `condition` holds; `text` says what must hold."""
    if not condition:
        raise Fault(Cause.BAD_FIELD, text)


def require_words(memory: str, depth: int, last: int) -> None:
    """SCRATCHPAD_RANGE unless word `last`, the highest that is touched, lies within `depth` words."""
    if last >= depth:
        raise Fault(Cause.SCRATCHPAD_RANGE, f"word {last} of {memory}, which has {depth}")


def require_aligned(item: Command, arch: Arch, extent: int, *, below: int = 0) -> None:
    """MEMORY_ALIGNMENT unless address and strides are whole beats and `extent` bytes from the address on and `below`
    bytes before it are in reach.
    """
    for name in ("dram_addr", "row_stride", "plane_stride"):
        value = item.operands.get(name, 0)
        if value % arch.beat_bytes:
            raise Fault(Cause.MEMORY_ALIGNMENT, f"{name} {value:#x} is not a multiple of {arch.beat_bytes} bytes")
    if item.dram_addr < below:
        raise Fault(Cause.MEMORY_ALIGNMENT, f"address {item.dram_addr - below} is below 0")
    end = item.dram_addr + extent
    if extent and end > 1 << arch.memory.address_bits:
        raise Fault(Cause.MEMORY_ALIGNMENT, f"address {end - 1:#x} is beyond {arch.memory.address_bits} address bits")


def block_words(addr: int, stride: int, rows: int, words: int) -> np.ndarray:
    """Word numbers of a strided block, `[rows, words]`."""
    return addr + stride * np.arange(rows)[:, None] + np.arange(words)

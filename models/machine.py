"""The golden machine: executes an encoded program in program order, as hwgen/arch/ISA.md defines it, without time."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwgen.arch import INSTRUCTION_BYTES, Arch, ProgramError, UserError
from hwgen.arch.commands import Command, decode
from hwgen.arch.isa import TABLE, Cause, Opcode, engines, mask_of
from hwgen.arch.registers import FETCH
from models.machine_attend import execute_attend
from models.machine_load import execute_load
from models.machine_output import execute_store
from models.machine_state import Fault, MachineError, State, Undefined, UndefinedResultError
from models.machine_tensor import TensorWork, execute_tensor
from models.machine_vector import execute_vector
from models.memory import Memory


@dataclass(frozen=True)
class MachineResult:
    """What a complete run did."""

    instructions: int
    """Instructions executed."""
    tensor: tuple[TensorWork, ...]
    """One entry for each TENSOR instruction, in program order."""

    @property
    def beats(self) -> int:
        """Cycles that the array needs at least for all instructions; utilisation is this over the cycles taken."""
        return sum(work.beats for work in self.tensor)

    @property
    def useful_macs(self) -> int:
        """Products of valid rows with weights, padding of columns and of groups included."""
        return sum(work.useful_macs for work in self.tensor)


class Machine:
    """One accelerator with its external memory; scratchpads keep their contents from run to run.

    `memory` is a size in bytes (zeros from address 0), a mapping of base address to initial bytes, or a `Memory`.
    `state` gives access to scratchpads and memory (see `State`).
    """

    def __init__(self, arch: Arch, memory: int | Mapping[int, bytes | NDArray[np.uint8]] | Memory) -> None:
        self.arch = arch
        self.state = State(arch, memory if isinstance(memory, Memory) else Memory(memory))

    @property
    def memory(self) -> Memory:
        """External memory."""
        return self.state.memory

    def run(self, program: bytes, watch: Callable[[Command], None] = lambda item: None) -> MachineResult:
        """Execute an encoded program in program order; tokens are not looked at (see `models.tokens.check_tokens`).

        `watch` is told each instruction before it is executed.

        Raises `MachineError` at the first instruction that meets an error; earlier instructions have taken effect.
        Raises `UndefinedResultError` at the first instruction whose result ISA.md leaves undefined.
        """
        work = []
        count = 0
        for pc, item in enumerate(commands(program, self.arch)):
            count = pc + 1
            watch(item)
            try:
                match item.opcode:
                    case Opcode.LOAD | Opcode.FILL:
                        execute_load(self.state, item)
                    case Opcode.TENSOR:
                        work.append(execute_tensor(self.state, item, pc))
                    case Opcode.VECTOR:
                        execute_vector(self.state, item)
                    case Opcode.STORE:
                        execute_store(self.state, item)
                    case Opcode.ATTEND:
                        execute_attend(self.state, item)
            except Fault as fault:
                raise MachineError(fault.cause, item.engine, pc, str(fault)) from None
            except Undefined as error:
                raise UndefinedResultError(pc, str(error)) from None
        return MachineResult(count, tuple(work))


def commands(program: bytes, arch: Arch) -> Iterator[Command]:
    """Decode a program of an architecture one instruction at a time, so that those before a bad one can be executed.

    Raises `UserError` if the length is not a multiple of 32, `MachineError` at an instruction that is BAD_OPCODE or
    BAD_FIELD on its own.
    """
    if len(program) % INSTRUCTION_BYTES:
        raise UserError(f"a program must be a multiple of {INSTRUCTION_BYTES} bytes, not {len(program)}")
    for pc in range(len(program) // INSTRUCTION_BYTES):
        yield _command(pc, program[pc * INSTRUCTION_BYTES : (pc + 1) * INSTRUCTION_BYTES], arch)


def _command(pc: int, data: bytes, arch: Arch) -> Command:
    present = engines(arch)
    if data[0] not in TABLE or TABLE[Opcode(data[0])].engine not in present:
        raise MachineError(Cause.BAD_OPCODE, FETCH, pc, f"no instruction has opcode {data[0]}")
    engine = TABLE[Opcode(data[0])].engine
    try:
        item = decode(data)
    except ProgramError as error:
        raise MachineError(Cause.BAD_FIELD, engine, pc, str(error)) from None
    for name, mask in (("wait", item.wait), ("signal", item.signal)):
        if mask & ~mask_of(present):
            text = f"{item.opcode.name}.{name} mask must name engines that exist ({mask_of(present):#x}), not {mask:#x}"
            raise MachineError(Cause.BAD_FIELD, engine, pc, text)
    return item

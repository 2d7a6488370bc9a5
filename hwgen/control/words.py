"""What travels inside the command processor, and the bundle between register file and controller."""

from collections.abc import Collection

from amaranth.hdl import ShapeLike, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.config import INSTRUCTION_BYTES
from hwgen.arch.isa import TABLE, Engine
from hwgen.arch.registers import REGISTERS, Access, Register
from hwgen.lib.shapes import ALL_ENGINES, PC_BITS

INSTRUCTION_BITS = 8 * INSTRUCTION_BYTES
HEADER_BITS = 32
REGISTER_BITS = 32
CONSTANTS = ("ID", "ARCH_HASH")
"""Registers whose content is fixed when the hardware is generated."""


class InstructionWord(data.StructLayout):
    """An instruction as fetched: its index in the program and its 256 bits."""

    def __init__(self) -> None:
        super().__init__({"pc": PC_BITS, "word": INSTRUCTION_BITS})


class QueueEntry(data.StructLayout):
    """A checked instruction on its way to a queue: the masks have one bit for each of `engines`."""

    def __init__(self, engines: int, operand_bits: int = INSTRUCTION_BITS - HEADER_BITS) -> None:
        super().__init__({"pc": PC_BITS, "wait": engines, "signal": engines, "opcode": 8, "operands": operand_bits})


def operand_bits(engine: Engine) -> int:
    """Bits that the longest instruction of an engine takes above the header."""
    return max(sum(item.width for item in row.operands) for row in TABLE.values() if row.engine == engine)


def register_shape(item: Register) -> ShapeLike:
    """Shape of a register: its named bits at their places, or a plain number."""
    if not item.bits:
        return unsigned(REGISTER_BITS)
    return data.FlexibleLayout(REGISTER_BITS, {bits.name: data.Field(bits.width, bits.low) for bits in item.bits})


class Settings(data.StructLayout):
    """Registers that the host writes before a run, by name in lower case."""

    def __init__(self) -> None:
        names = ("PROGRAM_LOW", "PROGRAM_HIGH", "COUNT", "WATCHDOG")
        super().__init__({name.lower(): REGISTER_BITS for name in names})


def registers_of(engines: Collection[Engine]) -> list[Register]:
    """Registers of a design that has `engines`: those of an engine that it lacks are left out."""
    absent = {f"BUSY_{engine.name}" for engine in Engine if engine not in engines}
    return [item for item in REGISTERS if item.name not in absent]


class Report(data.StructLayout):
    """Registers that the hardware fills during a run, by name in lower case."""

    def __init__(self, engines: Collection[Engine] = ALL_ENGINES) -> None:
        super().__init__(
            {
                item.name.lower(): register_shape(item)
                for item in registers_of(engines)
                if item.access == Access.READ_ONLY and item.name not in CONSTANTS
            }
        )


class RunSignature(wiring.Signature):
    """Between register file and controller of a design with `engines`, seen from the register file.

    Members
    -------
    start : Out(1)              Pulse, only while `idle`: begin a run with `settings`.
    settings : Out(Settings)    Read in the cycle of `start`; WATCHDOG counts all through the run.
    idle : In(1)                No run is under way.
    done : In(1)                Pulse in the last cycle of a run.
    report : In(Report)         Live during a run, then kept until the next one.
    """

    def __init__(self, engines: Collection[Engine] = ALL_ENGINES) -> None:
        super().__init__(
            {
                "start": Out(1),
                "settings": Out(Settings()),
                "idle": In(1),
                "done": In(1),
                "report": In(Report(engines)),
            }
        )

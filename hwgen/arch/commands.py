"""Instructions with their operands: to bytes, from bytes, and as text; everything by the table of `isa.py`."""

from dataclasses import dataclass

from hwgen.arch.config import INSTRUCTION_BYTES
from hwgen.arch.errors import ProgramError
from hwgen.arch.isa import TABLE, Engine, Instruction, Opcode


@dataclass(frozen=True)
class Command:
    """A decoded instruction: its opcode, masks and operand values by name."""

    opcode: Opcode
    operands: dict[str, int]
    wait: int = 0
    signal: int = 0

    @property
    def engine(self) -> Engine:
        """Engine that executes this command."""
        return TABLE[self.opcode].engine

    def __getattr__(self, name: str) -> int:
        try:
            return self.__dict__["operands"][name]
        except KeyError:
            raise AttributeError(name) from None


def command(opcode: Opcode, *, wait: int = 0, signal: int = 0, **operands: int) -> Command:
    """Build a command; operands not given are 0 (1 if that is the least value). Raises `ProgramError` on a bad one."""
    row = TABLE[opcode]
    values = {item.name: int(operands.pop(item.name, max(item.low, 0))) for item in row.operands}
    if operands:
        raise ProgramError(f"{opcode.name} has no field {', '.join(sorted(operands))}")
    made = Command(opcode, values, wait, signal)
    _check(made, row)
    return made


def encode(item: Command) -> bytes:
    """Encode to 32 bytes. Raises `ProgramError` naming the field and its range."""
    row = TABLE[item.opcode]
    word = item.opcode | item.wait << row.offsets["wait"] | item.signal << row.offsets["signal"]
    for spec in row.operands:
        word |= spec.bits(item.operands[spec.name]) << row.offsets[spec.name]
    _check(item, row)
    return word.to_bytes(INSTRUCTION_BYTES, "little")


def decode(data: bytes) -> Command:
    """Decode 32 bytes. Raises `ProgramError` on an unknown opcode or a value out of its range."""
    word = int.from_bytes(data, "little")
    if len(data) != INSTRUCTION_BYTES or (word & 0xFF) not in TABLE:
        raise ProgramError(f"no instruction has opcode {word & 0xFF} in {len(data)} bytes")
    row = TABLE[Opcode(word & 0xFF)]
    values = {f.name: f.value(f.bits(word >> row.offsets[f.name])) for f in row.fields}
    if values["reserved"]:
        raise ProgramError(f"{row.opcode.name}.reserved must be in 0..0, not {values['reserved']}")
    top = row.offsets[row.operands[-1].name] + row.operands[-1].width
    if word >> top:
        raise ProgramError(f"{row.opcode.name}: bits {top} and above must be zero")
    made = Command(row.opcode, {f.name: values[f.name] for f in row.operands}, values["wait"], values["signal"])
    _check(made, row)
    return made


def _check(item: Command, row: Instruction) -> None:
    """Raise `ProgramError` for a value out of its range, and for tokens of engines that take no part."""
    operands = item.operands
    for spec in row.operands:
        if not spec.low <= operands[spec.name] <= spec.limit:
            value = operands[spec.name]
            raise ProgramError(f"{row.opcode.name}.{spec.name} must be in {spec.low}..{spec.limit}, not {value}")
    for name, mask in (("wait", item.wait), ("signal", item.signal)):
        if mask & ~row.others:
            raise ProgramError(
                f"{row.opcode.name}.{name} mask must name other engines (bits {row.others:#x}), not {mask:#x}"
            )


def listing(item: Command) -> str:
    """One line of text: opcode, operands that are not zero, then what it waits for and signals."""
    row = TABLE[item.opcode]
    parts = [row.opcode.name.ljust(6)]
    for spec in row.operands:
        value = item.operands[spec.name]
        if spec.choices is not None and (value or spec is row.operands[0]):
            parts.append(f"{spec.name}={spec.choices(value).name.lower()}")
        elif value:
            parts.append(f"{spec.name}={value:#x}" if "addr" in spec.name else f"{spec.name}={value}")
    for word, mask in (("after", item.wait), ("then", item.signal)):
        if mask:
            parts.append(f"{word} {'+'.join(e.name.lower() for e in Engine if mask >> e & 1)}")
    return " ".join(parts)

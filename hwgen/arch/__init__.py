"""The contract: configuration, instruction set and registers. Imports nothing of the rest of the project."""

from hwgen.arch.config import INDEX_BITS, INSTRUCTION_BYTES, Arch, arch_from_dict, load, preset_names
from hwgen.arch.errors import ArchError, ProgramError, UserError

__all__ = [
    "INDEX_BITS",
    "INSTRUCTION_BYTES",
    "Arch",
    "ArchError",
    "ProgramError",
    "UserError",
    "arch_from_dict",
    "load",
    "preset_names",
]

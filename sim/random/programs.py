"""Random legal programs: every mode, target and token pattern on shapes that are multiples of nothing.

`random_program(arch, seed)` gives the same program for the same arguments. It is legal in the sense of ISA.md: no
undefined result, no undeclared order between engines. What the numbers mean does not matter; golden machine and RTL
must agree on them.
"""

from dataclasses import dataclass

import numpy as np

from hwgen.arch import INSTRUCTION_BYTES, Arch, ProgramError
from hwgen.arch.commands import Command, encode
from sim.random.dependencies import with_tokens
from sim.random.jobs import JobBuilder

ATTEMPTS = 20


@dataclass(frozen=True)
class RandomProgram:
    """A program in its memory image, ready to run."""

    commands: list[Command]
    image: np.ndarray
    """Bytes from `base` on: operands, room for results, program."""
    base: int
    program: int
    """Byte address of the program."""
    seed: int

    @property
    def encoded(self) -> bytes:
        """The program as the hardware reads it."""
        return b"".join(map(encode, self.commands))


def random_program(arch: Arch, seed: int, *, jobs: int = 4) -> RandomProgram:
    """Draw a program of at most `jobs` matrix products with their loads, vector work and stores."""
    rng = np.random.default_rng([seed, arch.array.rows, arch.array.cols])
    for attempt in range(ATTEMPTS):
        builder = JobBuilder(arch, rng)
        for _ in range(max(1, int(rng.integers(1, jobs + 1)) - attempt // 4)):
            builder.add_job()
        try:
            return _assemble(arch, builder, seed)
        except ProgramError:
            if attempt == ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def _assemble(arch: Arch, builder: JobBuilder, seed: int) -> RandomProgram:
    commands = with_tokens(builder.steps, arch)
    align = max(INSTRUCTION_BYTES, arch.beat_bytes)
    program = -(-builder.dram_end // align) * align
    # The fetch reads whole beats and may read ahead of the last instruction.
    image = np.zeros(program - builder.base + len(commands) * INSTRUCTION_BYTES + 8192, np.uint8)
    for address, data in builder.contents:
        image[address - builder.base : address - builder.base + data.size] = data
    code = np.frombuffer(b"".join(map(encode, commands)), np.uint8)
    image[program - builder.base : program - builder.base + code.size] = code
    return RandomProgram(commands, image, builder.base, program, seed)

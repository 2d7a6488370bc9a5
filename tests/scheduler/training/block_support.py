"""Microcode on accumulator blocks: put values in, run what was recorded on the golden machine, take values out."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from hwgen.arch import Arch, load
from hwgen.arch.commands import encode
from hwgen.arch.isa import Opcode
from models.machine import Machine
from scheduler.training.kernels.curves import CURVES, Place, table
from scheduler.training.kernels.emitter import Block, Emitter
from tests.scheduler.support import used

ROOMY = dataclasses.replace(
    load("tiny"),
    name="roomy",
    scratchpads=dataclasses.replace(load("tiny").scratchpads, acc_depth=1 << 16),
    vector=dataclasses.replace(load("tiny").vector, curve_entries=4096),
)
"""`tiny` with banks of 16384 words, so that a function is tried on many values in one run, and room for curves."""


class Blocks:
    """An emitter, and what lies in the accumulators before the run; the named curves lie in memory."""

    def __init__(self, arch: Arch = ROOMY, *, curves: Sequence[str] = ()) -> None:
        self.arch, self.em = arch, Emitter(arch)
        self.memory = bytearray(64)
        for name in curves:
            first = sum(place.curve.size for place in self.em.curves.places.values())
            self.em.curves.places[name] = Place(CURVES[name], first, len(self.memory))
            self.memory += table(name).tobytes()
        self.contents: list[tuple[Block, np.ndarray]] = []

    def put(self, values: np.ndarray) -> Block:
        """A block that holds float32 or uint32 values [rows, words, columns]."""
        block = self.em.take(*values.shape[:2])
        self.contents.append((block, np.ascontiguousarray(values).view(np.uint32)))
        return block

    def run(self, scalars: dict[str, float] | None = None) -> Machine:
        """Execute everything recorded so far."""
        machine = used(Machine(self.arch, {0: bytes(self.memory)}))
        acc, cols = machine.state.acc, self.arch.array.cols
        for block, words in self.contents:
            acc[_words(block)] = words
        for key in self.em.constants:
            value = np.float32(scalars[key]).view(np.uint32) if isinstance(key, str) else np.array(key, np.uint32)
            acc[self.em.constant(key).addr] = np.broadcast_to(value, cols)
        machine.run(b"".join(encode(item) for item in self.em.recorder.commands))
        return machine

    def passes(self, block: Block) -> float:
        """VECTOR work recorded so far, in passes over a block."""
        items = [item for item in self.em.recorder.commands if item.opcode == Opcode.VECTOR]
        return sum(item.rows * item.words for item in items) / (block.rows * block.words)


def read(machine: Machine, block: Block) -> np.ndarray:
    """Values [rows, words, columns] of a block after a run."""
    return machine.state.acc[_words(block)].view(np.float32)


def _words(block: Block) -> np.ndarray:
    step = 0 if block.hold else 1
    return block.addr + block.stride * np.arange(block.rows)[:, None] + step * np.arange(block.words)

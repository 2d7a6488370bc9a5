"""A program for one accelerator: instructions, the memory around them, and where inputs go and results are."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hwgen.arch import INSTRUCTION_BYTES, Arch, UserError
from hwgen.arch.commands import Command, encode, listing
from hwgen.arch.isa import Format
from models.formats import decode, fp32_values
from models.formats import encode as encode_operands
from models.packing import fp32_from_bytes, matrix_bytes, matrix_from_bytes


@dataclass(frozen=True)
class Segment:
    """A piece of external memory with its name in the listing; `data` None means that only its space is kept."""

    name: str
    kind: Literal["program", "weights", "indices", "bias", "input", "tensor", "output"]
    address: int
    size: int
    data: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Port:
    """A matrix of `rows` x `cols` in memory that stands for an input or output tensor of `shape`.

    An input may have several ports, if the model reads it in several shapes.
    """

    name: str
    shape: tuple[int, ...]
    address: int
    rows: int
    cols: int
    format: Format

    def size(self, arch: Arch) -> int:
        """Bytes in memory: every row is filled up to whole words."""
        beats = 2 if self.format == Format.FP32 else 1
        return self.rows * ceil(self.cols / arch.array.cols) * beats * arch.beat_bytes


@dataclass(frozen=True)
class Heading:
    """What begins at instruction `position`, for the listing."""

    position: int
    name: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Program:
    """Everything that a run needs. Addresses are absolute; memory is used from 0 to `memory_size`."""

    arch: Arch
    commands: tuple[Command, ...] = field(repr=False)
    program_address: int
    segments: tuple[Segment, ...] = field(repr=False)
    """In ascending order; the instructions themselves are the last one, without data."""
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    headings: tuple[Heading, ...] = field(repr=False, default=())

    @property
    def memory_size(self) -> int:
        """Bytes of external memory that the program needs."""
        return max(segment.address + segment.size for segment in self.segments)

    @property
    def symbols(self) -> dict[str, int]:
        """Segment name -> byte address."""
        return {segment.name: segment.address for segment in self.segments}

    def encode(self) -> bytes:
        """The instructions, 32 bytes each."""
        return b"".join(encode(item) for item in self.commands)

    def image(self, inputs: Mapping[str, ArrayLike] | None = None) -> NDArray[np.uint8]:
        """External memory before a run, `[memory_size]` bytes: program, weights, biases and inputs; the rest is zero.

        `inputs` maps each input's name to values of its shape, which are rounded to operands; without `inputs` their
        places stay zero. Raises `UserError` on missing or unknown names, other shapes, and finite values that
        overflow.
        """
        memory = np.zeros(self.memory_size, dtype=np.uint8)
        for segment in self.segments:
            data = self.encode() if segment.kind == "program" else segment.data
            if data is not None:
                memory[segment.address : segment.address + len(data)] = np.frombuffer(data, dtype=np.uint8)
        if inputs is not None:
            self.place_inputs(memory, inputs)
        return memory

    def place_inputs(self, memory: NDArray[np.uint8], inputs: Mapping[str, ArrayLike]) -> None:
        """Write inputs into a memory made by `image`; errors as there."""
        known = {port.name for port in self.inputs}
        if known != set(inputs):
            raise UserError(f"the program has inputs {', '.join(sorted(known))}, not {', '.join(sorted(inputs))}")
        for port in self.inputs:
            bits = self._operands(port, inputs[port.name])
            data = matrix_bytes(bits.reshape(port.rows, port.cols), self.arch)
            memory[port.address : port.address + len(data)] = np.frombuffer(data, dtype=np.uint8)

    def read_outputs(self, memory: NDArray[np.uint8] | bytes) -> dict[str, NDArray[np.float32]]:
        """Results in external memory after a run, each in its tensor's shape."""
        return {port.name: self._values(port, memory).reshape(port.shape) for port in self.outputs}

    def read_output_bits(self, memory: NDArray[np.uint8] | bytes) -> dict[str, NDArray[np.integer]]:
        """As `read_outputs`, but the bit patterns: uint32 for FP32 results, uint16 for operands."""
        return {port.name: self._bits(port, memory).reshape(port.shape) for port in self.outputs}

    def listing(self) -> str:
        """Readable text: symbols, then each layer's heading and instructions with their numbers."""
        lines = [f"; {len(self.commands)} instructions for {self.arch.name}, {self.memory_size:,} bytes of memory"]
        for segment in self.segments:
            size = f"{segment.size:>10,} bytes"
            lines.append(f"; {segment.address:#010x} {size}  {segment.kind:8s} {segment.name}")
        for kind, ports in (("input", self.inputs), ("output", self.outputs)):
            for port in ports:
                text = f"{list(port.shape)} as {port.rows} x {port.cols} {port.format.name.lower()}"
                lines.append(f"; {kind} {port.name} at {port.address:#x}: {text}")
        headings = {heading.position: heading for heading in self.headings}
        for position, item in enumerate(self.commands):
            if position in headings:
                lines += ["", f"; {headings[position].name}: {headings[position].text}"]
            lines.append(f"{position:6d}  {listing(item)}")
        return "\n".join(lines) + "\n"

    def _operands(self, port: Port, value: ArrayLike) -> NDArray[np.uint16]:
        values = np.asarray(value)
        if values.shape != port.shape or values.dtype.kind not in "fiub":
            raise UserError(
                f"input {port.name} must be an array of numbers of shape {list(port.shape)}, "
                f"not {values.dtype} of shape {list(values.shape)}"
            )
        operand = self.arch.array.operand
        with np.errstate(over="ignore"):
            single = values.astype(np.float32)
        bits = encode_operands(single, operand)
        overflow = np.isfinite(values) & np.isinf(decode(bits, operand))
        if overflow.any():
            position = [int(i) for i in np.argwhere(overflow)[0]]
            raise UserError(
                f"input {port.name}: element {position} is {values[tuple(position)]}, which overflows {operand}"
            )
        return bits

    def _bits(self, port: Port, memory: NDArray[np.uint8] | bytes) -> NDArray[np.integer]:
        data = bytes(memory[port.address : port.address + port.size(self.arch)])
        read = fp32_from_bytes if port.format == Format.FP32 else matrix_from_bytes
        return read(data, self.arch, port.rows, port.cols)

    def _values(self, port: Port, memory: NDArray[np.uint8] | bytes) -> NDArray[np.float32]:
        bits = self._bits(port, memory)
        return fp32_values(bits) if port.format == Format.FP32 else decode(bits, self.arch.array.operand)


def instruction_count(data: bytes) -> int:
    """Number of instructions in encoded form."""
    return len(data) // INSTRUCTION_BYTES

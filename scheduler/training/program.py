"""A training program: one step as instructions, the memory around it, and how a host feeds it and reads it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil

import numpy as np
from numpy.typing import NDArray

from hwgen.arch import INSTRUCTION_BYTES, Arch, UserError
from hwgen.arch.arrays import encode_program
from hwgen.arch.commands import Command, listing
from models.formats import decode, fp32_bits
from models.formats import encode as encode_operands
from scheduler.training.graph.ir import KEPT, Kind, TrainingGraph
from scheduler.training.kernels.banks import constant_words
from scheduler.training.kernels.emitter import Feature
from scheduler.training.kernels.rules import derived_scalars
from scheduler.training.lower import Step
from scheduler.training.memory import Row
from scheduler.training.products.weights import Weights, master_values, master_words

Values = NDArray[np.float32]


@dataclass(frozen=True)
class Code:
    """Encoded instructions at a byte address."""

    commands: tuple[Command, ...] = field(repr=False)
    address: int
    origins: Sequence[int] = field(repr=False, default=())
    """For each instruction, its number in the order in which kernels recorded them."""

    def encode(self) -> bytes:
        """32 bytes an instruction."""
        return self._encoded

    @cached_property
    def _encoded(self) -> bytes:
        """Made once: a trainer asks for it in every step."""
        return encode_program(self.commands)

    @property
    def size(self) -> int:
        """Bytes."""
        return INSTRUCTION_BYTES * len(self.commands)


@dataclass(frozen=True, kw_only=True)
class TrainingProgram:
    """What a host needs to train: `start` runs once after parameters were written, `step` once for each batch."""

    arch: Arch
    graph: TrainingGraph = field(repr=False)
    places: Step = field(repr=False)
    start: Code
    step: Code
    scalars: Mapping[str, float]
    """Hyper-parameters, `LOSS_SCALE` and `STEP` (`rules.py`) of the first step."""

    @property
    def memory_size(self) -> int:
        """Bytes of external memory, from address 0."""
        end = max(code.address + code.size for code in (self.start, self.step))
        return ceil(end / 4096) * 4096

    def image(self, values: Mapping[str, Values] | None = None) -> NDArray[np.uint8]:
        """External memory before the first run: parameters, states and statistics, programs, constants.

        `values` are the tensors that are kept, by name, as the graph has them (its own values if None).
        """
        memory = np.zeros(self.memory_size, np.uint8)
        for code in (self.start, self.step):
            _put(memory, code.address, code.encode())
        for address, data in self.places.data:
            _put(memory, address, data)
        self.write_kept(memory, self.graph.values if values is None else values)
        self.write_scalars(memory, {})
        return memory

    def write_kept(self, memory: NDArray[np.uint8], values: Mapping[str, Values]) -> None:
        """Write parameters, states and statistics."""
        for name, value in values.items():
            place = self._kept(name)
            if isinstance(place, Row):
                _put(memory, place.address, self._row_bytes(place, value))
            else:
                weights, number = place
                words = master_words(weights, self.arch, value)
                _put(memory, weights.masters[number].address, words.tobytes())

    def read_kept(self, memory: NDArray[np.uint8]) -> dict[str, Values]:
        """Parameters, states and statistics after a run, as the graph has them."""
        return {name: self._read(memory, name) for name in self.graph.of_kind(*KEPT)}

    def write_batch(self, memory: NDArray[np.uint8], batch: Mapping[str, Values]) -> None:
        """Write inputs and labels, in the shapes of the graph's tensors."""
        given = self.graph.of_kind(Kind.INPUT, Kind.LABEL)
        if set(batch) != set(given):
            raise UserError(f"a batch has {', '.join(sorted(given))}, not {', '.join(sorted(batch))}")
        for name, values in batch.items():
            feature = self.places.features[name]
            if values.shape != self.graph.tensors[name].shape or not np.isfinite(values).all():
                raise UserError(f"{name} must be finite numbers of shape {self.graph.tensors[name].shape}")
            _put(memory, feature.address, self._feature_bytes(feature, values))

    def write_scalars(self, memory: NDArray[np.uint8], scalars: Mapping[str, float]) -> None:
        """Write constants, and what follows from the program's scalars; `scalars` override these by name.

        Adam and SGD with dampening need `STEP` (`rules.py`) in every step.
        """
        known = derived_scalars(self.graph.operators, dict(self.scalars) | dict(scalars))
        words = np.zeros((constant_words(self.arch), self.arch.array.cols), np.uint32)
        for number, key in enumerate(self.places.em.constants):
            words[number] = key if isinstance(key, int | tuple) else fp32_bits(np.float32(known[key]))
        _put(memory, self.places.memory.constants, words.tobytes())

    def read_loss(self, memory: NDArray[np.uint8]) -> float:
        """The loss of the last step."""
        return float(self._read_row(memory, self.places.rows["loss"])[0])

    def read_feature(self, memory: NDArray[np.uint8], name: str) -> Values:
        """A tensor of operands after a run, [N, H, W, C]."""
        feature = self.places.features[name]
        count = feature.n * feature.image_words * self.arch.array.cols
        bits = memory[feature.address : feature.address + 2 * count].view(np.uint16)
        values = decode(bits, self.arch.array.operand)
        return values.reshape(*self.graph.tensors[name].shape[:3], -1)[..., : feature.c]

    def listing(self) -> str:
        """Readable text: memory, how each product is cut, then the step's instructions with their numbers."""
        lines = [f"; {len(self.step.commands)} instructions for {self.arch.name}, {self.memory_size:,} bytes of memory"]
        lines += [
            f"; {item.address:#010x} {item.size:>10,} bytes  {item.kind:10s} {item.name}"
            for item in self.places.memory.segments
        ]
        lines += [f"; {name}: {note}" for name, note in self.places.notes.items()]
        lines += [f"; {item}" for item in self.places.decisions]
        lines += [f"; curves: {self.places.em.curves}"] if str(self.places.em.curves) else []
        lines += [f"{position:6d}  {listing(item)}" for position, item in enumerate(self.step.commands)]
        return "\n".join(lines) + "\n"

    def _kept(self, name: str) -> Row | tuple[Weights, int]:
        if name in self.places.rows:
            return self.places.rows[name]
        for weights in self.places.weights.values():
            for number, master in enumerate(weights.masters):
                if master.name == name:
                    return weights, number
        raise UserError(f"{name} is not kept from step to step")

    def _read(self, memory: NDArray[np.uint8], name: str) -> Values:
        place, shape = self._kept(name), self.graph.tensors[name].shape
        if isinstance(place, Row):
            return self._read_row(memory, place).reshape(shape)
        weights, number = place
        count = weights.channels * weights.taps * weights.inputs
        address = weights.masters[number].address
        words = memory[address : address + 4 * count].view(np.float32).reshape(-1, self.arch.array.cols)
        return master_values(weights, self.arch, words, shape)

    def _read_row(self, memory: NDArray[np.uint8], row: Row) -> Values:
        size = 4 * row.words * self.arch.array.cols
        return memory[row.address : row.address + size].view(np.float32)[: row.channels].copy()

    def _row_bytes(self, row: Row, values: Values) -> bytes:
        filled = np.zeros(row.words * self.arch.array.cols, np.float32)
        filled[: row.channels] = values.reshape(-1)
        return filled.tobytes()

    def _feature_bytes(self, feature: Feature, values: Values) -> bytes:
        width = feature.words * self.arch.array.cols
        filled = np.pad(values.astype(np.float32), [(0, 0)] * 3 + [(0, width - values.shape[3])])
        return encode_operands(filled, self.arch.array.operand).tobytes()


def _put(memory: NDArray[np.uint8], address: int, data: bytes) -> None:
    memory[address : address + len(data)] = np.frombuffer(data, np.uint8)

"""A program for one sequence, the memory around it, and how a host feeds it and reads it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil

import numpy as np
from numpy.typing import NDArray

from hwgen.arch import Arch, UserError
from hwgen.arch.commands import listing
from hwgen.arch.services import INDEX_BYTES
from models.formats import decode, encode
from scheduler.attention.cascade import Kept
from scheduler.attention.lengths import Lengths
from scheduler.training.graph.ir import Kind
from scheduler.training.kernels.banks import constant_words
from scheduler.training.kernels.emitter import Feature
from scheduler.training.lower import Step
from scheduler.training.program import Code

Values = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class EncoderProgram:
    """What a host needs: write hidden states, run `code`, read hidden states of the survivors."""

    arch: Arch
    places: Step = field(repr=False)
    code: Code
    kept: tuple[Kept, ...]
    """What each layer keeps."""
    selected: tuple[tuple[int, int], ...]
    """Address of the index list of each selection of tokens, and the layer that keeps them."""
    lengths: Lengths | None = field(default=None, repr=False)
    """None: all sequences are as long as the input."""

    @property
    def memory_size(self) -> int:
        """Bytes of external memory, from address 0."""
        return ceil((self.code.address + self.code.size) / 4096) * 4096

    @property
    def input(self) -> Feature:
        """Where hidden states go: the sum of embeddings, or what their normalisation makes of it."""
        return self._inputs[0]

    @property
    def _inputs(self) -> list[Feature]:
        """Hidden states, then tables of positions."""
        return [self.places.features[name] for name in self.places.graph.of_kind(Kind.INPUT)]

    @property
    def output(self) -> Feature:
        """Where hidden states of the survivors are."""
        return self.places.features[self.places.graph.outputs["output"]]

    def image(self, hidden: Values | None = None, length: int | None = None) -> NDArray[np.uint8]:
        """External memory before the first run: weights, constants, descriptors, the program, and perhaps an input."""
        memory = np.zeros(self.memory_size, np.uint8)
        self.fill(memory)
        if hidden is not None:
            self.write_input(memory, hidden, length)
        return memory

    def fill(self, memory: NDArray[np.uint8]) -> None:
        """Write all of it but the input."""
        words = np.zeros((constant_words(self.arch), self.arch.array.cols), np.uint32)
        for number, key in enumerate(self.places.em.constants):
            words[number] = key
        constants = self.places.memory.constants, words.tobytes()
        for address, data in (*self.places.data, constants, (self.code.address, self.code.encode())):
            put(memory, address, data)
        values = self.places.graph.values
        self.write_tables(memory, [values[place.name][0, 0] for place in self._inputs[1:]])

    def write_input(self, memory: NDArray[np.uint8], hidden: Values, length: int | None = None) -> None:
        """Write hidden states [T, D], rounded to operands; of a padded sequence the first `length` rows are its tokens.

        Raises `UserError` unless they fit and those of tokens are finite.
        """
        place = self.input
        length = place.n if length is None else length
        kept = self.kept_of(length)
        if hidden.shape != (place.n, place.c) or not np.isfinite(hidden[:length]).all():
            raise UserError(f"hidden states must be finite numbers of shape [{place.n}, {place.c}]")
        self._write_rows(memory, place, hidden[: kept[0].tokens])
        for address, contents in self.lengths.contents(length) if self.lengths else ():
            put(memory, address, contents)

    def write_tables(self, memory: NDArray[np.uint8], tables: Sequence[Values]) -> None:
        """Write what belongs to the positions of the tokens, [T, C] each. Raises `UserError` unless all of it fits."""
        places = self._inputs[1:]
        if [table.shape for table in tables] != [(place.n, place.c) for place in places]:
            wanted = ", ".join(f"[{place.n}, {place.c}]" for place in places) or "none"
            raise UserError(f"tables of positions must be {wanted}, not {[list(table.shape) for table in tables]}")
        for place, table in zip(places, tables, strict=True):
            self._write_rows(memory, place, table)

    def _write_rows(self, memory: NDArray[np.uint8], place: Feature, rows: Values) -> None:
        """The first rows of a feature map; the others become 0."""
        filled = np.zeros((place.n, place.words * self.arch.array.cols), np.float32)
        filled[: len(rows), : place.c] = rows
        put(memory, place.address, encode(filled, self.arch.array.operand).tobytes())

    def kept_of(self, length: int | None = None) -> list[Kept]:
        """What each layer keeps of a sequence. Raises `UserError` for a length that the program is not for."""
        if length is None or length == self.input.n:
            return list(self.kept)
        if self.lengths is None:
            raise UserError(f"this program is for {self.input.n} tokens, not {length}")
        return self.lengths.kept(length)

    def read_output(self, memory: NDArray[np.uint8], length: int | None = None) -> Values:
        """Hidden states [survivors, D] after a run of a sequence."""
        return self.read_rows(memory, self.output)[: self.kept_of(length)[-1].tokens]

    def read_rows(self, memory: NDArray[np.uint8], place: Feature) -> Values:
        """Rows of operands of any feature map."""
        size = place.n * place.words * self.arch.array.cols
        bits = memory[place.address : place.address + 2 * size].view(np.uint16)
        return decode(bits, self.arch.array.operand).reshape(place.n, -1)[:, : place.c]

    def survivors(self, memory: NDArray[np.uint8], length: int | None = None) -> NDArray[np.int64]:
        """Positions of the survivors in the sequence after a run, ascending."""
        kept = self.kept_of(length)
        positions = np.arange(kept[0].tokens)
        for address, layer in self.selected:
            listed = memory[address : address + INDEX_BYTES * kept[layer].tokens]
            positions = positions[listed.view(np.uint16)]
        return positions

    def listing(self) -> str:
        """Readable text: what layers keep, memory, how products are cut, then the instructions with their numbers."""
        step = self.places
        lines = [f"; {len(self.code.commands)} instructions for {self.arch.name}, {self.memory_size:,} bytes of memory"]
        lines += [f"; layer {number}: {one.tokens} tokens, {one.heads} heads" for number, one in enumerate(self.kept)]
        lines += [
            f"; {item.address:#010x} {item.size:>10,} bytes  {item.kind:10s} {item.name}"
            for item in step.memory.segments
        ]
        lines += [f"; {name}: {note}" for name, note in step.notes.items()]
        lines += [f"; {item}" for item in step.decisions]
        lines += [f"; curves: {step.em.curves}"] if str(step.em.curves) else []
        lines += [f"{position:6d}  {listing(item)}" for position, item in enumerate(self.code.commands)]
        return "\n".join(lines) + "\n"


def put(memory: NDArray[np.uint8], address: int, data: bytes) -> None:
    """Write bytes into a memory image."""
    memory[address : address + len(data)] = np.frombuffer(data, np.uint8)

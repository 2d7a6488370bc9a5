"""Instructions of a training step: accumulator blocks, feature maps in external memory, and what each one touches.

Kernels are written as if everything ran one after the other; the hazards that are declared here let the offline
scheduler run engines side by side.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import ceil

import numpy as np

from hwgen.arch import Arch, UserError
from hwgen.arch.commands import command
from hwgen.arch.isa import READS_X, READS_Z, Format, Opcode, Operation, Target, load_opcode
from scheduler.hazards import Recorder, Region
from scheduler.training.kernels.banks import Accumulators, Banks, constant_words
from scheduler.training.kernels.blocks import Block, Chunk, Feature
from scheduler.training.kernels.curves import Curves
from scheduler.vectors import as_one_row

Operand = Block | float | int | str
"""A source of VECTOR: a block, or what `Emitter.constant` takes."""


class Emitter(Accumulators):
    """Records instructions with their accesses, on blocks of accumulator words; `constant` gives words that live
    through the program.
    """

    def __init__(self, arch: Arch) -> None:
        super().__init__(arch)
        self.recorder = Recorder()
        self.constants: list[int | str | tuple[int, ...]] = []
        """FP32 pattern of each constant (or one for each column), or the name of a scalar that the host sets."""
        self.curves = Curves()

    # ---- accumulator blocks

    def choose_banks(self, kind: Banks) -> None:
        """The same; what products need of other engines comes first, as long as the array has nothing else to do."""
        super().choose_banks(kind)
        self.recorder.prefer = self.apart and kind == Banks.PRODUCTS and not self._gaps_filled

    @contextmanager
    def preferred(self) -> Iterator[None]:
        """What is recorded meanwhile comes before what other instructions on the same engine could do."""
        before, self.recorder.prefer = self.recorder.prefer, True
        yield
        self.recorder.prefer = before

    def constant(self, value: float | int | str | tuple[int, ...]) -> Block:
        """The word that holds a number (float), a bit pattern (int) or a named scalar (str) in every column, or the bit
        patterns of a tuple, one in each column.
        """
        key = constant_bits(value) if isinstance(value, float) else value
        if key not in self.constants:
            if len(self.constants) == constant_words(self.arch):
                raise UserError(f"a training step may use at most {len(self.constants)} constants and scalars here")
            self.constants.append(key)
        place = self.arch.scratchpads.acc_depth - constant_words(self.arch) + self.constants.index(key)
        return Block(place, 1, 1, 1)

    # ---- instructions

    def vector(
        self,
        operation: Operation,
        d: Block,
        x: Operand,
        y: Operand | None = None,
        z: Operand | None = None,
        **fields: int,
    ) -> Block:
        """Record `d = operation(x, y, z)`; `fields` are relu, shuffle, shift, right. Gives `d`.

        Sources of one row, or of one word in a row, are repeated as the shape of `d` asks; numbers are constants.
        """
        used = {"x": x}
        if operation not in READS_X:
            used["y"] = y
        if operation in READS_Z:
            used["z"] = z
        operands = {"operation": operation, "rows": d.rows, "words": d.words, "d_addr": d.addr, "d_stride": d.stride}
        for name, value in used.items():
            if value is None:
                raise ValueError(f"{operation.name} needs {name}")
            block = used[name] = (value if isinstance(value, Block) else self.constant(value)).like(d)
            if (block.rows, block.words) != (d.rows, d.words):
                raise ValueError(f"{operation.name}: {name} is {block}, but d is {d}")
            operands |= {f"{name}_addr": block.addr, f"{name}_stride": block.stride, f"{name}_hold": block.hold}
        item = command(Opcode.VECTOR, **as_one_row(operands), **fields)
        self.recorder.add(item, reads=[block.region for block in used.values()], writes=[d.region])
        return d

    def curve(self, name: str, d: Block, x: Block) -> Block:
        """Record a curve that has a place, `d` of `x`, in one pass; the first time with the LOAD of its lines."""
        place = self.curves.places[name]
        size = place.curve.size
        if name not in self.curves.loaded:
            self.curves.loaded.add(name)
            lines = Region("dram", place.unit, place.unit + 1)
            fields = {"rows": 1, "beats": size, "dram_addr": place.address}
            self.load(Target.CURVE, place.first, lines, place.entries, **fields)
        x = x.like(d)
        operands = {"operation": Operation.CURVE, "rows": d.rows, "words": d.words}
        operands |= {"x_addr": x.addr, "x_stride": x.stride, "x_hold": x.hold, "d_addr": d.addr, "d_stride": d.stride}
        operands |= {"y_addr": place.first, "y_stride": size, "shift": place.curve.shift}
        item = command(Opcode.VECTOR, **as_one_row(operands))
        self.recorder.add(item, reads=[x.region, place.entries], writes=[d.region])
        return d

    def load_block(self, block: Block, address: int, row_stride: int, reads: Region, *, wide: bool = False) -> Block:
        """LOAD or FILL ACC16 (or, `wide`, ACC32) of `block.rows` rows into a block."""
        self.load(
            Target.ACC32 if wide else Target.ACC16,
            block.addr,
            reads,
            block.region,
            stride=block.stride,
            rows=block.rows,
            beats=block.words * (2 if wide else 1),
            dram_addr=address,
            row_stride=row_stride,
        )
        return block

    def load(self, target: Target, addr: int, reads: Region | None, writes: Region, **fields: int) -> None:
        """Any LOAD or FILL; `reads` is None for padding alone."""
        item = command(load_opcode(self.arch, target), target=target, addr=addr, **fields)
        spaces = [writes, replace(writes, space="idx")] if target == Target.PACKED else [writes]
        self.recorder.add(item, reads=[] if reads is None else [reads], writes=spaces)

    def store(
        self,
        block: Block,
        address: int,
        row_stride: int,
        writes: Region,
        form: Format,
        *,
        planes: int = 1,
        **fields: int | None,
    ) -> None:
        """Any STORE of a block, which is cut into `planes`; all lanes unless `lanes` is given."""
        place = {"addr": block.addr, "stride": block.stride, "rows": block.rows, "words": block.words // planes}
        place["planes"] = planes
        fields["lanes"] = fields.get("lanes") or self.arch.array.cols
        item = command(Opcode.STORE, format=form, dram_addr=address, row_stride=row_stride, **place, **fields)
        self.recorder.add(item, reads=[block.region], writes=[writes])

    def tensor(self, reads: list[Region], writes: list[Region], **fields: int) -> None:
        """Any TENSOR."""
        self.recorder.add(command(Opcode.TENSOR, **fields), reads=reads, writes=writes)

    # ---- feature maps

    def region(self, feature: Feature, image: int, h: int, rows: int, images: int = 1) -> Region:
        """Image rows for hazards, of the block that `image` is in; all rows if `images` are of several blocks."""
        first = (image + feature.shift) // self.arch.array.rows
        last = (image + images - 1 + feature.shift) // self.arch.array.rows
        if feature.span:
            return Region("dram", feature.unit, feature.unit + feature.span)
        if first != last:
            return Region("dram", feature.unit + first * feature.h, feature.unit + (last + 1) * feature.h)
        start = feature.unit + first * feature.h + h
        return Region("dram", start, start + rows)

    def pixels(self, feature: Feature, first: int, count: int) -> Region:
        """The same for `count` pixels from pixel `first` on, counted over images and rows."""
        size = feature.h * feature.w
        low, high = first // size, (first + count - 1) // size
        if low == high:
            h, last = first % size // feature.w, (first + count - 1) % size // feature.w
            return self.region(feature, low, h, last - h + 1)
        return self.region(feature, low, 0, feature.h, high - low + 1)

    def chunks(self, feature: Feature, limit: int) -> Iterator[Chunk]:
        """Cut a feature map into chunks of at most `limit` words: whole rows of images of one block, or part of one.

        Images of a single pixel are taken together over blocks.
        """
        per_row, block = feature.row_words, self.arch.array.rows
        if feature.h == feature.w == 1:
            block = max(block, limit // per_row // block * block)
        if feature.words > limit:
            raise UserError(f"a pixel of {feature.name} takes {feature.words} accumulator words, {limit} are free")
        images = max(1, min(block, feature.n, limit // per_row))
        rows = max(1, min(feature.h, limit // (per_row * images)))
        width = min(feature.w, limit // feature.words)
        for first in range(0, feature.n, block):
            end = min(feature.n, first + block)
            for h in range(0, feature.h, rows):
                for image in range(first, end, images):
                    for w in range(0, feature.w, width):
                        self.begin_chunk()
                        count, height = min(images, end - image), min(rows, feature.h - h)
                        yield Chunk(image, count, h, height, w, min(width, feature.w - w))

    def fetch(self, feature: Feature, chunk: Chunk, *, source: bool = False) -> Block:
        """LOAD a chunk as FP32: one row for each pixel, `feature.words` words each; a `source` is only read."""
        address, stride = self._place(feature, chunk)
        take = self.take_source if source else self.take
        block = take(chunk.images, chunk.rows * chunk.width * feature.words)
        self.load_block(_line(feature, chunk, block), address, stride, self._region(feature, chunk))
        return block.reshape(chunk.pixels, feature.words)

    def put(self, feature: Feature, chunk: Chunk, block: Block) -> None:
        """STORE a chunk, rounded to operands; the shape of `block` is that of `fetch`."""
        address, stride = self._place(feature, chunk)
        image = block.reshape(chunk.images, chunk.rows * chunk.width * feature.words)
        self.store(_line(feature, chunk, image), address, stride, self._region(feature, chunk), Format.OPERAND)

    def _region(self, feature: Feature, chunk: Chunk) -> Region:
        return self.region(feature, chunk.image, chunk.h, chunk.rows, chunk.images)

    def _place(self, feature: Feature, chunk: Chunk) -> tuple[int, int]:
        beat = self.arch.beat_bytes
        word = chunk.image * feature.image_words + chunk.h * feature.row_words + chunk.w * feature.words
        return feature.address + word * beat, feature.image_words * beat


def _line(feature: Feature, chunk: Chunk, block: Block) -> Block:
    """A chunk as one row, if its images follow one another in memory."""
    whole = chunk.rows * chunk.width * feature.words == feature.image_words
    return block.reshape(1, block.rows * block.words) if whole else block


def constant_bits(value: float) -> int:
    """FP32 pattern of a constant."""
    return int(np.float32(value).view(np.uint32))


def words_of(channels: int, arch: Arch) -> int:
    """Words that hold `channels` channels."""
    return ceil(channels / arch.array.cols)

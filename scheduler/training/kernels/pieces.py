"""Pieces of feature maps under pooling windows, as blocks of accumulator words.

A piece lies in the accumulators as *slots*, one for each image row, of `pitch` pixels. Pitch and slots of an image are
multiples of the stride, borders are filled up: then the pixels (or the slots) at one place of all windows are a block
with a stride. What is computed for windows that do not exist is never stored.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil

from hwgen.arch.isa import Format, Operation
from scheduler.training.graph.base import Window
from scheduler.training.kernels.emitter import Block, Emitter, Feature


@dataclass(frozen=True, kw_only=True)
class Side:
    """The image rows of a feature map that belong to a piece, and where its pixels lie in the block."""

    feature: Feature
    h: int
    """First image row."""
    end: int
    """Image row after the last one."""
    keep: tuple[int, int]
    """First and last row (exclusive) that are stored; the others belong to neighbouring pieces too."""
    slot: int
    """Slot of row `h`."""
    slots: int
    """Slots of an image."""
    left: int
    """Pixels before the first one of a slot."""
    pitch: int
    """Pixels of a slot."""


@dataclass(frozen=True)
class Piece:
    """Some rows of windows over some images of one image block: the pixels, and one value for each window."""

    em: Emitter
    window: Window
    image: int
    images: int
    pixels: Side
    values: Side

    def across(self, block: Block) -> list[Block]:
        """Pixels at each place of the windows along the width, of a block of one row for each pixel."""
        return _places(block, self.window.kernel[1], self.window.stride[1])

    def down(self, block: Block) -> list[Block]:
        """Slots at each place of the windows along the height, of a block of one row for each slot and window in it."""
        slots = block.reshape(self.images * self.pixels.slots, self.values.pitch * block.words)
        return _places(slots, self.window.kernel[0], self.window.stride[0])

    def down_phases(self, phases: list[Block]) -> list[Block]:
        """The blocks of `load_phases` at each place of the windows along the height, a row for each row of windows."""
        places = [divmod(place, len(phases)) for place in range(self.window.kernel[0])]
        return [phases[phase].part(later, phases[phase].rows - later) for later, phase in places]

    def lines(self, block: Block) -> Block:
        """One row for each row of windows, of a block of one row for each window."""
        return block.reshape(self.images * self.values.slots, self.values.pitch * block.words)

    def take_slots(self, apart: Block) -> Block:
        """Room for a value of each slot and window in it."""
        rows = self.images * self.pixels.slots * self.values.pitch
        return self.em.take(rows, self.pixels.feature.words, apart=apart)

    def take_lines(self, apart: list[Block]) -> Block:
        """Room for a value of each pixel along the width and row of windows."""
        rows, words = self.images * self.values.slots, self.pixels.pitch * self.pixels.feature.words
        return self.em.take(rows, words, apart=apart)

    def take(self, side: Side, *, apart: Block | None = None) -> Block:
        """Room for a side: one row for each of its pixels."""
        return self.em.take(self.images * side.slots * side.pitch, side.feature.words, apart=apart)

    def kept(self, feature: Feature) -> Side:
        """The pixels that are stored: all slots, if the piece has several images, which then are whole ones."""
        side = replace(self.pixels, feature=feature)
        if self.images > 1:
            return side
        first, end = side.keep
        return replace(side, h=first, end=end, slot=0, slots=end - first)

    def kept_part(self, block: Block) -> Block:
        """The slots of `kept` in a block with the same number of rows for each slot."""
        side, rows = self.pixels, block.rows // (self.images * self.pixels.slots)
        first, end = side.keep
        return block if self.images > 1 else block.part((side.slot + first - side.h) * rows, (end - first) * rows)

    def load(self, side: Side, fill: float | int) -> Block:
        """LOAD a side, with `fill` where the feature map has no pixel."""
        block, words = self.take(side), side.feature.words
        line, below = side.pitch * words, side.slot + side.end - side.h
        slots = block.reshape(self.images * side.slots, line)
        right = side.left + side.feature.w
        borders = (
            slots.columns(0, side.left * words),
            slots.columns(right * words, line - right * words),
            Block(block.addr, self.images, side.slot * line, side.slots * line),
            Block(block.addr + below * line, self.images, (side.slots - below) * line, side.slots * line),
        )
        self._fill(borders, fill)
        for part, address, stride in self._parts(side, block, side.h, side.end):
            region = self.em.region(side.feature, self.image, side.h, side.end - side.h)
            self.em.load_block(part, address, stride, region)
        return block

    def load_phases(self, side: Side, fill: float | int) -> list[Block]:
        """LOAD the slots of a side, those at each remainder of the stride into a block of one row for each."""
        stride, line, width = self.window.stride[0], side.pitch * side.feature.words, side.feature.row_words
        count, left = side.slots // stride, side.left * side.feature.words
        blocks: list[Block] = []
        for phase in range(stride):
            block = self.em.take(self.images * count, line, apart=blocks)
            blocks.append(block)
            first, end = (-(-(slot - phase) // stride) for slot in (side.slot, side.slot + side.end - side.h))
            borders = (
                block.columns(0, left),
                block.columns(left + width, line - left - width),
                Block(block.addr, self.images, first * line, count * line),
                Block(block.addr + end * line, self.images, (count - end) * line, count * line),
            )
            self._fill(borders, fill)
            self._load_phase(side, block, (first, end), phase)
        return blocks

    def _load_phase(self, side: Side, block: Block, rows: tuple[int, int], phase: int) -> None:
        """Rows `rows[0]` .. `rows[1] - 1` of each image of a block with every `stride`-th slot from `phase` on."""
        feature, beat, stride = side.feature, self.em.arch.beat_bytes, self.window.stride[0]
        line, width, count = side.pitch * feature.words, feature.row_words, side.slots // stride
        top = side.h + rows[0] * stride + phase - side.slot
        region = self.em.region(feature, self.image, side.h, side.end - side.h)
        address = feature.address + (self.image * feature.image_words + top * width) * beat
        start = block.addr + rows[0] * line + side.left * feature.words
        for image in range(self.images if rows[0] < rows[1] else 0):
            part = Block(start + image * count * line, rows[1] - rows[0], width, line)
            self.em.load_block(part, address, stride * width * beat, region)
            address += feature.image_words * beat

    def _fill(self, borders: Sequence[Block], value: float | int) -> None:
        with self.em.preferred():  # the LOAD waits for them, behind everything of the piece before
            for border in borders:
                if border.words:
                    self.em.vector(Operation.COPY, border, value)

    def store(self, side: Side, block: Block) -> None:
        """STORE the rows of a side that this piece is there for."""
        first, end = side.keep
        for part, address, stride in self._parts(side, block, first, end):
            region = self.em.region(side.feature, self.image, first, end - first)
            self.em.store(part, address, stride, region, Format.OPERAND)

    def _parts(self, side: Side, block: Block, first: int, end: int) -> Iterator[tuple[Block, int, int]]:
        """Blocks that hold image rows `first` .. `end - 1`, each with its address and stride in memory."""
        feature, beat = side.feature, self.em.arch.beat_bytes
        line, width, rows = side.pitch * feature.words, feature.row_words, end - first
        start = block.addr + (side.slot + first - side.h) * line + side.left * feature.words
        address, step = feature.address + (self.image * feature.image_words + first * width) * beat, side.slots * line
        if line == width:
            yield Block(start, self.images, rows * width, step), address, feature.image_words * beat
            return
        for image in range(self.images):
            yield Block(start + image * step, rows, width, line), address, width * beat
            address += feature.image_words * beat


ROUNDS = 8
"""A forward pooling goes over all images of a block in this many rounds of rows, so that the next product, which takes
a row of all images at a time, can begin after the first."""


def pieces(
    em: Emitter, x: Feature, y: Feature, window: Window, blocks: int, *, overlap: bool = False
) -> Iterator[Piece]:
    """Cut a pooling of x to y into whole images or rows of windows, at least one.

    If possible, a piece is so small that `blocks` times its words of x find room twice. With `overlap` a piece has all
    windows over the rows of x that it keeps, and every row of x is kept by one piece.
    """
    limit = min(
        em.bank_words // (1 if overlap or window.stride[0] > 1 else 2), em.bank_words * len(em.rings) // (2 * blocks)
    )
    cutter = _Cutter(em, x, y, window, overlap)
    line = cutter.pitch * window.stride[1] * x.words
    images, most = min(em.arch.array.rows, x.n, limit // (line * cutter.slots(y.h))), y.h
    if not overlap and images < min(em.arch.array.rows, x.n):
        images, most = 1, ceil(y.h / ROUNDS)
    count = next((rows for rows in range(most, 1, -1) if line * cutter.slots(rows) <= limit), 1)
    for block in range(0, x.n, em.arch.array.rows):
        end = min(x.n, block + em.arch.array.rows)
        for first in range(0, y.h, count):
            for image in range(block, end, max(1, images)):
                piece = cutter.piece(image, min(max(1, images), end - image), first, min(first + count, y.h))
                if not overlap or piece.pixels.keep[0] < piece.pixels.keep[1]:
                    em.begin_chunk()
                    yield piece


class _Cutter:
    """Geometry of the pieces of one pooling."""

    def __init__(self, em: Emitter, x: Feature, y: Feature, window: Window, overlap: bool) -> None:
        self.em, self.x, self.y, self.window, self.overlap = em, x, y, window, overlap
        (self.kernel, kernel_w), (self.stride, stride_w) = window.kernel, window.stride
        self.pitch = ceil(max(window.padding[1] + x.w, stride_w * (y.w - 1) + kernel_w) / stride_w)
        """Windows of a slot."""
        self.halo = (self.kernel - 1) // self.stride if overlap else 0
        """Rows of windows before those of a piece that reach into its rows of x."""

    def slots(self, count: int) -> int:
        """Most slots of an image in a piece of `count` rows of windows."""
        whole = self.window.padding[0] + self.x.h if self.overlap and count == self.y.h else 0
        span = self.stride * (count + self.halo - 1) + max(self.kernel, self.stride)
        return ceil(max(span, whole) / self.stride) * self.stride

    def piece(self, image: int, images: int, first: int, last: int) -> Piece:
        """Rows of windows `first` .. `last - 1`."""
        low, stride, height = max(0, first - self.halo), self.stride, self.x.h
        top = stride * low - self.window.padding[0]
        span = stride * (last - 1 - low) + (max(self.kernel, stride) if self.overlap else self.kernel)
        end = height if self.overlap and last == self.y.h else min(height, top + span)
        slots = ceil(max(span, end - top) / stride)
        start = 0 if first == 0 else stride * first - self.window.padding[0]
        stop = end if last == self.y.h else min(height, stride * last - self.window.padding[0])
        pixels = Side(
            feature=self.x,
            h=max(0, top),
            end=end,
            keep=(start, stop),
            slot=max(0, -top),
            slots=slots * stride,
            left=self.window.padding[1],
            pitch=self.pitch * self.window.stride[1],
        )
        values = Side(
            feature=self.y, h=low, end=last, keep=(first, last), slot=0, slots=slots, left=0, pitch=self.pitch
        )
        return Piece(self.em, self.window, image, images, pixels, values)


def _places(block: Block, kernel: int, stride: int) -> list[Block]:
    """Every `stride`-th row of a block from each place of a window on; also places between windows, if there are any.

    The number of rows is a multiple of the stride, so only places beyond the stride lack rows at the end.
    """
    return [block.part(place, (block.rows - 1 - place) // stride + 1, stride) for place in range(max(kernel, stride))]

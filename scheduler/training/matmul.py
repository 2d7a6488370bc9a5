"""Products of activations: for each image and head a dense product of two matrices, either one transposed on request.

The left matrix waits in the banks, a row (or, transposed, a column) in each; the right one in the weight scratchpad as
it lies in memory, and the WGT walk of TENSOR takes a head's columns out of it. If it is to be transposed, its transpose
is written to memory first.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from hwgen.arch import UserError
from hwgen.arch.isa import Dataflow, Target, Walk
from scheduler.hazards import Region
from scheduler.training.emitter import Block, Emitter, Feature
from scheduler.training.ir import Kind, Tensor
from scheduler.training.memory import MemoryMap
from scheduler.training.operators import MatMul
from scheduler.training.row_choices import most_row_blocks
from scheduler.training.rows import RowEpilogue, Rows
from scheduler.training.shapes import Shape
from scheduler.training.transposes import Matrix, transpose
from scheduler.training.windows import Rings

RUN_LIMIT = 4095
"""Groups of a run that TENSOR's field holds."""


@dataclass(frozen=True)
class Matrices:
    """A matrix `[rows, columns]` for each image and head: one pixel a row.

    Those of an image lie `merged`, side by side in the words of its pixels, or one after the other; from one (or from
    those of one image) to the next there are `pitch` pixels.
    """

    feature: Feature
    heads: int
    rows: int
    columns: int
    merged: bool
    pitch: int

    @property
    def words(self) -> int:
        """Words of a row of one matrix."""
        return self.feature.words // self.heads if self.merged else self.feature.words

    def of(self, image: int, head: int) -> Rows:
        """The matrix of one head."""
        if self.merged:
            return Rows(self.feature, image * self.pitch, self.rows, head * self.words, self.words)
        return Rows(self.feature, (image * self.heads + head) * self.pitch, self.rows, 0, self.words)

    def whole(self, image: int, head: int) -> tuple[Rows, int]:
        """What is loaded in one go, all heads of an image if they are merged, and the head's first word in it."""
        if self.merged:
            return Rows(self.feature, image * self.pitch, self.rows, 0, self.feature.words), head * self.words
        return self.of(image, head), 0


def matrices(feature: Feature, shape: Shape, heads: int, cols: int, name: str) -> Matrices:
    """The matrices of a tensor `[N, H, W, C]`: H is the number of heads, or 1 if they are merged in the channels."""
    _, height, width, channels = shape
    if height == heads:
        return Matrices(feature, heads, width, channels, False, width)
    if channels // heads % cols:
        raise UserError(
            f"{name}: {heads} heads in {channels} channels have {channels // heads} each, "
            f"which must be a multiple of array.cols ({cols})"
        )
    return Matrices(feature, heads, width, channels // heads, True, width)


def head_product(
    em: Emitter,
    rings: Rings,
    memory: MemoryMap,
    item: MatMul,
    features: Mapping[str, Feature],
    shapes: Mapping[str, Shape],
) -> "HeadProduct":
    """The product of an operator, from the places and shapes of its tensors."""
    cols, images = em.arch.array.cols, shapes[item.left][0]
    left, right, output = (
        matrices(features[name], shapes[name], item.heads, cols, item.output)
        for name in (item.left, item.right, item.output)
    )
    turned = None
    if item.transpose_right:
        pixels = images * item.heads * -(-right.columns // cols) * cols
        name = f"{item.right} (transposed for {item.output})"
        turned = memory.feature(Tensor(name, (pixels, 1, 1, right.rows), Kind.ACTIVATION), "transposed")
    return HeadProduct(em, rings, item, left, right, output, images, turned)


@dataclass
class HeadProduct:
    """Emits one `MatMul`. `turned` is room for the transposes of the right side if it is transposed."""

    em: Emitter
    rings: Rings
    item: MatMul
    left: Matrices
    right: Matrices
    output: Matrices
    images: int
    turned: Feature | None = None
    interleave: bool = True
    _held: dict[tuple[str, Rows], Region] = field(default_factory=dict)

    def emit(self, epilogue: RowEpilogue | None = None, *, interleave: bool = True) -> None:
        """Record all tiles; results are stored as operands. Without `interleave`, one sum an element."""
        self._check()
        self.interleave = interleave
        for image in range(self.images):
            for head in range(self.left.heads):
                self._head(image, head, epilogue)

    @property
    def reduction(self) -> int:
        """Values that are added up."""
        return self.left.rows if self.item.transpose_left else self.left.columns

    def _check(self) -> None:
        """Raise `UserError` if the matrices of one image don't fit."""
        pads, cols = self.em.arch.scratchpads, self.em.arch.array.cols
        blocks = -(-self.output.rows // self.em.arch.array.rows)
        act = blocks * -(-self.reduction // cols)
        if self.left.merged and not self.item.transpose_left:
            act = blocks * self.left.feature.words
        if act > pads.act_depth:
            raise UserError(
                f"{self.item.output}: matrices of {self.item.left} take {act} activation words a bank, "
                f"scratchpads.act_depth is {pads.act_depth}"
            )
        right, _ = self._right_matrices().whole(0, 0)
        if right.count * right.words > pads.wgt_depth:
            raise UserError(
                f"{self.item.output}: matrices of {self.item.right} take {right.count * right.words} weight words, "
                f"scratchpads.wgt_depth is {pads.wgt_depth}"
            )

    def _right_matrices(self) -> Matrices:
        """The right side as it is loaded: [reduction, columns]."""
        right, cols = self.right, self.em.arch.array.cols
        if self.turned is None:
            return right
        return Matrices(self.turned, right.heads, right.columns, right.rows, False, -(-right.columns // cols) * cols)

    def _head(self, image: int, head: int, epilogue: RowEpilogue | None) -> None:
        """All tiles of one matrix of the output."""
        if self.turned is not None and (head == 0 or not self.right.merged):
            self._turn(image, head)
        columns, column_word = self._load_right(image, head)
        rows, row_word = self._load_left(image, head)
        matrix = self.output.of(image, head)
        for first, count, word, words in self._tiles(matrix):
            tile = Rows(matrix.feature, matrix.first + first, count, matrix.word + word, words)
            result = self._product(tile, (rows, row_word, first), (columns, column_word + word))
            last = word + words == matrix.words and self.output.columns % self.em.arch.array.cols
            tile.put(self.em, epilogue(result, tile) if epilogue else result, last or None)

    def _turn(self, image: int, head: int) -> None:
        """Write the transposes of an image's matrices, if they are merged, or of one."""
        source, _ = self.right.whole(image, head)
        target = self._right_matrices().of(image, head)
        transpose(
            self.em,
            Matrix(source.feature, source.first * source.feature.words, source.feature.words),
            Matrix(target.feature, target.first * target.feature.words, target.feature.words),
            source.count,
            source.words,
        )

    def _tiles(self, matrix: Rows) -> Iterator[tuple[int, int, int, int]]:
        """First row, rows, first word, words of each tile."""
        array = self.em.arch.array
        blocks = -(-matrix.count // array.rows)
        tile_rows = min(blocks, most_row_blocks(self.em.arch, array.lanes)) if self.interleave else 1
        tile_cols = min(matrix.words, array.interleave_max // tile_rows) if self.interleave else 1
        for word in range(0, matrix.words, tile_cols):
            for first in range(0, matrix.count, tile_rows * array.rows):
                count = min(tile_rows * array.rows, matrix.count - first)
                yield first, count, word, min(tile_cols, matrix.words - word)

    def _load_right(self, image: int, head: int) -> tuple[Region, int]:
        """The right matrix in the weight scratchpad, pixel by pixel, and the first word of the head."""
        rows, word = self._right_matrices().whole(image, head)
        if ("right", rows) not in self._held:
            start = self.rings.wgt.take(rows.count * rows.words)
            region = Region("wgt", start, start + rows.count * rows.words)
            self._load(Target.WGT, rows, region, stride=rows.words)
            self._hold("right", rows, region)
        return self._held["right", rows], word

    def _load_left(self, image: int, head: int) -> tuple[Region, int]:
        """The left matrix in the banks, row blocks one after the other, and the first word of the head in them."""
        array = self.em.arch.array
        if self.item.transpose_left:
            rows = self.left.of(image, head)
            words = -(-rows.count // array.cols)
            area = -(-rows.words * array.cols // array.rows) * words
            start = self.rings.act.take(area)
            region = Region("act", start, start + area)
            self._load(Target.ACT_CHUNKS, rows, region, chunk_log2=0, stride=words)
            return region, 0
        rows, word = self.left.whole(image, head)
        if ("left", rows) not in self._held:
            area = -(-rows.count // array.rows) * rows.words
            start = self.rings.act.take(area)
            region = Region("act", start, start + area)
            self._load(Target.ACT_ROWS, rows, region, stride=rows.words)
            self._hold("left", rows, region)
        return self._held["left", rows], word

    def _hold(self, side: str, rows: Rows, region: Region) -> None:
        """Remember what is in a scratchpad, one thing for each side."""
        self._held = {key: value for key, value in self._held.items() if key[0] != side} | {(side, rows): region}

    def _load(self, target: Target, rows: Rows, region: Region, **fields: int) -> None:
        self.em.load(
            target,
            region.start,
            rows.region(self.em),
            region,
            rows=rows.count,
            beats=rows.words,
            dram_addr=rows.address(self.em),
            row_stride=rows.stride(self.em),
            **fields,
        )

    def _product(self, tile: Rows, left: tuple[Region, int, int], right: tuple[Region, int]) -> Block:
        """One TENSOR instruction: its tile starts at row `left[2]` of the matrix, and at a word of the banks' rows."""
        em, array = self.em, self.em.arch.array
        (rows, row_word, first), (columns, column_word) = left, right
        stride = self._row_words()
        em.begin_chunk()
        result = em.take(tile.count, tile.words)
        em.tensor(
            [rows, columns],
            [result.region],
            dataflow=Dataflow.OUTPUT_STATIONARY,
            first=1,
            last=1,
            tile_cols=tile.words,
            tile_rows=-(-tile.count // array.rows),
            groups=-(-self.reduction // array.lanes),
            rows=tile.count,
            act_addr=rows.start + first // array.rows * stride + row_word,
            act_stride=stride,
            wgt_addr=columns.start + column_word,
            acc_addr=result.addr,
            acc_stride=result.stride,
            **self._walk(tile.words),
        )
        return result

    def _walk(self, words: int) -> dict[str, int]:
        """The right matrix pixel by pixel, a few words of each."""
        step = self._right_matrices().whole(0, 0)[0].words
        return {"walk": Walk.WGT, "run": min(self.reduction, RUN_LIMIT), "step": step, "col_step": 1, "col_run": words}

    def _row_words(self) -> int:
        """Words from one row block to the next in the banks."""
        if self.item.transpose_left:
            return -(-self.left.rows // self.em.arch.array.cols)
        return self.left.whole(0, 0)[0].words

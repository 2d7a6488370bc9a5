"""Products of activations: for each image and head a dense product of two matrices, either one transposed on request.

Output stationary, the left matrix waits in the banks, a row (or, transposed, a column) in each; the right one in the
weight scratchpad as it lies in memory, and the WGT walk of TENSOR takes a head's columns out of it. Weight stationary,
bank r holds values r, R + r, .. of the reduction of all rows, and the weight scratchpad a column tile of one head.
If the right matrix is to be transposed, its transpose is written to memory first.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from hwgen.arch import UserError
from hwgen.arch.isa import Dataflow, Target, Walk
from scheduler.cost import LOAD_START
from scheduler.hazards import Region
from scheduler.training.graph.ir import Kind, Tensor
from scheduler.training.graph.operators import MatMul
from scheduler.training.graph.shapes import Shape
from scheduler.training.kernels.emitter import Emitter, Feature
from scheduler.training.kernels.rows import RowEpilogue, Rows
from scheduler.training.kernels.transposes import Matrix, transpose
from scheduler.training.memory import MemoryMap
from scheduler.training.products.decisions import Choice, choose
from scheduler.training.products.head_choices import HeadProblem, head_choices
from scheduler.training.products.resident import Rings

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
    choice: Choice | None = None
    _held: dict[tuple[str, Rows], Region] = field(default_factory=dict)

    def choices(self) -> list[Choice]:
        """The ways to compute it. Raises `UserError` if the matrices of one image do not fit."""
        self._check()
        left, right, array = self.left, self._right_matrices(), self.em.arch.array
        matrices, stretches = self.images * left.heads, -(-self._left_values() // array.rows)
        stationary = stretches * -(-left.rows // array.cols) <= self.em.arch.scratchpads.act_depth
        beats = left.rows * stretches * array.rows // array.cols + LOAD_START
        problem = HeadProblem(
            matrices=matrices,
            rows=self.output.rows,
            depth=self.reduction,
            blocks=self.output.words,
            load=self._loads(left, whole=not self.item.transpose_left) + self._loads(right, whole=True),
            left_load=(self.images if self._whole_groups() else matrices) * beats
            if stationary and not self.item.transpose_left
            else None,
            right_rows=self.reduction,
        )
        return head_choices(self.em.arch, problem)

    def _loads(self, side: Matrices, *, whole: bool) -> int:
        """Cycles of loads that take all heads of an image in one go, if they are merged and wanted `whole`."""
        rows = side.whole(0, 0)[0] if whole else side.of(0, 0)
        times = self.images if whole and side.merged else self.images * side.heads
        return times * (rows.count * rows.words + LOAD_START)

    def emit(self, epilogue: RowEpilogue | None = None, choice: Choice | None = None) -> None:
        """Record all tiles, cut as `choice` (the best one if None) says; results are stored as operands."""
        self.choice = choice or choose(self.choices())[0]
        stationary = self.choice.dataflow == Dataflow.WEIGHT_STATIONARY
        for image in range(self.images):
            for head in range(self.left.heads):
                if self.turned is not None and (head == 0 or not self.right.merged):
                    self._turn(image, head)
                if stationary:
                    self._stationary_head(image, head, epilogue)
                else:
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
        """All tiles of one matrix of the output, output stationary."""
        columns, column_word = self._load_right(image, head)
        rows, row_word = self._load_left(image, head)
        matrix, stride = self.output.of(image, head), self._row_words()
        for tile, first in self._tiles(matrix):
            self._product(
                tile,
                epilogue,
                [rows, columns],
                dataflow=Dataflow.OUTPUT_STATIONARY,
                first=1,
                tile_rows=-(-tile.count // self.em.arch.array.rows),
                groups=-(-self.reduction // self.em.arch.array.lanes),
                act_addr=rows.start + first // self.em.arch.array.rows * stride + row_word,
                act_stride=stride,
                wgt_addr=columns.start + column_word + tile.word - matrix.word,
                **self._walk(tile.words),
            )

    def _stationary_head(self, image: int, head: int, epilogue: RowEpilogue | None) -> None:
        """The same, weight stationary: a TENSOR instruction for each R values of the reduction."""
        array, matrix = self.em.arch.array, self.output.of(image, head)
        rows, stretch, stride = self._load_groups(image, head)
        right = self._right_matrices().of(image, head)
        held: dict[int, Region] = {}
        for tile, first in self._tiles(matrix):
            if tile.word not in held:
                held = {tile.word: self._load_columns(right, tile.word - matrix.word, tile.words)}
            columns = held[tile.word]
            steps = [
                {
                    "first": int(k == 0),
                    "groups": min(array.rows, self.reduction - k),
                    "act_addr": rows.start + (stretch + k // array.rows) * stride + first // array.cols,
                    "wgt_addr": columns.start + k * tile.words,
                }
                for k in range(0, self.reduction, array.rows)
            ]
            self._product(tile, epilogue, [rows, columns], *steps, dataflow=Dataflow.WEIGHT_STATIONARY, tile_rows=1)

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

    def _tiles(self, matrix: Rows) -> Iterator[tuple[Rows, int]]:
        """Each tile of a matrix of the output, and its first row in the matrix."""
        rows, cols = self.choice.rows, self.choice.cols
        for word in range(0, matrix.words, cols):
            for first in range(0, matrix.count, rows):
                size = min(rows, matrix.count - first), min(cols, matrix.words - word)
                yield Rows(matrix.feature, matrix.first + first, size[0], matrix.word + word, size[1]), first

    def _whole_groups(self) -> bool:
        """Whether the heads of the left side begin at bank 0 if those of an image are loaded in one go."""
        return self.left.merged and self.left.words * self.em.arch.array.cols % self.em.arch.array.rows == 0

    def _left_values(self) -> int:
        """Values of a row of the left side that are loaded in one go, weight stationary."""
        words = self.left.feature.words if self._whole_groups() else self.left.words
        return words * self.em.arch.array.cols

    def _load_groups(self, image: int, head: int) -> tuple[Region, int, int]:
        """The left matrix with the values of the reduction spread over the banks.

        Gives its region, the number of its first stretch of R values, and words from one stretch to the next.
        """
        array, whole = self.em.arch.array, self._whole_groups()
        rows, word = self.left.whole(image, head) if whole else (self.left.of(image, head), 0)
        stride, stretches = -(-rows.count // array.cols), -(-self._left_values() // array.rows)
        if ("groups", rows) not in self._held:
            start = self.rings.act.take(stretches * stride)
            region = Region("act", start, start + stretches * stride)
            pad = stretches * array.rows // array.cols - rows.words
            self._load(Target.ACT_CHUNKS, rows, region, chunk_log2=0, stride=stride, pad=pad)
            self._hold("groups", rows, region)
        return self._held["groups", rows], word * array.cols // array.rows, stride

    def _load_columns(self, right: Rows, word: int, words: int) -> Region:
        """A column tile of the right matrix, row by row."""
        rows = Rows(right.feature, right.first, self.reduction, right.word + word, words)
        start = self.rings.wgt.take(rows.count * words)
        region = Region("wgt", start, start + rows.count * words)
        self._load(Target.WGT, rows, region, stride=words)
        return region

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

    def _product(
        self, tile: Rows, epilogue: RowEpilogue | None, reads: list[Region], *steps: dict[str, int], **fields: int
    ) -> None:
        """The TENSOR instructions of a tile (one, or one for each of `steps`) and what follows them."""
        em = self.em
        em.begin_chunk()
        result = em.take(tile.count, tile.words)
        place = {"acc_addr": result.addr, "acc_stride": result.stride, "rows": tile.count, "tile_cols": tile.words}
        for step in steps or ({},):
            item = {"last": 1} | place | fields | step
            em.tensor(reads if item["first"] else [*reads, result.region], [result.region], **item)
        last = (
            tile.word % self.output.words + tile.words == self.output.words and self.output.columns % em.arch.array.cols
        )
        tile.put(em, epilogue(result, tile) if epilogue else result, last or None)

    def _walk(self, words: int) -> dict[str, int]:
        """The right matrix pixel by pixel, a few words of each."""
        step = self._right_matrices().whole(0, 0)[0].words
        return {"walk": Walk.WGT, "run": min(self.reduction, RUN_LIMIT), "step": step, "col_step": 1, "col_run": words}

    def _row_words(self) -> int:
        """Words from one row block to the next in the banks."""
        if self.item.transpose_left:
            return -(-self.left.rows // self.em.arch.array.cols)
        return self.left.whole(0, 0)[0].words

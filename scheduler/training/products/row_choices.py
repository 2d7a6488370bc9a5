"""The ways to cut a product of rows with a parameter, and their cycles."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from hwgen.arch import Arch
from hwgen.arch.isa import Dataflow
from scheduler.array_cost import output_stationary, parts, row_blocks, weight_stationary
from scheduler.cost import LOAD_START, TENSOR_START
from scheduler.training.memory import whole_span
from scheduler.training.products.decisions import Choice
from scheduler.training.products.resident import Rings, WeightImage

PARTS = 8
"""Parts of weights that pass by for which the scratchpad has room: with fewer, LOAD waits for a large one to go before
it loads the next; with more, they are many short loads.
"""


@dataclass(frozen=True, kw_only=True)
class RowProblem:
    """A product as numbers: `rows` x `depth` times `depth` x `blocks` column blocks."""

    rows: int
    depth: int
    blocks: int
    group: int
    """Values of a group along the reduction, M or array.lanes."""
    group_words: int
    """Weight words of a group."""
    slots: int
    """Weight words of a column block."""
    beats: int
    """Memory beats of a column block."""
    unit: int
    """Values at whose multiples the reduction may be cut: whole activation words, whole blocks of packed weights."""
    act_depth: int
    wgt_depth: int
    """Words of the scratchpads that it may take."""

    @classmethod
    def of(cls, arch: Arch, image: WeightImage, rows: int, rings: Rings) -> "RowProblem":
        """The product of `rows` rows with a copy of weights."""
        lanes, pattern = arch.array.lanes, image.pattern
        return cls(
            act_depth=rings.act.depth,
            wgt_depth=rings.wgt.depth,
            rows=rows,
            depth=image.depth,
            blocks=image.blocks,
            group=lanes if pattern is None else pattern.m,
            group_words=1 if pattern is None else ceil(pattern.n / lanes),
            slots=image.slots,
            beats=image.beats,
            unit=whole_span(pattern, arch.array.cols),
        )

    @property
    def groups(self) -> int:
        """Groups along the reduction."""
        return ceil(self.depth / self.group)

    def stay(self, cols: int) -> bool:
        """Whether all weights stay, in tiles of `cols` column blocks."""
        return ceil(self.blocks / cols) * cols * self.slots <= self.wgt_depth // 2

    def part(self, cols: int) -> int:
        """Values of the reduction in each of as few equal parts of a tile as are no larger than `1 / PARTS` of the
        scratchpad; 0 if there are none.
        """
        most = self.wgt_depth // PARTS // (cols * self.unit // self.group * self.group_words)
        if not most:
            return 0
        units = ceil(self.depth / self.unit)
        return ceil(units / ceil(units / most)) * self.unit


def row_choices(arch: Arch, problem: RowProblem) -> list[Choice]:
    """Tiles of both dataflows in both loop orders; output stationary, weights may pass by in parts of the reduction.

    Empty if not even a column block of weights finds room.
    """
    return list(_choices(arch, problem))


def _choices(arch: Arch, problem: RowProblem) -> Iterator[Choice]:
    """They leave room to load ahead, but for a single column block or row block.

    Weights pass by if a column tile leaves no such room, and if each is needed for one row block alone: it is loaded in
    the cycle or so in which it is multiplied, so that LOAD must never wait.
    """
    array = arch.array
    blocks = ceil(problem.rows / array.rows)
    for cols in range(1, min(array.interleave_max, problem.blocks) + 1):
        roomy = cols * problem.slots <= problem.wgt_depth // 2
        once = blocks == 1 and not problem.stay(cols)
        passing = (once or not roomy) and problem.part(cols) > 0
        fits = roomy or (cols == 1 and problem.slots <= problem.wgt_depth)
        for tile_rows in range(1, min(row_blocks(array, problem.group), array.interleave_max // cols, blocks) + 1):
            area = tile_rows * problem.depth // array.cols
            if tile_rows == 1 or area <= problem.act_depth // 2:
                rows = min(tile_rows * array.rows, problem.rows)
                if passing:
                    yield _passing(arch, problem, rows, cols)
                if fits and not (once and passing):
                    yield from _orders(arch, problem, Dataflow.OUTPUT_STATIONARY, (rows, cols), area)
        rows = _stationary_rows(arch, problem, cols, problem.act_depth // 2)
        if fits and rows:
            area = stationary_words(arch, problem, rows)
            yield from _orders(arch, problem, Dataflow.WEIGHT_STATIONARY, (rows, cols), area)


def _stationary_rows(arch: Arch, problem: RowProblem, cols: int, depth: int) -> int:
    """Most rows of a weight-stationary tile of `cols` words, with `depth` activation words a bank; 0 if none can be.

    A tile has no more result words than output stationary, and LOAD ACT_CHUNKS deals out powers of two, at least a word
    in a round over the banks.
    """
    array, stretches = arch.array, ceil(problem.groups / arch.array.rows)
    if problem.group & (problem.group - 1) or array.rows * problem.group < array.cols:
        return 0
    if problem.group_words * cols > array.weight_buffer:
        return 0
    fitting = depth // stretches * array.cols // problem.group
    return min(array.interleave_max * array.rows // cols, problem.rows, fitting)


def stationary_words(arch: Arch, problem: RowProblem, rows: int) -> int:
    """Activation words a bank of `rows` rows, weight stationary: a stretch for each `array.rows` groups."""
    return ceil(problem.groups / arch.array.rows) * ceil(rows * problem.group / arch.array.cols)


def _passing(arch: Arch, problem: RowProblem, rows: int, cols: int) -> Choice:
    """An output-stationary tile whose weights pass by, for each row tile again."""
    depth, row_tiles, col_tiles = problem.part(cols), ceil(problem.rows / rows), ceil(problem.blocks / cols)
    acts = problem.rows * problem.depth // arch.array.cols + row_tiles * LOAD_START
    wgts = problem.blocks * problem.beats + col_tiles * ceil(problem.depth / depth) * LOAD_START
    return Choice(
        dataflow=Dataflow.OUTPUT_STATIONARY,
        rows=rows,
        cols=cols,
        depth=depth,
        interleave=(ceil(rows / arch.array.rows), cols),
        order="rows > columns > reduction",
        buffers="weights pass by",
        load=acts + row_tiles * wgts,
        tensor=_output_stationary(arch, problem, (rows, cols), depth),
        weights_pass=True,
    )


def _orders(arch: Arch, problem: RowProblem, dataflow: Dataflow, tile: tuple[int, int], area: int) -> Iterator[Choice]:
    """A tile in its loop orders; `area` is what its activations take in a bank."""
    (rows, cols), array = tile, arch.array
    row_tiles, col_tiles = ceil(problem.rows / rows), ceil(problem.blocks / cols)
    held = problem.stay(cols)
    panel = 1 if held else min(row_tiles, max(1, problem.act_depth // 2 // area))
    stationary = dataflow == Dataflow.WEIGHT_STATIONARY
    unit = array.rows * problem.group if stationary else array.cols
    acts = problem.rows * ceil(problem.depth / unit) * unit // array.cols + row_tiles * LOAD_START
    wgts = problem.blocks * problem.beats + col_tiles * LOAD_START
    shape = {
        "dataflow": dataflow,
        "rows": rows,
        "cols": cols,
        "depth": min(problem.depth, array.rows * problem.group) if stationary else problem.depth,
        "interleave": (1 if stationary else ceil(rows / array.rows), cols),
        "tensor": _weight_stationary(arch, problem, tile)
        if stationary
        else _output_stationary(arch, problem, tile, problem.depth),
    }
    if held:
        yield Choice(**shape, order="rows > columns", buffers="all weights stay", load=acts + wgts)
        return
    slots = min(2, max(1, problem.wgt_depth // (cols * problem.slots)))
    buffers = f"{slots} column tile{'s'[: slots > 1]} of weights"
    load = acts + ceil(row_tiles / panel) * wgts
    yield Choice(
        **shape, order=f"panels of {panel} row tiles > columns > rows", buffers=buffers, load=load, panel=panel
    )
    if panel < row_tiles:
        load, panel = col_tiles * acts + wgts, row_tiles
        yield Choice(**shape, order="columns > rows", buffers=buffers, load=load, panel=panel, rows_stay=False)


def _output_stationary(arch: Arch, problem: RowProblem, tile: tuple[int, int], depth: int) -> int:
    """Cycles of the tensor engine, `depth` values of the reduction an instruction."""
    total, shape = 0, {"group": problem.group, "words": problem.group_words}
    for length, count in parts(problem.depth, depth):
        shape["groups"] = ceil(length / problem.group)
        for rows, row_count in parts(problem.rows, tile[0]):
            for cols, col_count in parts(problem.blocks, tile[1]):
                cycles = TENSOR_START + output_stationary(arch.array, rows=rows, cols=cols, **shape)
                total += count * row_count * col_count * cycles
    return total


def _weight_stationary(arch: Arch, problem: RowProblem, tile: tuple[int, int]) -> int:
    """The same, weight stationary."""
    stretches, total = ceil(problem.groups / arch.array.rows), 0
    shape = {"group": problem.group, "words": problem.group_words, "continued": stretches > 1}
    for rows, row_count in parts(problem.rows, tile[0]):
        for cols, col_count in parts(problem.blocks, tile[1]):
            total += row_count * col_count * stretches * weight_stationary(arch.array, rows=rows, cols=cols, **shape)
    return total

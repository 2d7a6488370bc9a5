"""The ways to cut a product of rows with a parameter, and their cycles."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from hwgen.arch import Arch
from hwgen.arch.isa import Dataflow
from scheduler.array_cost import output_stationary, parts, row_blocks, weight_stationary
from scheduler.cost import LOAD_START, TENSOR_START
from scheduler.training.products.decisions import Choice
from scheduler.training.products.resident import Rings, WeightImage


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
        )

    @property
    def groups(self) -> int:
        """Groups along the reduction."""
        return ceil(self.depth / self.group)


def row_choices(arch: Arch, problem: RowProblem) -> list[Choice]:
    """Tiles of both dataflows in both loop orders; all of them leave room to load ahead, if any does."""
    roomy = list(_choices(arch, problem, 2))
    return roomy or list(_choices(arch, problem, 1))


def _choices(arch: Arch, problem: RowProblem, share: int) -> Iterator[Choice]:
    """Those whose slots take no more than 1 / `share` of the scratchpads; a column block or row block always fits."""
    array = arch.array
    blocks = ceil(problem.rows / array.rows)
    for cols in range(1, min(array.interleave_max, problem.blocks) + 1):
        if cols > 1 and cols * problem.slots > problem.wgt_depth // share:
            continue
        for tile_rows in range(1, min(row_blocks(array, problem.group), array.interleave_max // cols, blocks) + 1):
            area = tile_rows * problem.depth // array.cols
            if tile_rows == 1 or area <= problem.act_depth // share:
                rows = min(tile_rows * array.rows, problem.rows)
                yield from _orders(arch, problem, Dataflow.OUTPUT_STATIONARY, (rows, cols), area)
        rows = _stationary_rows(arch, problem, cols, problem.act_depth // share)
        if rows:
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


def _orders(arch: Arch, problem: RowProblem, dataflow: Dataflow, tile: tuple[int, int], area: int) -> Iterator[Choice]:
    """A tile in its loop orders; `area` is what its activations take in a bank."""
    (rows, cols), array = tile, arch.array
    row_tiles, col_tiles = ceil(problem.rows / rows), ceil(problem.blocks / cols)
    held = col_tiles * cols * problem.slots <= problem.wgt_depth // 2
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
        "tensor": _tensor(arch, problem, dataflow, rows, cols),
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


def _tensor(arch: Arch, problem: RowProblem, dataflow: Dataflow, rows: int, cols: int) -> int:
    """Cycles of the tensor engine."""
    array, total = arch.array, 0
    depth_tiles = ceil(problem.groups / array.rows)
    shape = {"group": problem.group, "words": problem.group_words}
    for height, row_count in parts(problem.rows, rows):
        for width, col_count in parts(problem.blocks, cols):
            shape |= {"rows": height, "cols": width}
            if dataflow == Dataflow.OUTPUT_STATIONARY:
                cycles = TENSOR_START + output_stationary(array, groups=problem.groups, **shape)
            else:
                continued = depth_tiles > 1
                cycles = depth_tiles * weight_stationary(array, continued=continued, **shape)
            total += row_count * col_count * cycles
    return total

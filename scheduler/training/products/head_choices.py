"""The ways to cut products of activations, and their cycles."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from hwgen.arch import Arch
from hwgen.arch.isa import Dataflow
from scheduler.array_cost import output_stationary, parts, row_blocks, weight_stationary
from scheduler.cost import LOAD_START, TENSOR_START
from scheduler.training.products.decisions import Choice


@dataclass(frozen=True, kw_only=True)
class HeadProblem:
    """`matrices` products of `rows` x `depth` with `depth` x `blocks` column blocks, all dense."""

    matrices: int
    rows: int
    depth: int
    blocks: int
    load: int
    """Cycles that load both sides, output stationary."""
    left_load: int | None
    """Cycles that load the left side in groups, weight stationary; None if it cannot be."""
    right_rows: int
    """Rows of the right side that are loaded for each product."""


def head_choices(arch: Arch, problem: HeadProblem) -> list[Choice]:
    """Tiles of both dataflows. A product's two sides stay until its last tile."""
    return [*_output_stationary(arch, problem), *_weight_stationary(arch, problem)]


def _output_stationary(arch: Arch, problem: HeadProblem) -> Iterator[Choice]:
    array = arch.array
    for tile_rows in range(1, min(row_blocks(array, array.lanes), ceil(problem.rows / array.rows)) + 1):
        for cols in range(1, min(array.interleave_max // tile_rows, problem.blocks) + 1):
            rows = min(tile_rows * array.rows, problem.rows)
            groups = ceil(problem.depth / array.lanes)
            tensor = sum(
                row_count * col_count * (TENSOR_START + output_stationary(array, groups=groups, **_dense(arch, shape)))
                for shape, row_count, col_count in _tiles(problem, rows, cols)
            )
            yield Choice(
                dataflow=Dataflow.OUTPUT_STATIONARY,
                rows=rows,
                cols=cols,
                depth=problem.depth,
                interleave=(tile_rows, cols),
                order="images > heads > columns > rows",
                buffers="both sides of a head stay",
                load=problem.load,
                tensor=problem.matrices * tensor,
            )


def _weight_stationary(arch: Arch, problem: HeadProblem) -> Iterator[Choice]:
    """The rows of a tile begin at a whole activation word; a tile has no more result words than output stationary."""
    array = arch.array
    if problem.left_load is None:
        return
    stretches = ceil(problem.depth / array.lanes / array.rows)
    for cols in range(1, min(array.interleave_max, problem.blocks, array.weight_buffer) + 1):
        rows = min(array.interleave_max * array.rows // cols // array.cols * array.cols, problem.rows)
        tensor = sum(
            row_count * col_count * weight_stationary(array, continued=stretches > 1, **_dense(arch, shape))
            for shape, row_count, col_count in _tiles(problem, rows, cols)
        )
        right = problem.right_rows * problem.blocks + ceil(problem.blocks / cols) * LOAD_START
        yield Choice(
            dataflow=Dataflow.WEIGHT_STATIONARY,
            rows=rows,
            cols=cols,
            depth=min(problem.depth, array.rows * array.lanes),
            interleave=(1, cols),
            order="images > heads > columns > rows",
            buffers="the left side and a column tile of the right side stay",
            load=problem.left_load + problem.matrices * right,
            tensor=problem.matrices * stretches * tensor,
        )


def _dense(arch: Arch, shape: tuple[int, int]) -> dict[str, int]:
    return {"group": arch.array.lanes, "words": 1, "rows": shape[0], "cols": shape[1]}


def _tiles(problem: HeadProblem, rows: int, cols: int) -> Iterator[tuple[tuple[int, int], int, int]]:
    """Rows and words of the tiles of one product, with their numbers."""
    for height, row_count in parts(problem.rows, rows):
        for width, col_count in parts(problem.blocks, cols):
            yield (height, width), row_count, col_count

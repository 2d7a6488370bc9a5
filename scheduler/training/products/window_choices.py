"""The ways to cut a product over windows, and their cycles."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from hwgen.arch import Arch
from hwgen.arch.isa import Dataflow
from scheduler.array_cost import output_stationary, parts, row_blocks
from scheduler.cost import LOAD_START, TENSOR_START
from scheduler.training.products.decisions import Choice


@dataclass(frozen=True, kw_only=True)
class WindowProblem:
    """A product over windows as numbers; array row r works on image r of a block."""

    image_blocks: int
    height: int
    width: int
    """Output pixels."""
    chunks: int
    """Parts of the height whose inputs are in the banks together."""
    row_loads: int
    """Image rows that are loaded for all chunks."""
    row_beats: int
    """Words of an image row, with the zeros behind it."""
    depth: int
    blocks: int
    """Column blocks."""
    group: int
    """Values of a group along the reduction, M or array.lanes."""
    group_words: int
    """Weight words of a group."""
    slots: int
    """Weight words of a column block."""
    beats: int
    """Memory beats of a column block."""
    wgt_depth: int
    """Words of the weight scratchpad that it may take."""


def window_choices(arch: Arch, problem: WindowProblem) -> list[Choice]:
    """Output-stationary tiles, as walks over windows ask for; all of them leave room to load ahead, if any does."""
    roomy = list(_choices(arch, problem, 2))
    return roomy or list(_choices(arch, problem, 1))


def _choices(arch: Arch, problem: WindowProblem, share: int) -> Iterator[Choice]:
    """Those whose column tile takes no more than 1 / `share` of the weight scratchpad."""
    array, depth = arch.array, problem.wgt_depth
    for pixels in range(1, min(row_blocks(array, problem.group), problem.width) + 1):
        for cols in range(1, min(array.interleave_max // pixels, problem.blocks) + 1):
            if cols * problem.slots > depth // share and (cols > 1 or share > 1):
                continue
            stay = ceil(problem.blocks / cols) * cols * problem.slots <= depth // 2
            slots = min(2, max(1, depth // (cols * problem.slots)))
            yield Choice(
                dataflow=Dataflow.OUTPUT_STATIONARY,
                rows=pixels * array.rows,
                cols=cols,
                depth=problem.depth,
                interleave=(pixels, cols),
                order="images > chunks of rows > columns > rows > pixels",
                buffers="all weights stay" if stay else f"{slots} column tile{'s'[: slots > 1]} of weights",
                load=_load(arch, problem, cols, 1 if stay else problem.image_blocks * problem.chunks),
                tensor=_tensor(arch, problem, pixels, cols),
            )


def _load(arch: Arch, problem: WindowProblem, cols: int, times: int) -> int:
    """Cycles of the load engine if all weights are loaded `times` times."""
    rows = problem.image_blocks * problem.row_loads * (arch.array.rows * problem.row_beats + LOAD_START)
    return rows + times * (problem.blocks * problem.beats + ceil(problem.blocks / cols) * LOAD_START)


def _tensor(arch: Arch, problem: WindowProblem, pixels: int, cols: int) -> int:
    """Cycles of the tensor engine."""
    array, total = arch.array, 0
    for here, row_count in parts(problem.width, pixels):
        for width, col_count in parts(problem.blocks, cols):
            cycles = output_stationary(
                array,
                group=problem.group,
                words=problem.group_words,
                groups=problem.depth // problem.group,
                rows=here * array.rows,
                cols=width,
            )
            total += row_count * col_count * (TENSOR_START + cycles)
    return problem.image_blocks * problem.height * total

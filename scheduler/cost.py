"""Closed-form estimate of the cycles of a layer, by which `passes/tile` chooses among plans."""

from dataclasses import dataclass
from math import ceil

from hwgen.arch import Arch
from hwgen.arch.isa import Dataflow
from scheduler.array_cost import output_stationary, weight_stationary
from scheduler.state import Plan

LOAD_START, TENSOR_START, VECTOR_START, STORE_START = 24, 4, 8, 24
"""Assumed cycles that an instruction of each engine takes beside its work, when another one follows."""
READ_LATENCY, WRITE_LATENCY = 48, 28
"""Assumed cycles from a burst's address to its end beside its beats; `memory.outstanding` bursts share them."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One layer as numbers: `rows` x `depth` times `depth` x `cols`, then vector steps."""

    rows: int
    depth: int
    cols: int
    words: int
    """Accumulator words of an output row: ceil(cols / array.cols)."""
    group: int
    group_words: int
    sparse: bool
    biased: bool
    adds: int
    """Steps that load a tensor."""
    steps: int
    store_beats: int
    """Beats of a stored word: 1 for operands, 2 for FP32."""


@dataclass(frozen=True)
class Estimate:
    """Cycles that each engine is busy, and `total` if they overlap but for the first load and the last result."""

    load: int
    tensor: int
    vector: int
    store: int
    total: int


def estimate(arch: Arch, problem: Problem, plan: Plan) -> Estimate:
    """Cycles of a layer under a plan.

    The tensor engine's cycles are those of `array_cost`. Memory moves a beat a cycle, but a row of few beats takes as
    long as its bursts. Engines overlap; first load and last result do not.
    """
    tiles, output = plan.row_tiles * plan.col_tiles, problem.rows * problem.words
    act, wgt, load = _load(arch, problem, plan)
    tensor = 0 if plan.dataflow is None else _tensor_cycles(arch, problem, plan)
    pace = arch.vector.words
    vector = (ceil(output / pace) + VECTOR_START * tiles) * problem.steps
    beats, joined = plan.tile_cols * problem.store_beats, plan.col_tiles == 1
    last = STORE_START + _block(arch, min(plan.row_tile, problem.rows), beats, joined, WRITE_LATENCY)
    store = STORE_START * tiles + _block(arch, problem.rows * plan.col_tiles, beats, joined, WRITE_LATENCY)
    tail = (ceil(min(plan.out_words, output) / pace) + VECTOR_START) * problem.steps + last
    if plan.dataflow is not None:
        tail += plan.out_words
    first = act + wgt
    total = first + max(load - first, tensor, vector, store) + tail
    return Estimate(load, tensor, vector, store, total)


def transfers(plan: Plan) -> tuple[int, int]:
    """How often a slot of activations and a slot of weights is loaded in the plan's loop order."""
    rows, cols, depth = plan.row_tiles, plan.col_tiles, plan.depth_tiles
    every, panels = rows * cols * depth, ceil((rows if plan.outer == "rows" else cols) / plan.panel)
    if plan.outer == "rows":
        act = rows * depth if plan.panel * depth <= plan.act_slots else every
        wgt = (panels * cols if depth <= plan.wgt_slots else rows * cols) * depth
        return act, (cols * depth if cols * depth <= plan.wgt_slots else wgt)
    wgt = cols * depth if plan.panel * depth <= plan.wgt_slots else every
    act = (panels * rows if depth <= plan.act_slots else rows * cols) * depth
    return (rows * depth if rows * depth <= plan.act_slots else act), wgt


def _load(arch: Arch, problem: Problem, plan: Plan) -> tuple[int, int, int]:
    """Cycles of a load of activations (or of a plain tensor's tile), of a load of weights with indices, and of all.

    The last row tile loads no more rows of activations than there are.
    """
    tiles, rows = plan.row_tiles * plan.col_tiles, min(plan.row_tile, problem.rows)
    addend = LOAD_START + _block(arch, rows, plan.tile_cols, plan.col_tiles == 1, READ_LATENCY)
    biases = (2 * problem.words + LOAD_START * plan.col_tiles) * problem.biased
    if plan.dataflow is None:
        return addend, 0, tiles * addend * (1 + problem.adds) + biases
    depth, lanes = min(plan.depth_tile, problem.depth), arch.array.lanes
    beats, joined = ceil(depth / arch.array.cols), plan.depth_tiles == 1
    act = LOAD_START + _block(arch, rows, beats, joined, READ_LATENCY)
    words = ceil(depth / plan.group) * plan.group_words * plan.tile_cols
    wgt = LOAD_START + _block(arch, 1, words * lanes, True, READ_LATENCY)
    if problem.sparse:
        wgt += LOAD_START + _block(arch, 1, ceil(words * lanes / 4), True, READ_LATENCY)
    act_loads, wgt_loads = transfers(plan)
    acts = LOAD_START * act_loads
    acts += act_loads // plan.row_tiles * _block(arch, problem.rows, beats, joined, READ_LATENCY)
    return act, wgt, acts + wgt_loads * wgt + tiles * addend * problem.adds + biases


def _block(arch: Arch, rows: int, beats: int, joined: bool, latency: int) -> int:
    """Cycles of a strided block: a beat each, or as long as its bursts wait; `joined` rows make long bursts."""
    if joined:
        rows, beats = 1, rows * beats
    bursts = ceil(beats / arch.memory.burst_beats)
    return ceil(rows * max(beats, bursts * latency / arch.memory.outstanding))


def _tensor_cycles(arch: Arch, problem: Problem, plan: Plan) -> int:
    last_rows = problem.rows - (plan.row_tiles - 1) * plan.row_tile
    last_cols = problem.words - (plan.col_tiles - 1) * plan.tile_cols
    total = TENSOR_START * plan.row_tiles * plan.col_tiles * plan.depth_tiles
    for rows, row_count in ((plan.row_tile, plan.row_tiles - 1), (last_rows, 1)):
        for cols, col_count in ((plan.tile_cols, plan.col_tiles - 1), (last_cols, 1)):
            if row_count and col_count:
                total += row_count * col_count * _tile_cycles(arch, problem, plan, rows, cols)
    return total


def _tile_cycles(arch: Arch, problem: Problem, plan: Plan, rows: int, cols: int) -> int:
    """Cycles of all instructions of an output tile."""
    shape = {"group": plan.group, "words": plan.group_words, "rows": rows, "cols": cols}
    if plan.dataflow == Dataflow.OUTPUT_STATIONARY:
        return output_stationary(arch.array, groups=ceil(problem.depth / plan.group), **shape)
    return plan.depth_tiles * weight_stationary(arch.array, continued=plan.depth_tiles > 1, **shape)

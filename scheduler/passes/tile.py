"""Pass 3: dataflow, tile shape, interleave, depth split and loop order of every layer, by the cost model."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil, lcm

from hwgen.arch import Arch, UserError
from hwgen.arch.isa import Dataflow
from scheduler.array_cost import MARGIN, row_blocks
from scheduler.cost import Problem, estimate
from scheduler.state import Layer, Lowering, Plan

FIELD_MAX = (1 << 16) - 1
"""Largest count of rows, beats or groups in an instruction."""
INDEX_WORDS = 4
"""Slots of the weight scratchpad begin at multiples of this, as LOAD IDX asks for."""
OS, WS = Dataflow.OUTPUT_STATIONARY, Dataflow.WEIGHT_STATIONARY


def run(state: Lowering) -> Lowering:
    """Fill in `plans`. Raises `UserError` if no tile of a layer fits the scratchpads or the forced dataflow."""
    return replace(state, plans={layer.name: _choose(state, layer) for layer in state.layers})


def problem_of(state: Lowering, layer: Layer) -> Problem:
    """The numbers of a layer that plans and costs depend on."""
    array, output = state.arch.array, state.buffers[layer.output]
    weights = state.weights.get(layer.name)
    pattern = weights.pattern if weights else None
    return Problem(
        rows=output.rows,
        depth=state.buffers[layer.input].cols,
        cols=output.cols,
        words=ceil(output.cols / array.cols),
        group=pattern.m if pattern else array.lanes,
        group_words=ceil(pattern.n / array.lanes) if pattern else 1,
        sparse=pattern is not None,
        biased=any(step.kind == "bias" for step in layer.steps),
        adds=sum(step.kind == "add" for step in layer.steps),
        steps=len(layer.steps),
        store_beats=2 if output.fp32 else 1,
    )


def _choose(state: Lowering, layer: Layer) -> Plan:
    arch, problem = state.arch, problem_of(state, layer)
    if layer.weight is None:
        plan = _elementwise(arch, problem)
        return replace(plan, cycles=estimate(arch, problem, plan).total)
    makers = {"os": _output_stationary, "ws": _weight_stationary}
    wanted = state.options.dataflow
    best = {name: _best(arch, problem, make(arch, problem)) for name, make in makers.items()}
    found = {name: plan for name, plan in best.items() if plan is not None and wanted in ("auto", name)}
    if not found:
        raise UserError(_no_plan(state, layer, problem))
    name = min(found, key=lambda key: found[key].cycles * (1 + MARGIN * (key == "ws")))
    rival = best["ws" if name == "os" else "os"]
    other = Dataflow(1 - found[name].dataflow).name.lower().replace("_", " ")
    note = f"{other}: {rival.cycles:,} cycles" if rival else f"{other}: does not fit"
    return replace(found[name], rival=note)


def _no_plan(state: Lowering, layer: Layer, problem: Problem) -> str:
    """Which layer has no tile, and what stands against each dataflow that was allowed."""
    arch, wanted = state.arch, state.options.dataflow
    sizes = {name: getattr(arch.scratchpads, name) for name in ("act_depth", "wgt_depth", "acc_depth")}
    sizes |= {name: getattr(arch.array, name) for name in ("act_buffer", "weight_buffer")}
    rule = _broken_rule(arch, problem) if wanted != "os" else ""
    reasons = [f"weight stationary, {rule}"] if rule else []
    if wanted != "ws" or not rule:
        reasons.insert(0, "a tile must fit " + ", ".join(f"{name} {size}" for name, size in sizes.items()))
    text = f"layer {layer.name} ({problem.rows} x {problem.depth} x {problem.cols}, groups of {problem.group})"
    return f"{text} has no {wanted.replace('auto', 'possible')} tile on {arch.name}: {'; '.join(reasons)}"


def _broken_rule(arch: Arch, problem: Problem) -> str:
    """What a layer lacks to be weight stationary whatever its tile, with what is allowed; empty if nothing."""
    array, group = arch.array, "M" if problem.sparse else "array.lanes"
    covered = array.rows * problem.group
    if problem.group.bit_count() != 1:
        return f"{group} must be a power of two, not {problem.group}"
    if problem.depth > covered and covered % array.cols:
        rule = f"array.rows x {group} ({covered}) must be a multiple of array.cols ({array.cols})"
        return f"{rule}, or the reduction at most {covered} long"
    return ""


def _best(arch: Arch, problem: Problem, plans: Iterator[Plan]) -> Plan | None:
    """The cheapest plan; of equals the one with fewer weight and activation transfers, that is the larger tile."""
    costed = [replace(plan, cycles=estimate(arch, problem, plan).total) for base in plans for plan in _orders(base)]
    key = min(((plan.cycles, -plan.out_words, number) for number, plan in enumerate(costed)), default=None)
    return costed[key[2]] if key else None


def _orders(plan: Plan) -> Iterator[Plan]:
    """The loop orders of a tile shape: as many tiles as fit stay in their scratchpad, less one to load ahead.

    Row after row comes first if all weights stay: then the next layer can load its first rows early.
    """
    if plan.wgt_slots >= plan.col_tiles * plan.depth_tiles:
        yield replace(plan, outer="rows", panel=1)
    rows = _panel(plan.act_slots, plan.depth_tiles, plan.row_tiles)
    cols = _panel(plan.wgt_slots, plan.depth_tiles, plan.col_tiles)
    yield replace(plan, outer="rows", panel=rows)
    yield replace(plan, outer="cols", panel=cols)


def _panel(slots: int, depth_tiles: int, tiles: int) -> int:
    held = slots // depth_tiles
    return tiles if held >= tiles else max(1, held - 1)


@dataclass(frozen=True)
class _Room:
    """Space that a tile may take of the accumulator scratchpad, see `scratchpad.Accumulators`."""

    arch: Arch
    problem: Problem

    @property
    def area(self) -> int:
        """Words of one of four areas: results of even and odd tiles, and what the vector engine adds to each."""
        return self.arch.scratchpads.acc_depth // 4

    def rows(self, tile_cols: int) -> int:
        """Most output rows of a tile of `tile_cols` words."""
        side = self.area - tile_cols if self.problem.adds and self.problem.biased else self.area
        return min(side // tile_cols, FIELD_MAX)

    def slots(self, words: int, tiles: int) -> int:
        """Result slots for tiles of `words`: up to two in each of the two areas."""
        return min(tiles, 2 * min(2, self.area // words))


def _elementwise(arch: Arch, problem: Problem) -> Plan:
    room = _Room(arch, problem)
    tile_cols = min(problem.words, room.area // 2, FIELD_MAX)
    # A few tiles, so that loads, vector work and stores overlap.
    row_tile = max(1, min(room.rows(tile_cols), ceil(problem.rows / 4)))
    row_tiles, col_tiles = ceil(problem.rows / row_tile), ceil(problem.words / tile_cols)
    return Plan(
        dataflow=None,
        group=1,
        group_words=0,
        tile_rows=1,
        tile_cols=tile_cols,
        row_tile=row_tile,
        depth_tile=problem.depth,
        row_tiles=row_tiles,
        col_tiles=col_tiles,
        depth_tiles=1,
        act_words=0,
        act_slots=row_tiles,
        wgt_words=0,
        wgt_slots=col_tiles,
        out_slots=room.slots(row_tile * tile_cols, row_tiles * col_tiles),
        outer="rows",
        panel=row_tiles,
    )


def _output_stationary(arch: Arch, problem: Problem) -> Iterator[Plan]:
    array, room = arch.array, _Room(arch, problem)
    for tile_cols in range(1, min(array.interleave_max, problem.words) + 1):
        for tile_rows in range(1, row_blocks(array, problem.group) + 1):
            row_tile = min(problem.rows, tile_rows * array.rows, room.rows(tile_cols))
            if tile_rows * tile_cols > array.interleave_max or row_tile <= (tile_rows - 1) * array.rows:
                continue
            counts = ceil(problem.rows / row_tile), ceil(problem.words / tile_cols)
            depth = _depth_tile(arch, problem, tile_rows, tile_cols, counts)
            if depth:
                act = tile_rows * act_row_words(arch, problem.group, depth)
                yield _plan(arch, problem, OS, (tile_rows, tile_cols), row_tile, depth, act)


def _depth_tile(arch: Arch, problem: Problem, tile_rows: int, tile_cols: int, counts: tuple[int, int]) -> int:
    """Values of the reduction in one instruction: all if they fit twice (or once, if once is enough), else shares."""
    unit = lcm(problem.group, arch.array.cols)

    def fits(depth: int) -> bool:
        act = tile_rows * act_row_words(arch, problem.group, depth)
        wgt = weight_words(problem, depth, tile_cols)
        slots = [min(2, count * ceil(problem.depth / depth)) for count in counts]
        counters = max(act, ceil(depth / problem.group), wgt * arch.array.lanes)
        room = act * slots[0] <= arch.scratchpads.act_depth and wgt * slots[1] <= arch.scratchpads.wgt_depth
        return room and counters <= FIELD_MAX

    if fits(problem.depth):
        return problem.depth
    low, high = 0, problem.depth // unit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle * unit) else (low, middle - 1)
    if low == 0:
        return 0
    tiles = ceil(problem.depth / (low * unit))
    return ceil(problem.depth / tiles / unit) * unit


def act_row_words(arch: Arch, group: int, depth: int) -> int:
    """Activation words of a row block that hold `depth` values filled up to whole groups."""
    return ceil(ceil(depth / group) * group / arch.array.cols)


def weight_words(problem: Problem, depth: int, tile_cols: int) -> int:
    """Words of a weight slot, filled up to whole index beats."""
    words = ceil(depth / problem.group) * problem.group_words * tile_cols
    return ceil(words / INDEX_WORDS) * INDEX_WORDS


def _weight_stationary(arch: Arch, problem: Problem) -> Iterator[Plan]:
    array, room = arch.array, _Room(arch, problem)
    unit = array.rows * problem.group
    if _broken_rule(arch, problem):
        return
    depth = min(problem.depth, unit)
    instructions = ceil(problem.depth / unit)
    for tile_cols in range(1, min(array.interleave_max, problem.words) + 1):
        wgt = weight_words(problem, depth, tile_cols)
        wgt_needed = min(2, ceil(problem.words / tile_cols) * instructions)
        small = problem.group_words * tile_cols <= array.weight_buffer and wgt * array.lanes <= FIELD_MAX
        if not small or wgt * wgt_needed > arch.scratchpads.wgt_depth:
            continue
        streams = arch.scratchpads.act_depth // 2 * array.cols // problem.group
        for row_tile in _row_tiles(problem.rows, min(room.rows(tile_cols), streams), array.rows):
            act = ceil(row_tile * problem.group / array.cols)
            yield _plan(arch, problem, WS, (1, tile_cols), row_tile, depth, act)


def _row_tiles(rows: int, most: int, least: int) -> Iterator[int]:
    """Equal shares of the rows: as few as possible, then twice as many, and so on down to `least` rows in each."""
    count = ceil(rows / most) if most else rows + 1
    while count <= rows:
        yield ceil(rows / count)
        count = 2 * count if rows >= 2 * count * least else rows + 1


def _plan(
    arch: Arch, problem: Problem, dataflow: Dataflow, tile: tuple[int, int], row_tile: int, depth: int, act: int
) -> Plan:
    tile_rows, tile_cols = tile
    row_tiles, col_tiles = ceil(problem.rows / row_tile), ceil(problem.words / tile_cols)
    depth_tiles = ceil(problem.depth / depth)
    wgt = weight_words(problem, depth, tile_cols)
    return Plan(
        dataflow=dataflow,
        group=problem.group,
        group_words=problem.group_words,
        tile_rows=tile_rows,
        tile_cols=tile_cols,
        row_tile=row_tile,
        depth_tile=depth,
        row_tiles=row_tiles,
        col_tiles=col_tiles,
        depth_tiles=depth_tiles,
        act_words=act,
        act_slots=min(row_tiles * depth_tiles, arch.scratchpads.act_depth // act),
        wgt_words=wgt,
        wgt_slots=min(col_tiles * depth_tiles, arch.scratchpads.wgt_depth // wgt),
        out_slots=_Room(arch, problem).slots(row_tile * tile_cols, row_tiles * col_tiles),
        outer="rows",
        panel=1,
    )

"""The tensor engine against the golden machine bit for bit, and against the cycle formulas of its docstring."""

from math import ceil

import numpy as np
import pytest

from hwgen.arch import load
from hwgen.arch.commands import command, encode
from hwgen.arch.isa import Cause, Opcode, Walk
from hwgen.arch.registers import TensorState
from tests.hwgen.tensor_support import Bench
from tests.hwgen.tensor_tiles import (
    activation_words,
    after_last_beat,
    drain_period,
    draining_two,
    group_of,
    last_activation,
    last_weight,
    machine_with,
    output,
    random_tiles,
    random_walk,
    weight,
    write_stage,
)

pytestmark = pytest.mark.verilator
LIMIT = 20_000


ARCHES = [load("tiny"), load("tiny2"), draining_two("tiny2")]


@pytest.fixture(scope="module", params=ARCHES, ids=[arch.name for arch in ARCHES])
def bench(request):
    return Bench(request.param)


@pytest.fixture
def rng(seed):
    return np.random.default_rng(seed)


def run_both(bench, machine, commands):
    """Run on hardware and golden machine from the same state; compare every accumulator word."""
    bench.reset()
    bench.load(machine.state)
    run = bench.run(commands, LIMIT)
    machine.run(b"".join(map(encode, commands)))
    got, want = bench.accumulators(), machine.state.acc
    wrong = np.argwhere(got != want)
    assert not len(wrong), f"{len(wrong)} values differ, first at {wrong[0]}: {got[tuple(wrong[0])]:#x}"
    return run


def run_alone(bench, item, rng, m=8):
    return run_both(bench, machine_with(bench.arch, rng, m), [item])


OUTPUT_CASES = [
    {"groups": 8, "rows": 4, "tile_cols": 4},
    {"groups": 5, "rows": 3, "tile_cols": 1},
    {"groups": 7, "rows": 7, "tile_cols": 2, "tile_rows": 2, "act_stride": 9},
    {"groups": 6, "rows": 4, "tile_cols": 8, "sparse": 1, "n": 2, "m": 8},
    {"groups": 3, "rows": 4, "tile_cols": 8, "sparse": 1, "n": 1, "m": 16},
    {"groups": 9, "rows": 2, "tile_cols": 6, "sparse": 1, "n": 3, "m": 5},
    {"groups": 6, "rows": 3, "tile_cols": 3, "acc_stride": 4},
    {"groups": 6, "rows": 7, "tile_cols": 2, "tile_rows": 2, "acc_stride": 3},
]


def output_case(bench, case):
    """The tile of a case, with as many column blocks as the array has sums."""
    cols = min(case["tile_cols"], bench.arch.array.interleave_max // case.get("tile_rows", 1))
    return output(**{"acc_stride": case["tile_cols"]} | case | {"tile_cols": cols})


@pytest.mark.parametrize("case", OUTPUT_CASES, ids=str)
def test_output_stationary_cycles(bench, rng, case):
    item, array = output_case(bench, case), bench.arch.array
    group, words = group_of(array, item)
    run = run_alone(bench, item, rng, item.m or 1)

    interleave = item.tile_cols * item.tile_rows
    rotation = max(interleave, array.chain_latency)
    fetches = item.tile_rows * ceil(group / array.act_width)
    fill = 3 + fetches
    drain = after_last_beat(array, item)
    if item.groups * group % array.act_width == 0 and words * rotation >= fetches:
        assert run.cycles == fill + item.groups * words * rotation - (rotation - interleave) + drain
    assert run.states[TensorState.BUSY] == item.groups * words * interleave
    assert sum(run.states.values()) == run.cycles


WEIGHT_CASES = [
    {"groups": 4, "rows": 10, "tile_cols": 1},
    {"groups": 3, "rows": 12, "tile_cols": 4},
    {"groups": 4, "rows": 9, "tile_cols": 7},
    {"groups": 4, "rows": 8, "tile_cols": 4, "sparse": 1, "n": 2, "m": 8},
    {"groups": 2, "rows": 5, "tile_cols": 2, "sparse": 1, "n": 4, "m": 8},
    {"groups": 4, "rows": 6, "tile_cols": 3, "sparse": 1, "n": 3, "m": 6},
]


@pytest.mark.parametrize("case", WEIGHT_CASES, ids=str)
@pytest.mark.parametrize("first", [0, 1])
def test_weight_stationary_cycles(bench, rng, case, first):
    item, array = weight(acc_stride=case["tile_cols"], first=first, **case), bench.arch.array
    group, words = group_of(array, item)
    run = run_alone(bench, item, rng, item.m or 1)

    chain = array.chain_latency
    rotation = max(item.tile_cols, chain) if words > 1 else item.tile_cols
    hop = (words - 1) * max(item.tile_cols, chain) + chain + 1
    weights = min(1 + (array.rows - 1) * max(0, item.tile_cols - chain), array.rows * words * item.tile_cols)
    drain = (array.rows - 1) * hop + write_stage(array) + array.cols + 3
    busy = item.rows * words * item.tile_cols
    assert run.states[TensorState.BUSY] == busy
    assert sum(run.states.values()) == run.cycles
    if words * rotation >= ceil(group / array.act_width):
        beats = item.rows * words * rotation - (rotation - item.tile_cols)
        bubbles = run.states.get(TensorState.BUBBLE, 0)
        assert busy + bubbles <= beats
        assert run.cycles == 3 + max(weights, ceil(group / array.act_width)) + busy + bubbles + drain


def test_tiles_follow_without_a_gap(bench, rng):
    """Several tiles of one kind: the array is busy from the first beat to the last."""
    array = bench.arch.array
    cols = array.chain_latency + 1 if array.chain_latency < array.interleave_max else array.interleave_max
    groups = 2 * array.rows
    tiles = [output(groups=groups, rows=array.rows, tile_cols=cols, acc_addr=t * 64, acc_stride=cols) for t in range(5)]
    run = run_both(bench, machine_with(bench.arch, rng, 1), tiles)
    assert run.states[TensorState.BUSY] == 5 * groups * cols
    waits = np.flatnonzero(run.trace == TensorState.BUSY)
    assert waits[-1] - waits[0] + 1 == len(waits)


@pytest.mark.parametrize("cols", [1, 2, 3, 4])
@pytest.mark.parametrize("gap", [0, 1])
@pytest.mark.parametrize(("groups", "short"), [(2, 0), (2, 1), (12, 0)])
def test_tiles_take_as_long_as_they_compute_or_drain(bench, rng, cols, gap, groups, short):
    """A stream of tiles takes as long as the beats need, or the drains if the reduction is small; not a cycle more."""
    array = bench.arch.array
    blocks = 2 if cols < 4 else 1
    shape = {"groups": groups, "rows": array.rows * blocks - short, "tile_cols": cols, "tile_rows": blocks}
    tiles = [output(**shape, acc_addr=t * 100, acc_stride=cols + gap, act_stride=7, wgt_addr=t) for t in range(6)]
    run = run_both(bench, machine_with(bench.arch, rng, 1), tiles)
    rotation = max(blocks * cols, array.chain_latency)
    fill = 3 + blocks * ceil(array.lanes / array.act_width)
    beats = (groups - 1) * rotation + blocks * cols
    period = max(beats, drain_period(array, tiles[0]))
    assert run.cycles == fill + beats + 5 * period + after_last_beat(array, tiles[0])


def test_rings_change_their_size_behind_the_last_beat(bench, rng):
    """The array does not empty between tiles of different heights: only the first activations are waited for."""
    array, heights = bench.arch.array, [1, 4, 2, 1, 4, 1]
    tiles = [
        output(groups=80, rows=array.rows * height, tile_rows=height, acc_addr=50 * t, acc_stride=1, act_stride=3)
        for t, height in enumerate(heights)
    ]
    assert all(80 * array.chain_latency > 2 * drain_period(array, item) for item in tiles)
    run = run_both(bench, machine_with(bench.arch, rng, 1), tiles)
    busy = np.flatnonzero(run.trace == TensorState.BUSY)
    ends = np.cumsum([80 * height for height in heights])[:-1]
    waits = busy[ends] - busy[ends - 1] - 1
    assert list(waits) == [2 + height * ceil(array.lanes / array.act_width) for height in heights[1:]]


@pytest.mark.parametrize("case", OUTPUT_CASES, ids=str)
@pytest.mark.parametrize("walk", [Walk.ACT, Walk.WGT], ids=str)
def test_a_walk_costs_no_cycle(bench, rng, case, walk):
    """The array does the same in every cycle as without the walk, also where activations come too late."""
    item = output_case(bench, case)
    plain = run_alone(bench, item, rng, item.m or 1)
    walked = run_alone(bench, random_walk(bench.arch, rng, walk, item), rng, item.m or 1)
    np.testing.assert_array_equal(walked.trace, plain.trace)


@pytest.mark.parametrize("sparse", [{}, {"sparse": 1, "n": 2, "m": 8}], ids=["dense", "2:8"])
@pytest.mark.parametrize("blocks", [1, 2])
def test_walked_tiles_follow_without_a_gap(bench, rng, sparse, blocks):
    """Whatever their walks, a stream of tiles takes the beats of all of them, one fill and one drain."""
    array = bench.arch.array
    cols = min(array.chain_latency + 1, array.interleave_max // blocks)
    shape = {"groups": 24, "rows": array.rows * blocks, "tile_cols": cols, "tile_rows": blocks, "acc_stride": cols}
    tight = {"run": 1, "jump": 1, "step": 2, "col_step": 3, "col_run": 1, "col_jump": 2}
    tiles = [output(**shape | sparse, walk=walk, **tight) for walk in Walk]
    tiles += [random_walk(bench.arch, rng, Walk(rng.integers(3)), tiles[0]) for _ in range(4)]
    run = run_both(bench, machine_with(bench.arch, rng, 8), tiles)
    group, words = group_of(array, tiles[0])
    rotation = max(blocks * cols, array.chain_latency)
    fill = 3 + blocks * ceil(group / array.act_width)
    beats = len(tiles) * 24 * words * rotation - (rotation - blocks * cols)
    assert run.cycles == fill + beats + after_last_beat(array, tiles[-1])
    assert run.states[TensorState.BUSY] == len(tiles) * 24 * words * blocks * cols


def test_weight_stationary_passes_follow_without_a_gap(bench, rng):
    """Accumulating passes over the same results: preload and earlier sums are hidden behind the pass before."""
    array = bench.arch.array
    cols = min(4, array.chain_latency)
    rows = 4 * array.rows * (array.chain_latency + 1)
    tiles = [
        weight(groups=array.rows, rows=rows, tile_cols=cols, first=t == 0, wgt_addr=t * 64, acc_stride=cols)
        for t in range(4)
    ]
    if rows * cols > bench.arch.scratchpads.acc_depth:
        tiles = [weight(groups=array.rows, rows=200, tile_cols=cols, first=t == 0, acc_stride=cols) for t in range(4)]
    run = run_both(bench, machine_with(bench.arch, rng, 1), tiles)
    busy = np.flatnonzero(run.trace == TensorState.BUSY)
    assert busy[-1] - busy[0] + 1 == len(busy)


def test_sums_continue_over_instructions(bench, rng):
    """Output stationary with first/last split over three instructions equals one instruction."""
    array = bench.arch.array
    cols = array.chain_latency // 2
    parts = [
        output(
            groups=4, rows=array.rows, tile_cols=cols, first=t == 0, last=t == 2, acc_stride=cols, wgt_addr=t * 4 * cols
        )
        for t in range(3)
    ]
    run_both(bench, machine_with(bench.arch, rng, 1), parts)


def test_sums_continue_over_walks(bench, rng):
    """A sum that goes on over tiles of every walk, and over two row blocks."""
    shape = {"groups": 5, "rows": 2 * bench.arch.array.rows, "tile_cols": 3, "tile_rows": 2, "act_stride": 11}
    shape |= {"acc_stride": 3}
    walks = [Walk.ACT, Walk.NONE, Walk.WGT, Walk.ACT]
    parts = [output(first=t == 0, last=t == 3, **shape) for t in range(4)]
    parts = [random_walk(bench.arch, rng, walk, part) for walk, part in zip(walks, parts, strict=True)]
    run_both(bench, machine_with(bench.arch, rng, 1), parts)


def test_random_tiles_equal_golden(bench, rng):
    for _ in range(25):
        tiles, m = random_tiles(bench.arch, rng)
        run_both(bench, machine_with(bench.arch, rng, m), tiles)


BAD = {
    "n over m": (output(sparse=1, n=5, m=4), Cause.BAD_FIELD),
    "n of 0": (output(sparse=1, n=0, m=4), Cause.BAD_FIELD),
    "too many sums": (output(tile_cols=16, tile_rows=2), Cause.BAD_FIELD),
    "ring too small": (output(sparse=1, n=1, m=16, tile_rows=4), Cause.BAD_FIELD),
    "too many rows": (output(rows=200), Cause.BAD_FIELD),
    "too many groups": (weight(groups=200), Cause.BAD_FIELD),
    "weights over buffer": (weight(sparse=1, n=16, m=16, tile_cols=8), Cause.BAD_FIELD),
    "row blocks": (weight(tile_rows=2), Cause.BAD_FIELD),
    "not last": (weight(last=0), Cause.BAD_FIELD),
    "act outside": (output(act_addr=1 << 19), Cause.SCRATCHPAD_RANGE),
    "wgt outside": (output(wgt_addr=1 << 19), Cause.SCRATCHPAD_RANGE),
    "acc outside": (output(acc_addr=1 << 19), Cause.SCRATCHPAD_RANGE),
    "acc of the second row outside": (output(rows=2, acc_addr=1023, acc_stride=1), Cause.SCRATCHPAD_RANGE),
    "no run of activations": (output(walk=Walk.ACT, run=0), Cause.BAD_FIELD),
    "no run of groups": (output(walk=Walk.WGT, run=0, col_run=1), Cause.BAD_FIELD),
    "no run of columns": (output(walk=Walk.WGT, run=1, col_run=0), Cause.BAD_FIELD),
    "stationary act walk": (weight(walk=Walk.ACT, run=1), Cause.BAD_FIELD),
    "stationary wgt walk": (weight(walk=Walk.WGT, run=1, col_run=1), Cause.BAD_FIELD),
    "stationary wgt outside": (weight(wgt_addr=1 << 19), Cause.SCRATCHPAD_RANGE),
    "stationary acc outside": (weight(acc_addr=1 << 19, first=0), Cause.SCRATCHPAD_RANGE),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_instruction_stops_with_cause_and_place(bench, name):
    item, cause = BAD[name]
    bench.reset()
    assert bench.run_to_error([output(), item], LIMIT) == (cause, 1)


def test_walks_end_at_the_last_word(bench, rng):
    """A walk may touch the last word of its memory; one word more is an error."""
    shape = {"tile_rows": 2, "tile_cols": 3, "groups": 13, "acc_stride": 3}
    for walk, field, last, size in (
        (Walk.ACT, "act_addr", last_activation, activation_words(bench.arch)),
        (Walk.WGT, "wgt_addr", last_weight, bench.arch.scratchpads.wgt_depth),
    ):
        item = random_walk(bench.arch, rng, walk, output(**shape))
        item = command(
            Opcode.TENSOR, **item.operands | {field: size - 1 - last(bench.arch, item) + item.operands[field]}
        )
        run_both(bench, machine_with(bench.arch, rng, 1), [item])
        bench.reset()
        beyond = command(Opcode.TENSOR, **item.operands | {field: item.operands[field] + 1})
        assert bench.run_to_error([output(), beyond], LIMIT) == (Cause.SCRATCHPAD_RANGE, 1)


FAR = {
    "act stride": {"walk": Walk.ACT, "run": 1, "act_stride": (1 << 20) - 1, "tile_rows": 2},
    "act jump": {"walk": Walk.ACT, "run": 9, "jump": (1 << 18) - 1},
    "act highest jump bit": {"walk": Walk.ACT, "run": 9, "jump": 1 << 17},
    "wgt leap": {"walk": Walk.WGT, "run": 39, "col_run": 1, "step": 1, "jump": (1 << 18) - 1},
    "wgt step": {"walk": Walk.WGT, "run": 1, "col_run": 1, "step": 1023, "groups": 40},
    "wgt jump": {"walk": Walk.WGT, "run": 39, "col_run": 1, "jump": (1 << 18) - 1},
    "wgt col step": {"walk": Walk.WGT, "run": 1, "col_run": 16, "col_step": 255},
    "wgt col jump": {"walk": Walk.WGT, "run": 1, "col_run": 3, "col_jump": 8191},
}


@pytest.mark.parametrize("name", FAR)
def test_walk_out_of_the_scratchpad(bench, name):
    """The largest strides leave the memory: they are not cut off."""
    array = bench.arch.array
    shape = {"groups": 40, "tile_cols": 1 if "act" in name else array.interleave_max, "acc_stride": 16}
    far = output(**shape | FAR[name])
    bench.reset()
    assert bench.run_to_error([output(), far], LIMIT) == (Cause.SCRATCHPAD_RANGE, 1)

"""The tensor engine against the golden machine bit for bit, and against the cycle formulas of its docstring."""

from math import ceil

import numpy as np
import pytest

from hwgen.arch import load
from hwgen.arch.isa import Cause, Dataflow, Opcode, command, encode
from hwgen.arch.registers import TensorState
from models.machine import Machine
from tests.hwgen.tensor_support import Bench

pytestmark = pytest.mark.verilator
LIMIT = 20_000


@pytest.fixture(scope="module", params=["tiny", "tiny2"])
def bench(request):
    return Bench(load(request.param))


@pytest.fixture
def rng(seed):
    return np.random.default_rng(seed)


def tensor(**operands):
    return command(Opcode.TENSOR, **{"first": 1, "last": 1, "tile_cols": 1, "tile_rows": 1} | operands)


def output(**operands):
    return tensor(dataflow=Dataflow.OUTPUT_STATIONARY, **operands)


def weight(**operands):
    return tensor(dataflow=Dataflow.WEIGHT_STATIONARY, **operands)


def machine_with(arch, rng, m):
    """A golden machine with random scratchpads whose indices lie within groups of `m`."""
    machine = Machine(arch, 1024)
    state = machine.state
    for memory in (state.act, state.wgt):
        memory[:] = rng.standard_normal(memory.shape).astype(np.float16).view(np.uint16)
    state.idx[:] = rng.integers(0, m, state.idx.shape)
    state.acc[:] = rng.standard_normal(state.acc.shape).astype(np.float32).view(np.uint32)
    state.acc[::5] = rng.integers(1, 1 << 24, state.acc[::5].shape)  # subnormals and the least normal numbers
    return machine


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


def group_of(array, item):
    """(G, K) of an instruction, from ISA.md."""
    return (item.m, ceil(item.n / array.lanes)) if item.sparse else (array.lanes, 1)


def write_stage(array):
    return 1 + array.mul_latency + array.lanes * array.add_latency


OUTPUT_CASES = [
    {"groups": 8, "rows": 4, "tile_cols": 4},
    {"groups": 5, "rows": 3, "tile_cols": 1},
    {"groups": 7, "rows": 7, "tile_cols": 2, "tile_rows": 2, "act_stride": 9},
    {"groups": 6, "rows": 4, "tile_cols": 8, "sparse": 1, "n": 2, "m": 8},
    {"groups": 3, "rows": 4, "tile_cols": 8, "sparse": 1, "n": 1, "m": 16},
    {"groups": 9, "rows": 2, "tile_cols": 6, "sparse": 1, "n": 3, "m": 5},
]


@pytest.mark.parametrize("case", OUTPUT_CASES, ids=str)
def test_output_stationary_cycles(bench, rng, case):
    item, array = output(acc_stride=case["tile_cols"], **case), bench.arch.array
    if item.tile_cols * item.tile_rows > array.interleave_max:
        item = output(**case | {"tile_cols": array.interleave_max // item.tile_rows})
    group, words = group_of(array, item)
    run = run_alone(bench, item, rng, item.m or 1)

    interleave = item.tile_cols * item.tile_rows
    rotation = max(interleave, array.chain_latency)
    fetches = item.tile_rows * ceil(group / array.act_width)
    fill = 3 + fetches
    drain = write_stage(array) + item.rows * item.tile_cols + array.rows + array.cols + 3 - interleave
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


def random_tiles(arch, rng):
    """A legal sequence of tiles of both dataflows, with sums that continue and results that overlap."""
    array, tiles, held, block = arch.array, [], None, None
    sparse, m = int(rng.integers(2)), int(rng.integers(1, array.group_max + 1))
    n = int(rng.integers(1, m + 1))
    group, words = (m, ceil(n / array.lanes)) if sparse else (array.lanes, 1)
    pattern = {"sparse": sparse, "n": n * sparse, "m": m * sparse}
    for _ in range(rng.integers(1, 9)):
        place = {
            "act_addr": int(rng.integers(20)),
            "wgt_addr": int(rng.integers(50)),
            "acc_addr": int(rng.integers(20)),
        }
        if rng.integers(2):
            cols, blocks = int(rng.integers(1, array.interleave_max + 1)), int(rng.integers(1, 5))
            ring = array.act_buffer >> (blocks - 1).bit_length()
            if cols * blocks > array.interleave_max or ring < group + 2 * array.act_width:
                cols = blocks = 1
            first = 1 if held is None else int(rng.integers(2))
            cols, blocks = (cols, blocks) if first else held
            last = int(rng.integers(2))
            held, block = None if last else (cols, blocks), None
            sizes = {"groups": int(rng.integers(1, 12)), "rows": int(rng.integers(1, array.rows * blocks + 1))}
            sizes |= {"tile_cols": cols, "tile_rows": blocks, "acc_stride": cols, "act_stride": int(rng.integers(40))}
            tiles.append(output(first=first, last=last, **pattern, **sizes, **place))
        else:
            cols = int(rng.integers(1, min(array.interleave_max, array.weight_buffer // words) + 1))
            sizes = {"rows": int(rng.integers(1, 40)), "tile_cols": cols, "acc_stride": cols + int(rng.integers(2))}
            if block and rng.integers(2):
                sizes, place = block[0], place | {"acc_addr": block[1]}
            held, block = None, (sizes, place["acc_addr"])
            groups = int(rng.integers(1, array.rows + 1))
            tiles.append(weight(first=int(rng.integers(2)), groups=groups, **pattern, **sizes, **place))
    return tiles, m if sparse else 16


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
    "stationary wgt outside": (weight(wgt_addr=1 << 19), Cause.SCRATCHPAD_RANGE),
    "stationary acc outside": (weight(acc_addr=1 << 19, first=0), Cause.SCRATCHPAD_RANGE),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_instruction_stops_with_cause_and_place(bench, name):
    item, cause = BAD[name]
    bench.reset()
    assert bench.run_to_error([output(), item], LIMIT) == (cause, 1)

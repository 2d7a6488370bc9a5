"""TENSOR against the sums of ISA.md, written as loops over single products, on scratchpads full of wild values."""

import numpy as np
import pytest

from hwgen.arch.commands import command
from hwgen.arch.isa import Dataflow, Opcode, Walk
from models.formats import decode, fp32_bits
from models.machine import Machine
from models.machine_state import UndefinedResultError
from tests.models.support import SEED, arch, assert_bits, run, wild_operands

OS, WS = Dataflow.OUTPUT_STATIONARY, Dataflow.WEIGHT_STATIONARY
ARCHES = {
    "one lane": arch("tiny"),
    "two lanes": arch("tiny2", rows=4),
    "four lanes, bf16": arch("tiny", lanes=4, operand="bf16", rows=2),
    "bf16": arch("tiny", operand="bf16"),
}
RATIOS = [None, (1, 4), (2, 4), (2, 8), (4, 8), (2, 16), (3, 5), (1, 1), (5, 6)]


def filled_machine(chosen, m: int, seed: int = SEED) -> Machine:
    """Scratchpads full of wild operands and accumulator words; stored indices below `m`."""
    rng = np.random.default_rng(seed)
    machine = Machine(chosen, 64)
    state = machine.state
    state.act[:] = wild_operands(rng, state.act.shape, chosen.array.operand)
    state.wgt[:] = wild_operands(rng, state.wgt.shape, chosen.array.operand)
    state.idx[:] = rng.integers(0, m, state.idx.shape)
    state.acc[:] = fp32_bits(rng.standard_normal(state.acc.shape, dtype=np.float32))
    state.acc[rng.random(state.acc.shape) < 0.05] = 0x80000000
    return machine


def activation_place(item, array, ir, e):
    """A(ir, e) of ISA.md."""
    if item.walk != Walk.ACT:
        return (item.act_addr + ir * item.act_stride) * array.cols + e
    a = e // array.act_width
    return (
        item.act_addr + ir * item.act_stride + a + (a // item.run) * item.jump
    ) * array.act_width + e % array.act_width


def weight_place(item, words, g, j, ic):
    """W(g*K + j, ic) of ISA.md."""
    w = g * words + j
    if item.walk != Walk.WGT:
        return item.wgt_addr + w * item.tile_cols + ic
    columns = ic % item.col_run * item.col_step + ic // item.col_run * item.col_jump
    return item.wgt_addr + w * item.step + g // item.run * item.jump + columns


def add_products(total, bank, places, weights, indices, item, g, ic, c, lanes):
    """`total` plus the products of group `g` with column `c` of block `ic`, in the order of j, then l.

    `places` are the elements of the values of the group.
    """
    words = -(-item.n // lanes) if item.sparse else 1
    for j in range(words):
        word = weight_place(item, words, g, j, ic)
        for lane in range(lanes):
            index = int(indices[word, lane, c]) if item.sparse else lane
            total = np.float32(total + np.float32(bank[places[index]] * weights[word, lane, c]))
    return total


@np.errstate(all="ignore")
def expected_output_stationary(machine, items):
    """Accumulator scratchpad after a chain of OS instructions that continue each other."""
    array, state = machine.arch.array, machine.state
    acts, weights, acc = decode(state.act, array.operand), decode(state.wgt, array.operand), state.acc.copy()
    held = {}
    for item in items:
        group = item.m if item.sparse else array.lanes
        for ir, r, ic, c in np.ndindex(item.tile_rows, array.rows, item.tile_cols, array.cols):
            slot = (r, c, ir * item.tile_cols + ic)
            total = np.float32(0) if item.first else held[slot]
            for g in range(item.groups):
                places = [activation_place(item, array, ir, g * group + i) for i in range(group)]
                total = add_products(total, acts[r], places, weights, state.idx, item, g, ic, c, array.lanes)
            held[slot] = total
            p = ir * array.rows + r
            if item.last and p < item.rows:
                acc[item.acc_addr + p * item.acc_stride + ic, c] = fp32_bits(total)
    return acc


@np.errstate(all="ignore")
def expected_weight_stationary(machine, item):
    """Accumulator scratchpad after one WS instruction."""
    array, state = machine.arch.array, machine.state
    acts, weights, acc = decode(state.act, array.operand), decode(state.wgt, array.operand), state.acc.copy()
    group = item.m if item.sparse else array.lanes
    slots = -(-item.n // array.lanes) * array.lanes if item.sparse else array.lanes
    for p, ic, c in np.ndindex(item.rows, item.tile_cols, array.cols):
        word = item.acc_addr + p * item.acc_stride + ic
        total = np.float32(0) if item.first else state.acc[word : word + 1, c].view(np.float32)[0]
        for r in range(array.rows):
            offset = item.act_addr * array.cols + p * group
            if r < item.groups:
                places = range(offset, offset + group)
                total = add_products(total, acts[r], places, weights, state.idx, item, r, ic, c, array.lanes)
                continue
            for slot in range(slots):
                index = 0 if item.sparse else slot
                total = np.float32(total + np.float32(acts[r][offset + index] * np.float32(0)))
        acc[word, c] = fp32_bits(total)
    return acc


def ratio_fields(ratio) -> dict:
    return {} if ratio is None else {"sparse": 1, "n": ratio[0], "m": ratio[1]}


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("name", ARCHES)
def test_output_stationary(name, ratio):
    chosen = ARCHES[name]
    machine = filled_machine(chosen, ratio[1] if ratio else 1)
    fields = {"groups": 3, "tile_cols": 3, "tile_rows": 2, "rows": chosen.array.rows + 1, "act_addr": 5}
    fields |= {"act_stride": 17, "wgt_addr": 11, "acc_addr": 7, "acc_stride": 4, "first": 1, "last": 1}
    if ratio is not None and chosen.array.act_buffer // 2 < ratio[1] + 2 * chosen.array.act_width:
        fields |= {"tile_rows": 1, "rows": chosen.array.rows - 1}
    item = command(Opcode.TENSOR, dataflow=OS, **ratio_fields(ratio), **fields)
    expected = expected_output_stationary(machine, [item])
    result = run(machine, item)
    assert_bits(machine.state.acc, expected, f"{name} {ratio}")
    words = -(-ratio[0] // chosen.array.lanes) if ratio else 1
    (work,) = result.tensor
    assert work.beats == result.beats == words * 3 * 3 * item.tile_rows
    kept = ratio[0] if ratio else chosen.array.lanes
    assert work.useful_macs == result.useful_macs == item.rows * 3 * kept * 3 * chosen.array.cols


WALKS = [
    {"walk": Walk.ACT, "run": 3, "jump": 4},
    {"walk": Walk.ACT, "run": 1, "jump": 0},
    {"walk": Walk.ACT, "run": 4095, "jump": 262143},  # one run that never ends
    {"walk": Walk.WGT, "run": 2, "jump": 9, "step": 7, "col_step": 5, "col_run": 2, "col_jump": 30},
    {"walk": Walk.WGT, "run": 1, "jump": 40, "step": 0, "col_step": 0, "col_run": 16, "col_jump": 8191},
    {"walk": Walk.WGT, "run": 4095, "step": 1, "col_step": 13, "col_run": 1, "col_jump": 1},  # overlapping windows
]


@pytest.mark.parametrize("walk", WALKS, ids=lambda walk: f"{walk['walk'].name}-{walk['run']}")
@pytest.mark.parametrize("ratio", [None, (2, 4), (3, 5), (2, 16)])
@pytest.mark.parametrize("name", ARCHES)
def test_walks(name, ratio, walk):
    chosen = ARCHES[name]
    machine = filled_machine(chosen, ratio[1] if ratio else 1)
    roomy = chosen.array.act_buffer // 2 >= (ratio[1] if ratio else 1) + 2 * chosen.array.act_width
    fields = {"groups": 5, "tile_cols": 3, "tile_rows": 2 if roomy else 1, "rows": chosen.array.rows, "act_addr": 5}
    fields |= {"act_stride": 17, "wgt_addr": 11, "acc_addr": 7, "acc_stride": 4, "last": 1}
    first = {**fields, **walk, "first": 1, "last": 0}
    items = [command(Opcode.TENSOR, **ratio_fields(ratio), **part) for part in (first, fields)]
    expected = expected_output_stationary(machine, items)
    run(machine, *items)
    assert_bits(machine.state.acc, expected, f"{name} {ratio} {walk}")


def test_fields_of_a_walk_that_is_not_chosen_are_ignored():
    # All of them would break a rule or leave the memories if they counted.
    fields = {"first": 1, "last": 1, "groups": 9, "rows": 1, "tile_cols": 2, "tile_rows": 1}
    wild = {"jump": 262143, "step": 1023, "col_step": 255, "col_jump": 8191}
    plain, noisy = filled_machine(ARCHES["one lane"], 4), filled_machine(ARCHES["one lane"], 4)
    run(plain, command(Opcode.TENSOR, **fields))
    run(noisy, command(Opcode.TENSOR, **fields, **wild))
    assert_bits(noisy.state.acc, plain.state.acc, "no walk")
    run(noisy, command(Opcode.TENSOR, **fields, **{**wild, "run": 9, "walk": Walk.ACT}))


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("name", ARCHES)
def test_weight_stationary(name, ratio, first):
    chosen = ARCHES[name]
    machine = filled_machine(chosen, ratio[1] if ratio else 1)
    fields = {"groups": chosen.array.rows - 1, "tile_cols": 3, "rows": 5, "act_addr": 9, "wgt_addr": 23}
    item = command(
        Opcode.TENSOR, dataflow=WS, **ratio_fields(ratio), **fields, first=first, last=1, acc_addr=40, acc_stride=5
    )
    expected = expected_weight_stationary(machine, item)
    result = run(machine, item)
    assert_bits(machine.state.acc, expected, f"{name} {ratio}")
    assert result.beats == (-(-ratio[0] // chosen.array.lanes) if ratio else 1) * 3 * 5


def test_held_sums_continue_over_other_tile_shapes():
    machine = filled_machine(ARCHES["two lanes"], 4)
    common = {"dataflow": OS, "groups": 2, "acc_stride": 2, "act_stride": 3}
    items = [
        command(Opcode.TENSOR, first=1, rows=1, tile_rows=2, tile_cols=2, **common),
        command(Opcode.TENSOR, rows=1, tile_rows=1, tile_cols=4, sparse=1, n=2, m=4, wgt_addr=30, **common),
        command(Opcode.TENSOR, last=1, rows=7, tile_rows=2, tile_cols=2, act_addr=9, wgt_addr=60, **common),
    ]
    expected = expected_output_stationary(machine, items)
    run(machine, *items)
    assert_bits(machine.state.acc, expected, "three instructions")


def test_rows_without_valid_data_keep_their_sums():
    # The first part names one row only, the second writes all four of them.
    machine = filled_machine(ARCHES["one lane"], 4)
    items = [
        command(Opcode.TENSOR, first=1, rows=1, tile_rows=1, tile_cols=1, groups=3),
        command(Opcode.TENSOR, last=1, rows=4, tile_rows=1, tile_cols=1, groups=2, wgt_addr=3, acc_stride=1),
    ]
    expected = expected_output_stationary(machine, items)
    run(machine, *items)
    assert_bits(machine.state.acc, expected, "second part")


def test_infinite_activation_meets_stored_zero_but_not_pruned_weight():
    machine = Machine(ARCHES["one lane"], 64)
    state = machine.state
    state.act[0, :4] = [0x3C00, 0x7C00, 0x3C00, 0x3C00]
    state.wgt[0:2, 0] = 0x3C00
    state.idx[1, 0] = [2, 2, 1, 1]
    state.wgt[1, 0] = [0x4000, 0, 0, 0x3C00]
    item = command(Opcode.TENSOR, sparse=1, n=2, m=4, groups=1, rows=1, tile_cols=1, tile_rows=1, first=1, last=1)
    run(machine, item)
    # 1 + 2; 1 + 0; 1 + 0 x infinity; 1 + infinity.
    assert [hex(int(word)) for word in state.acc[0]] == ["0x40400000", "0x3f800000", "0x7fc00000", "0x7f800000"]


@pytest.mark.parametrize("sparse", [0, 1])
def test_weight_stationary_rows_without_weights_add_zero_products(sparse):
    machine = Machine(ARCHES["one lane"], 64)
    machine.state.act[3, 1] = 0x7C00  # an infinity in the only group of row p = 1 (dense) or behind it (sparse)
    machine.state.acc[:2] = 0x80000000
    item = {"dataflow": WS, "groups": 1, "rows": 2, "tile_cols": 1, "last": 1, "acc_stride": 1}
    run(machine, command(Opcode.TENSOR, sparse=sparse, n=1, m=2, wgt_addr=100, **item))
    # -0 takes products of +0 and becomes +0; +0 times infinity is NaN, but index 0 of a group of two misses it.
    assert machine.state.acc[:2].tolist() == [[0] * 4, [0 if sparse else 0x7FC00000] * 4]
    machine.state.act[3, 2] = 0x7C00
    run(machine, command(Opcode.TENSOR, sparse=sparse, n=1, m=2, wgt_addr=100, **item))
    assert machine.state.acc[:2].tolist() == [[0] * 4, [0x7FC00000] * 4]


def check_undefined(machine, match, *items):
    before = machine.state.acc.copy()
    with pytest.raises(UndefinedResultError, match=match):
        run(machine, *items)
    assert_bits(machine.state.acc, before, "accumulators after a refusal")


CONTINUE = {"last": 1, "groups": 1, "rows": 1, "tile_cols": 2, "tile_rows": 1}


def test_nothing_to_continue_is_refused():
    check_undefined(
        Machine(ARCHES["one lane"], 64),
        r"^instruction 0 has no defined result: sums of 2 slots are continued, the array holds those of 0$",
        command(Opcode.TENSOR, **CONTINUE),
    )


@pytest.mark.parametrize(
    ("between", "held"),
    [
        ({"first": 1, "tile_cols": 1}, 1),
        ({"first": 1, "last": 1, "tile_cols": 2}, 0),
        ({"dataflow": WS, "first": 1, "last": 1, "tile_cols": 2, "acc_addr": 99}, 0),
    ],
)
def test_sums_that_were_not_kept_are_refused(between, held):
    machine = Machine(ARCHES["one lane"], 64)
    first = command(Opcode.TENSOR, **{**CONTINUE, "last": 0, "first": 1})
    second = command(Opcode.TENSOR, groups=1, rows=1, tile_rows=1, **between)
    with pytest.raises(UndefinedResultError, match=rf"^instruction 2 .* the array holds those of {held}$"):
        run(machine, first, second, command(Opcode.TENSOR, **CONTINUE))


@pytest.mark.parametrize("dataflow", [OS, WS])
def test_stored_index_outside_the_group_is_refused(dataflow):
    machine = Machine(ARCHES["one lane"], 64)
    machine.state.idx[3, 0, 2] = 4
    fields = {"dataflow": dataflow, "first": 1, "last": 1, "groups": 2, "rows": 1, "tile_cols": 1, "tile_rows": 1}
    item = command(Opcode.TENSOR, sparse=1, n=2, m=4, **fields)
    check_undefined(machine, r"a stored index is 4, which must be below m=4$", item)


@pytest.mark.parametrize("dataflow", [OS, WS])
def test_overlapping_output_rows_are_refused(dataflow):
    fields = {"dataflow": dataflow, "first": 1, "last": 1, "groups": 1, "rows": 2, "tile_cols": 2, "tile_rows": 1}
    check_undefined(
        Machine(ARCHES["one lane"], 64),
        r"output rows of 2 words overlap, because acc_stride is 1$",
        command(Opcode.TENSOR, acc_stride=1, **fields),
    )

"""Plans: the rules of the instruction set, the capacities of the scratchpads, and what the cost model prefers."""

import math
import random
import re

import numpy as np
import pytest
import torch
from torch import nn

from hwgen.arch import UserError, load, preset_names
from hwgen.arch.isa import Dataflow, Opcode, Target
from scheduler.array_cost import row_blocks
from scheduler.capture import capture
from scheduler.cost import LOAD_START, estimate, transfers
from scheduler.ir import Bias, Graph, Linear, Tensor
from scheduler.lower import lower
from scheduler.passes.tile import problem_of
from tests.scheduler.support import options, variant

OS, WS = Dataflow.OUTPUT_STATIONARY, Dataflow.WEIGHT_STATIONARY


def lowered(arch, pattern="dense", dataflow="auto", rows=64, inputs=128, outputs=96):
    """A linear layer with bias, lowered; the weights do not matter here."""
    tensors = {name: Tensor(name, (rows, cols)) for name, cols in (("x", inputs), ("fc", outputs), ("y", outputs))}
    constants = {"w": np.ones((inputs, outputs), dtype=np.float32), "b": np.zeros(outputs, dtype=np.float32)}
    operators = (Linear("fc", "x", "w"), Bias("y", "fc", "b"))
    return lower(Graph(("x",), {"output": "y"}, tensors, constants, operators), arch, options(pattern, dataflow))


def random_arch(rng):
    rows, lanes = rng.choice([2, 8, 32]), rng.choice([1, 2, 4])
    array = {"rows": rows, "cols": rng.choice([4, 16]), "lanes": lanes, "interleave_max": rng.choice([4, 16])}
    array |= {
        "act_width": rng.choice([width for width in (1, 2, 4) if width >= lanes]),
        "act_buffer": rng.choice([32, 128]),
    }
    pads = {
        "act_depth": rng.choice([32, 256]),
        "wgt_depth": rng.choice([256, 2048]),
        "acc_depth": rng.choice([64, 1024]),
    }
    return variant("tiny", array=array, scratchpads=pads)


def check_rules(state):
    """The "must" rules of ISA.md that the plan answers for, and all scratchpad ranges, on every instruction."""
    array, pads = state.arch.array, state.arch.scratchpads
    for item in state.program.commands:
        if item.opcode is Opcode.TENSOR:
            group = item.m if item.sparse else array.lanes
            words = math.ceil(item.n / array.lanes) if item.sparse else 1
            if item.dataflow == OS:
                share = array.act_buffer // item.tile_rows
                assert item.tile_rows * item.tile_cols <= array.interleave_max
                assert item.rows <= item.tile_rows * array.rows
                assert 1 << share.bit_length() - 1 >= group + 2 * array.act_width
                last = item.act_addr + (item.tile_rows - 1) * item.act_stride
                assert last + math.ceil(item.groups * group / array.cols) <= pads.act_depth
            else:
                assert item.groups <= array.rows
                assert words * item.tile_cols <= array.weight_buffer
                assert item.tile_rows == item.last == 1
                assert item.act_addr + math.ceil(item.rows * group / array.cols) <= pads.act_depth
            assert item.wgt_addr + item.groups * words * item.tile_cols <= pads.wgt_depth
            assert item.acc_addr + (item.rows - 1) * item.acc_stride + item.tile_cols <= pads.acc_depth
        elif item.opcode is Opcode.STORE:
            assert item.addr + (item.rows - 1) * item.stride + item.words <= pads.acc_depth
            assert item.row_stride % state.arch.beat_bytes == item.dram_addr % state.arch.beat_bytes == 0


def test_plans_of_random_layers_keep_the_rules(seed):
    rng, refused = random.Random(seed), []
    for _ in range(40):
        arch, pattern = random_arch(rng), rng.choice(["dense", "2:8", "1:4", "5:13", "16:16"])
        sizes = {name: rng.randint(1, 200) for name in ("rows", "inputs", "outputs")}
        print(arch.array, arch.scratchpads, pattern, sizes)
        try:
            state = lowered(arch, pattern, rng.choice(["auto", "os", "ws"]), **sizes)
        except UserError as error:
            refused.append(str(error))
            continue
        check_rules(state)
    assert len(refused) <= 20
    assert all("has no" in text for text in refused)


@pytest.mark.parametrize("preset", preset_names())
@pytest.mark.parametrize("pattern", ["dense", "2:8", "2:16", "3:5"])
def test_every_preset_takes_every_pattern(preset, pattern):
    state = lowered(load(preset), pattern, rows=100, inputs=300, outputs=70)
    check_rules(state)
    (plan,) = state.plans.values()
    assert plan.cycles > 0


@pytest.mark.parametrize(("group", "expected"), [(1, 4), (8, 4), (16, 2)])
def test_row_blocks_of_sat32_follow_the_ring_size(group, expected):
    """64 values, 4 a cycle: 8 + group must fit 64 / rows rounded down to a power of two."""
    assert row_blocks(load("sat32").array, group) == expected


@pytest.mark.parametrize(("pattern", "ideal"), [("dense", 512**3 // 1024), ("2:8", 512**3 // 4096)])
@pytest.mark.parametrize("dataflow", ["os", "ws"])
def test_a_large_product_keeps_the_array_busy(pattern, ideal, dataflow):
    state = lowered(load("sat32"), pattern, dataflow, rows=512, inputs=512, outputs=512)
    (layer,) = state.layers
    cost = estimate(state.arch, problem_of(state, layer), state.plans[layer.name])
    assert ideal <= cost.tensor <= 1.03 * ideal
    assert cost.total >= max(cost.load, cost.tensor, cost.vector, cost.store)


def test_the_last_row_tile_loads_the_rows_that_are_left():
    state = lowered(load("sat16"), "2:8", "os", rows=360, inputs=128, outputs=10)
    (layer,) = state.layers
    plan = state.plans[layer.name]
    loads = [item for item in state.program.commands if item.opcode is Opcode.LOAD and item.target != Target.ACC32]
    assert plan.row_tile * plan.row_tiles > 360
    cycles = sum(LOAD_START + item.rows * item.beats for item in loads)
    biases = LOAD_START + 2 * plan.tile_cols
    assert estimate(state.arch, problem_of(state, layer), plan).load == cycles + biases


def test_auto_takes_the_cheaper_dataflow_and_says_what_the_other_costs():
    chosen = set()
    for sizes in ({"rows": 50, "inputs": 64, "outputs": 16}, {"rows": 17, "inputs": 256, "outputs": 200}):
        costs = {
            name: next(iter(lowered(load("sat16"), "dense", name, **sizes).plans.values())).cycles
            for name in ("os", "ws")
        }
        plan = next(iter(lowered(load("sat16"), **sizes).plans.values()))
        assert plan.cycles == min(costs.values())
        chosen.add(plan.dataflow)
        assert f"{max(costs.values()):,} cycles" in plan.rival
    assert chosen == {OS, WS}


def test_transfers_equal_the_loads_of_the_program():
    """The closed form counts what the slots really do; it may only err on the safe side, when panels overlap."""
    rng = random.Random(3)
    for _ in range(12):
        sizes = {name: rng.randint(20, 150) for name in ("rows", "inputs", "outputs")}
        arch = variant("tiny", scratchpads={"act_depth": rng.choice([16, 64]), "wgt_depth": rng.choice([64, 256])})
        state = lowered(arch, "dense", rng.choice(["os", "ws"]), **sizes)
        (plan,) = state.plans.values()
        loads = [item.target for item in state.program.commands if item.opcode is Opcode.LOAD]
        act, wgt = transfers(plan)
        print(sizes, plan)
        assert loads.count(2) <= wgt
        assert sum(target in (0, 1) for target in loads) <= act
        assert act + wgt <= 1.5 * len(loads)


_MULTIPLE = r"weight stationary, array.rows x {} must be a multiple of array.cols {}, or the reduction at most {} long$"
_WIDE = {"scratchpads": {"wgt_depth": 64}, "array": {"cols": 64}}


@pytest.mark.parametrize(
    ("parts", "pattern", "dataflow", "message"),
    [
        ({}, "3:5", "ws", r"groups of 5\) has no ws tile on tiny: weight stationary, M must be a power of two, not 5$"),
        ({"array": {"rows": 2}}, "dense", "ws", ": " + _MULTIPLE.format(r"array.lanes \(2\)", r"\(4\)", 2)),
        ({"array": {"rows": 2, "cols": 16}}, "2:4", "ws", ": " + _MULTIPLE.format(r"M \(8\)", r"\(16\)", 8)),
        ({"array": {"weight_buffer": 8}}, "9:16", "ws", r": a tile must fit act_depth 256, .*, weight_buffer 8$"),
        (_WIDE, "7:15", "os", r": a tile must fit act_depth 256, wgt_depth 64, [^;]*$"),
        (_WIDE, "7:15", "auto", r": a tile must fit act_depth 256, [^;]*; weight stationary, M must be .*, not 15$"),
    ],
)
def test_layers_that_no_tile_fits_are_refused_with_the_rule_or_the_sizes(parts, pattern, dataflow, message):
    start = r"^layer fc \(64 x 1000 x 96, groups of \d+\) has no (ws|os|possible) tile on tiny: "
    with pytest.raises(UserError, match=start) as error:
        lowered(variant("tiny", **parts), pattern, dataflow, inputs=1000)
    assert re.search(message, str(error.value)), error.value


def test_too_little_address_space_is_an_error_with_numbers():
    arch = variant("tiny", memory={"address_bits": 24})
    module = nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(9))).eval()
    expected = (
        r"^the program needs at least 18,874,368 bytes .* \(2,097,152 bytes\), but memory\.address_bits \(24\) reaches"
    )
    with pytest.raises(UserError, match=expected):
        lower(capture(module, (torch.ones(1, 1024),)), arch, options(dataflow="os"))


def test_a_reshape_that_moves_data_is_refused():
    module = nn.Sequential(nn.Linear(6, 6), nn.Unflatten(1, (3, 2)), nn.Linear(2, 2)).eval()
    expected = (
        r"^reshape 1\.reshape turns rows of 6 values into rows of 2: inside the model both must be multiples of "
        r"array\.cols \(4\)"
    )
    with pytest.raises(UserError, match=expected):
        lower(capture(module, (torch.ones(4, 6),)), load("tiny"))

"""Products of rows with a parameter on the golden machine against NumPy in float64."""

import dataclasses

import numpy as np
import pytest

from hwgen.arch import UserError
from hwgen.arch.isa import Dataflow, Opcode, Target
from models.formats import encode
from models.packing import dense_columns
from models.pattern import Pattern
from scheduler.array_cost import row_blocks
from scheduler.hazards import Region
from scheduler.training.graph.operators import Bias, Relu
from scheduler.training.kernels.rows import Rows, row_epilogue
from scheduler.training.products.decisions import FLOWS, choose
from scheduler.training.products.linear import RowProduct
from scheduler.training.products.resident import Rings, WeightImage
from scheduler.training.products.row_choices import RowProblem, row_choices
from tests.scheduler.training.machine_support import TINY, Bench, arch8, operands

SMALL = dataclasses.replace(arch8(), scratchpads=dataclasses.replace(arch8().scratchpads, act_depth=16, wgt_depth=64))
CASES = {
    # name: arch, shape of the input, output channels
    "whole blocks": (TINY, (8, 1, 2, 8), 12),
    "some rows": (TINY, (7, 1, 1, 10), 5),
    "fewer rows than the array has": (TINY, (3, 1, 1, 4), 4),
    "tokens": (arch8(), (3, 1, 13, 24), 40),
    "narrow": (arch8(), (30, 1, 3, 17), 8),
    "weights pass by": (SMALL, (5, 1, 7, 24), 72),
}


def setup(name, seed):
    arch, shape, channels = CASES[name]
    rng = np.random.default_rng(seed)
    bench = Bench(arch)
    x, w = operands(rng, *shape), operands(rng, shape[3], channels)
    source, target = bench.feature("x", x), bench.feature("y", None, (*shape[:3], channels))
    cols = arch.array.cols
    filled = np.zeros((source.words * cols, target.words * cols), np.float32)
    filled[: shape[3], :channels] = w
    image = bench.memory.image("w", source.words * cols, target.words, None)
    bench.contents.append((image.address, dense_columns(encode(filled, "fp16"), arch)))
    return bench, RowProduct(bench.em, Rings(arch), source, target, image), x.astype(np.float64) @ w


def tensors(bench):
    """The TENSOR instructions that were recorded."""
    return [item for item in bench.em.recorder.commands if item.opcode == Opcode.TENSOR]


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=6e-4, atol=1e-5)


@pytest.mark.parametrize("dataflow", ["os", "ws"])
@pytest.mark.parametrize("name", CASES)
def test_products_in_both_dataflows(name, dataflow, seed):
    bench, product, wanted = setup(name, seed)
    choice, _ = choose(product.choices(), dataflow)
    assert choice.dataflow == FLOWS[dataflow]
    product.emit(choice=choice)
    assert {item.dataflow for item in tensors(bench)} == {choice.dataflow}
    close(bench.read(bench.run(scheduled=True), product.target), wanted)


@pytest.mark.parametrize("name", CASES)
def test_results_are_the_same_bits_however_they_are_cut(name, seed):
    found = []
    _, product, _ = setup(name, seed)
    choices = product.choices()
    ends = min(choices, key=lambda item: item.rows * item.cols), max(choices, key=lambda item: item.cycles)
    flows = [choose(choices, dataflow)[0] for dataflow in ("os", "ws")]
    orders = {item.order.split()[0] + item.dataflow.name: item for item in choices}
    for choice in (*ends, *flows, *orders.values()):
        bench, product, _ = setup(name, seed)
        product.emit(choice=choice)
        found.append(bench.read(bench.run(scheduled=True), product.target))
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_rows_that_hold_what_is_no_number_do_not_reach_others(seed):
    """Banks keep what was in them; weight stationary, the last stretch of the reduction is filled up with zeros."""
    bench, product, wanted = setup("some rows", seed)
    bad = bench.feature("bad", np.full((4, 1, 1, 8), np.inf, np.float32))
    block = Rows(bad, 0, 4, 0, bad.words)
    fields = {"rows": 4, "beats": bad.words, "dram_addr": block.address(bench.em), "row_stride": block.stride(bench.em)}
    for start in range(0, 256, bad.words):
        bench.em.load(Target.ACT_ROWS, start, block.region(bench.em), Region("act", start, start + bad.words), **fields)
    product.emit(choice=choose(product.choices(), "ws")[0])
    close(bench.read(bench.run(), product.target), wanted)


@pytest.mark.parametrize("name", ["some rows", "tokens"])
def test_chain_and_sums_see_rows_and_nothing_else(name, seed):
    bench, product, wanted = setup(name, seed)
    values = np.random.default_rng(seed).standard_normal(wanted.shape[3]).astype(np.float32)
    bias, seen = bench.kept_row("bias", values), []
    chain = (Bias("biased", "y", "bias"), Relu("relu", "biased"))
    epilogue = row_epilogue(
        bench.em, "y", chain, {}, {"bias": bias}.get, lambda block, fetch, word: seen.append((block.rows, word))
    )
    product.emit(epilogue)
    close(bench.read(bench.run(scheduled=True), product.target), np.maximum(wanted + values, 0))
    pixels = wanted.size // wanted.shape[3]
    assert sum(rows for rows, word in seen if word == 0) == pixels


PROBLEMS = {
    # rows, reduction, column blocks, pattern: dataflow, rows and column blocks of a tile
    (72, 64, 16, None): (Dataflow.OUTPUT_STATIONARY, 8, 16),
    (72, 1024, 16, Pattern(2, 8)): (Dataflow.OUTPUT_STATIONARY, 16, 8),
    (9, 64, 4, None): (Dataflow.WEIGHT_STATIONARY, 9, 4),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_choices(case):
    rows, depth, blocks, pattern = case
    arch = arch8()
    problem = RowProblem.of(arch, WeightImage("w", 0, depth, blocks, pattern, 0), rows, Rings(arch))
    chosen, runner_up = choose(row_choices(arch, problem))
    assert (chosen.dataflow, chosen.rows, chosen.cols) == PROBLEMS[case]
    assert runner_up.dataflow != chosen.dataflow


def test_weights_stay_only_if_the_ring_has_room_for_them(seed):
    """Weights of 3/7 of the scratchpad stay in the whole of it, but not in the three quarters beside gradients."""
    arch, buffers = arch8(), []
    for divided in (False, True):
        bench, rings = Bench(arch), Rings(arch)
        if divided:
            rings.divide()
        source, target = bench.feature("x", None, (32, 1, 1, 56)), bench.feature("y", None, (32, 1, 1, 256))
        product = RowProduct(bench.em, rings, source, target, bench.memory.image("w", 56, 32, None))
        choice, _ = choose(product.choices())
        assert rings.weights(bench.em, product.image, choice.cols).complete == (choice.buffers == "all weights stay")
        buffers.append(choice.buffers)
    assert buffers[0] == "all weights stay" != buffers[1]


def test_rings_limit_the_row_blocks():
    assert [row_blocks(TINY.array, group) for group in (1, 4, 8, 16)] == [4, 4, 4, 2]


def test_weights_that_do_not_fit_are_refused():
    bench = Bench(arch8())
    place = bench.feature("x", None, (8, 1, 1, 8))
    with pytest.raises(UserError, match=r"^w has 4097 weight words a column block, scratchpads.wgt_depth is 4096$"):
        RowProduct(bench.em, Rings(arch8()), place, place, WeightImage("w", 0, 4097, 1, None, 0)).choices()


def test_rows_that_do_not_fit_are_refused():
    bench = Bench(SMALL)
    source, target = bench.feature("x", None, (8, 1, 1, 140)), bench.feature("y", None, (8, 1, 1, 8))
    with pytest.raises(UserError, match=r"^rows of x take 18 activation words a bank, scratchpads.act_depth is 16$"):
        RowProduct(bench.em, Rings(SMALL), source, target, bench.memory.image("w", 64, 1, None)).choices()

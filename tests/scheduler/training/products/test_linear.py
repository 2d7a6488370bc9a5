"""Products of rows with a parameter on the golden machine against NumPy in float64."""

import dataclasses
from math import ceil

import numpy as np
import pytest

from hwgen.arch import INSTRUCTION_BYTES, UserError
from hwgen.arch.isa import Dataflow, Opcode, Target
from models.formats import encode
from models.matmul import matmul
from models.packing import dense_columns, packed_columns
from models.pattern import Pattern
from models.sparsity import nm_mask
from scheduler.array_cost import row_blocks
from scheduler.hazards import Region
from scheduler.training.graph.operators import Bias, Relu
from scheduler.training.kernels.rows import Rows, row_epilogue
from scheduler.training.products.decisions import FLOWS, choose
from scheduler.training.products.linear import RowProduct
from scheduler.training.products.resident import Rings, WeightImage
from scheduler.training.products.row_choices import RowProblem, row_choices
from sim.check import check_run, run_golden
from sim.cycles import run_model
from sim.runner import build
from tests.scheduler.training.machine_support import TINY, Bench, arch8, operands


def small(wgt_depth):
    """8 x 8 with small scratchpads."""
    return dataclasses.replace(
        arch8(), scratchpads=dataclasses.replace(arch8().scratchpads, act_depth=16, wgt_depth=wgt_depth)
    )


SMALL, PASSING = small(64), small(256)
DEEP = {
    # of few rows, weights pass by in parts of the reduction; of more, if a column block does not fit
    "a token": (PASSING, (1, 1, 1, 128), 100),
    "tokens, N:M": (PASSING, (5, 1, 1, 128), 128, Pattern(2, 8)),
    "a last part that is shorter": (PASSING, (8, 1, 1, 104), 50, Pattern(1, 4)),
    "deeper than the scratchpad": (SMALL, (20, 1, 1, 120), 20),
    "a token on tiny": (TINY, (1, 1, 1, 320), 16),
    "tokens on tiny, N:M": (TINY, (3, 1, 1, 320), 60, Pattern(2, 8)),
}
CASES = {
    # name: arch, shape of the input, output channels, pattern of the weights if any
    "whole blocks": (TINY, (8, 1, 2, 8), 12),
    "some rows": (TINY, (7, 1, 1, 10), 5),
    "fewer rows than the array has": (TINY, (3, 1, 1, 4), 4),
    "tokens": (arch8(), (3, 1, 13, 24), 40),
    "narrow": (arch8(), (30, 1, 3, 17), 8),
    "weights are loaded again": (SMALL, (5, 1, 7, 24), 72),
}


def values(name, seed):
    """Rows [N, H, W, K] and weights [K, channels], pruned if they have a pattern."""
    _, shape, channels, *patterns = (CASES | DEEP)[name]
    rng = np.random.default_rng(seed)
    x, w = operands(rng, *shape), operands(rng, shape[3], channels)
    for pattern in patterns:
        w *= nm_mask(w, pattern.n, pattern.m, axis=0)
    return x, w


def setup(name, seed):
    arch, shape, channels, *patterns = (CASES | DEEP)[name]
    pattern, bench, (x, w) = patterns[0] if patterns else None, Bench(arch), values(name, seed)
    source, target = bench.feature("x", x), bench.feature("y", None, (*shape[:3], channels))
    cols = arch.array.cols
    filled = np.zeros((source.words * cols, target.words * cols), np.float32)
    filled[: shape[3], :channels] = w
    image = bench.memory.image("w", source.words * cols, target.words, pattern)
    bits = encode(filled, "fp16")
    packed = packed_columns(bits, arch, pattern.n, pattern.m) if pattern else dense_columns(bits, arch)
    bench.contents.append((image.address, packed))
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


def tiles(bench):
    """How many TENSOR instructions each tile has; all but the last must keep the sums in the array."""
    found = [0]
    for item in tensors(bench):
        assert item.first == (found[-1] == 0)
        found[-1] += 1
        if item.last:
            found.append(0)
    assert found.pop() == 0
    return set(found)


@pytest.mark.parametrize("name", DEEP)
def test_parts_of_the_reduction_are_the_golden_product(name, seed):
    """However wide and deep they are: bit for bit what the defined order of sums gives."""
    x, w = values(name, seed)
    sums = matmul(encode(x.reshape(-1, x.shape[3]), "fp16"), encode(w, "fp16"), "fp16").view(np.float32)
    wanted = sums.astype(np.float16).reshape(*x.shape[:3], -1)
    _, product, _ = setup(name, seed)
    passing, depth = [item for item in product.choices() if item.weights_pass], product.problem.depth
    assert min(item.depth for item in passing) < depth
    for choice in passing:
        bench, product, _ = setup(name, seed)
        product.emit(choice=choice)
        assert tiles(bench) == {ceil(depth / choice.depth)}
        np.testing.assert_array_equal(bench.read(bench.run(scheduled=True), product.target), wanted)


@pytest.mark.verilator
@pytest.mark.parametrize("name", ["a token on tiny", "tokens on tiny, N:M"])
def test_parts_of_the_reduction_on_rtl(name, seed):
    """All of memory is golden's, and cycles are the model's."""
    bench, product, _ = setup(name, seed)
    choice, _ = choose(product.choices(), "os")
    product.emit(choice=choice)
    assert min(tiles(bench)) > 1
    code, image = bench.code(scheduled=True), bench.image()
    address = ceil(image.size / 4096) * 4096
    image = np.concatenate([image, np.zeros(address - image.size, np.uint8), np.frombuffer(code, np.uint8)])
    run = build(bench.arch).run(image, program=address, count=len(code) // INSTRUCTION_BYTES)
    comparison = check_run(run, run_golden(bench.arch, image, 0, code), 0)
    assert comparison.equal, comparison.first
    assert run.counters == run_model(bench.arch, code, address=address).counters


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
    (1, 1024, 16, None): (Dataflow.OUTPUT_STATIONARY, 1, 16),
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
    bench, pattern = Bench(SMALL), Pattern(3, 16)  # whole blocks of them have 12 words, more than a part may have
    place = bench.feature("x", None, (8, 1, 1, 8))
    with pytest.raises(UserError, match=r"^w has 72 weight words a column block, scratchpads.wgt_depth is 64$"):
        RowProduct(bench.em, Rings(SMALL), place, place, WeightImage("w", 0, 384, 1, pattern, 0)).choices()


def test_rows_that_do_not_fit_are_refused():
    bench = Bench(SMALL)
    source, target = bench.feature("x", None, (8, 1, 1, 140)), bench.feature("y", None, (8, 1, 1, 8))
    with pytest.raises(UserError, match=r"^rows of x take 18 activation words a bank, scratchpads.act_depth is 16$"):
        RowProduct(bench.em, Rings(SMALL), source, target, bench.memory.image("w", 64, 1, None)).choices()

"""Estimates by which products are cut, against the cycle model; decisions against the instructions of the program."""

from bisect import bisect_right
from itertools import pairwise

import numpy as np
import pytest

from hwgen.arch import load
from hwgen.arch.commands import encode
from hwgen.arch.isa import Dataflow, Opcode
from models.pattern import Pattern
from scheduler.array_cost import output_stationary, weight_stationary
from scheduler.cost import TENSOR_START
from scheduler.training.lower import TrainingOptions
from scheduler.training.memory import packed_span
from scheduler.training.products.decisions import choose, table
from scheduler.training.products.linear import RowProduct
from scheduler.training.products.resident import Rings
from sim.cycles import run_model
from sim.training.digits_job import DigitsJob
from tests.scheduler.training.machine_support import Bench


def counted(bench):
    """Counters of the recorded instructions, one after the other in each engine, by the cycle model."""
    commands = bench.em.recorder.finish((1 << bench.arch.control.token_bits) - 1)
    return run_model(bench.arch, b"".join(encode(item) for item in commands)).counters


def row_product(arch, pattern, rows, depth, blocks):
    """A product of rows with a parameter of so many column blocks."""
    bench = Bench(arch)
    source = bench.feature("x", None, (rows, 1, 1, depth))
    target = bench.feature("y", None, (rows, 1, 1, blocks * arch.array.cols))
    image = bench.memory.image("w", depth, blocks, pattern)
    return bench, RowProduct(bench.em, Rings(arch), source, target, image)


def random_product(arch, pattern, rng):
    """The same at random."""
    span = max(arch.array.cols, packed_span(pattern) if pattern else 1)
    rows, depth = int(rng.integers(arch.array.rows // 2, 8 * arch.array.rows)), span * int(rng.integers(1, 256 // span))
    return row_product(arch, pattern, rows, depth, int(rng.integers(1, 9)))


@pytest.mark.parametrize("dataflow", ["os", "ws"])
@pytest.mark.parametrize("pattern", [None, Pattern(2, 8), Pattern(1, 4)])
@pytest.mark.parametrize("name", ["tiny", "sat8", "sat32"])
def test_estimates_are_those_of_the_cycle_model(name, pattern, dataflow, seed):
    arch, rng = load(name), np.random.default_rng(seed)
    for _ in range(4):
        bench, product = random_product(arch, pattern, rng)
        check_estimates(bench, product, choose(product.choices(), dataflow)[0])


def check_estimates(bench, product, choice):
    """Emit a product; the engines take as long as the choice says."""
    product.emit(choice=choice)
    found, array, words = counted(bench), bench.arch.array, product.problem.group_words
    # The array fills once and drains once.
    hop = words * max(choice.cols, array.chain_latency) + 1
    once = choice.rows * choice.cols + array.rows * hop + array.cols + 32
    assert choice.tensor - 32 <= found["BUSY_TENSOR"] <= 1.05 * choice.tensor + once
    assert 0.95 * choice.load - 64 <= found["BUSY_LOAD"] <= 1.12 * choice.load + 64


@pytest.mark.parametrize("pattern", [None, Pattern(2, 8)])
@pytest.mark.parametrize(("name", "depth", "blocks"), [("tiny", 512, 9), ("sat8", 1024, 20), ("vcu1525", 3072, 24)])
def test_estimates_of_weights_that_pass_by(name, depth, blocks, pattern, seed):
    arch = load(name)
    rows = int(np.random.default_rng(seed).integers(1, arch.array.rows))
    bench, product = row_product(arch, pattern, rows, depth, blocks)
    choice, _ = choose(product.choices(), "os")
    assert choice.weights_pass
    assert choice.depth < depth
    check_estimates(bench, product, choice)


@pytest.mark.parametrize("pattern", [None, Pattern(2, 8)])
def test_a_token_takes_a_cycle_for_each_beat_of_its_weights(pattern):
    """The second feed-forward layer of GPT-2-small: loads never wait, the array is done soon after the last one."""
    bench, product = row_product(load("vcu1525"), pattern, 1, 3072, 24)
    product.emit()
    beats = product.image.blocks * product.image.beats
    assert beats < run_model(bench.arch, bench.code(scheduled=True)).cycles < 1.05 * beats + product.problem.depth


def job(model, arch, **options):
    chosen = TrainingOptions(dataflow=options.pop("dataflow", "auto"))
    return DigitsJob(model=model, arch=load(arch), pattern=Pattern.parse("2:4"), epochs=1, options=chosen, **options)


def products(places):
    """Decisions, one by one or of two products in turns, with the TENSOR instructions that follow them."""
    commands, heads = places.em.recorder.commands, [position for position, _ in places.headings]
    found = {}
    for item in places.decisions:
        number = bisect_right(heads, item.first) - 1
        paired = ", " in places.headings[number][1]
        found.setdefault(heads[number] if paired else item.first, []).append(item)
    for first, end in pairwise([*sorted(found), len(commands)]):
        stop = min([position for position in heads if position > first] + [end])
        yield found[first], [other for other in commands[first:stop] if other.opcode == Opcode.TENSOR]


def estimate(array, item):
    """Cycles of one TENSOR instruction in closed form."""
    words = item.n if item.sparse else 1
    shape = {"group": item.m if item.sparse else 1, "words": words, "rows": item.rows, "cols": item.tile_cols}
    if item.dataflow == Dataflow.OUTPUT_STATIONARY:
        return TENSOR_START + output_stationary(array, groups=item.groups, **shape)
    return weight_stationary(array, continued=True, **shape)


@pytest.mark.parametrize("dataflow", ["auto", "ws"])
@pytest.mark.parametrize(("model", "arch", "batch"), [("digits_mlp", "tiny", 6), ("digits_cnn", "sat8", 16)])
def test_the_program_does_what_was_decided(model, arch, batch, dataflow):
    program = job(model, arch, batch=batch, dataflow=dataflow).program()
    stages = set()
    for items, found in products(program.places):
        stages |= {item.stage for item in items}
        chosen = [item.chosen for item in items]
        assert {other.dataflow for other in found} == {choice.dataflow for choice in chosen}, items
        assert max(other.tile_cols for other in found) == max(choice.cols for choice in chosen), items
        assert max(other.rows for other in found) == max(choice.rows for choice in chosen), items
        if items[0].stage != "WU":
            cycles = sum(estimate(program.arch.array, other) for other in found)
            assert cycles == sum(choice.tensor for choice in chosen), items
    assert stages == {"FF", "BP", "WU"}


def test_the_runner_up_is_what_the_other_dataflow_would_do():
    free, forced = (job("digits_mlp", "tiny", dataflow=flow).program().places.decisions for flow in ("auto", "ws"))
    for item, other in zip(free, forced, strict=True):
        assert (item.kernel, item.stage) == (other.kernel, other.stage)
        if item.runner_up is not None and item.runner_up.dataflow == Dataflow.WEIGHT_STATIONARY:
            assert item.runner_up == other.chosen


def test_rows_that_do_not_fill_the_array_are_weight_stationary():
    """Eleven images on eight array rows: output stationary computes for sixteen."""
    decisions = job("digits_mlp", "sat8", batch=11).program().places.decisions
    flows = {item.kernel: item.chosen.dataflow for item in decisions if item.stage == "FF"}
    assert Dataflow.WEIGHT_STATIONARY in flows.values()
    assert "weight stationary" in table(decisions)

"""Estimates by which products are cut, against the cycle model; decisions against the instructions of the program."""

import numpy as np
import pytest

from hwgen.arch import load
from hwgen.arch.isa import encode
from models.pattern import Pattern
from scheduler.training.decisions import choose
from scheduler.training.linear import RowProduct
from scheduler.training.memory import packed_span
from scheduler.training.windows import Rings
from sim.cycles import run_model
from tests.scheduler.training.machine_support import Bench


def counted(bench):
    """Counters of the recorded instructions, one after the other in each engine, by the cycle model."""
    commands = bench.em.recorder.finish((1 << bench.arch.control.token_bits) - 1)
    return run_model(bench.arch, b"".join(encode(item) for item in commands)).counters


def row_product(arch, pattern, rng):
    """A random product of rows with a parameter: what makes it anew."""
    span = max(arch.array.cols, packed_span(pattern) if pattern else 1)
    rows, depth = int(rng.integers(arch.array.rows // 2, 8 * arch.array.rows)), span * int(rng.integers(1, 256 // span))
    blocks = int(rng.integers(1, 9))

    def make():
        bench = Bench(arch)
        source = bench.feature("x", None, (rows, 1, 1, depth))
        target = bench.feature("y", None, (rows, 1, 1, blocks * arch.array.cols))
        image = bench.memory.image("w", depth, blocks, pattern)
        return bench, RowProduct(bench.em, Rings(arch), source, target, image)

    return make


@pytest.mark.parametrize("dataflow", ["os", "ws"])
@pytest.mark.parametrize("pattern", [None, Pattern(2, 8), Pattern(1, 4)])
@pytest.mark.parametrize("name", ["tiny", "sat8", "sat32"])
def test_estimates_are_those_of_the_cycle_model(name, pattern, dataflow, seed):
    arch, rng = load(name), np.random.default_rng(seed)
    for _ in range(4):
        bench, product = row_product(arch, pattern, rng)()
        choice, _ = choose(product.choices(), dataflow)
        product.emit(choice=choice)
        found = counted(bench)
        # The array fills once and drains once.
        array, words = arch.array, product.problem.group_words
        hop = words * max(choice.cols, array.chain_latency) + 1
        once = choice.rows * choice.cols + array.rows * hop + array.cols + 32
        assert choice.tensor - 32 <= found["BUSY_TENSOR"] <= 1.05 * choice.tensor + once
        assert 0.95 * choice.load - 64 <= found["BUSY_LOAD"] <= 1.12 * choice.load + 64

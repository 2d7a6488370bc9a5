"""Products of rows with a parameter on the golden machine against NumPy in float64."""

import dataclasses

import numpy as np
import pytest

from hwgen.arch import UserError
from models.formats import encode
from models.packing import dense_columns
from models.pattern import Pattern
from scheduler.training.linear import RowProduct, most_row_blocks, row_shape
from scheduler.training.operators import Bias, Relu
from scheduler.training.rows import row_epilogue
from scheduler.training.windows import Rings, WeightImage
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
    return bench, RowProduct(bench.em, Rings(arch), source, target), image, x.astype(np.float64) @ w


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=6e-4, atol=1e-5)


@pytest.mark.parametrize("interleave", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_products(name, interleave, seed):
    bench, product, image, wanted = setup(name, seed)
    product.emit(image, interleave=interleave)
    close(bench.read(bench.run(scheduled=True), product.target), wanted)


@pytest.mark.parametrize("name", ["some rows", "tokens"])
def test_chain_and_sums_see_rows_and_nothing_else(name, seed):
    bench, product, image, wanted = setup(name, seed)
    values = np.random.default_rng(seed).standard_normal(wanted.shape[3]).astype(np.float32)
    bias, seen = bench.kept_row("bias", values), []
    chain = (Bias("biased", "y", "bias"), Relu("relu", "biased"))
    epilogue = row_epilogue(
        bench.em, "y", chain, {}, {"bias": bias}.get, lambda block, fetch, word: seen.append((block.rows, word))
    )
    product.emit(image, epilogue)
    close(bench.read(bench.run(scheduled=True), product.target), np.maximum(wanted + values, 0))
    pixels = wanted.size // wanted.shape[3]
    assert sum(rows for rows, word in seen if word == 0) == pixels


SHAPES = {
    # reduction, column blocks, pattern, row blocks: row blocks and column blocks of a tile
    (64, 16, None, 9): (1, 16),
    (64, 4, None, 9): (4, 4),
    (64, 4, None, 2): (2, 4),
    (1024, 16, None, 9): (4, 2),
    (1024, 16, Pattern(2, 8), 9): (2, 8),
    (64, 1, Pattern(2, 16), 99): (2, 1),
}


@pytest.mark.parametrize("case", SHAPES)
def test_shapes(case):
    depth, blocks, pattern, rows = case
    shape = row_shape(arch8(), WeightImage("w", 0, depth, blocks, pattern, 0), rows)
    assert (shape.tile_rows, shape.tile_cols) == SHAPES[case]


def test_rings_limit_the_row_blocks():
    assert [most_row_blocks(TINY, group) for group in (1, 4, 8, 16)] == [4, 4, 4, 2]


def test_weights_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"^w has 4097 weight words a column block, scratchpads.wgt_depth is 4096$"):
        row_shape(arch8(), WeightImage("w", 0, 4097, 1, None, 0), 1)


def test_rows_that_do_not_fit_are_refused():
    bench = Bench(SMALL)
    source, target = bench.feature("x", None, (8, 1, 1, 140)), bench.feature("y", None, (8, 1, 1, 8))
    with pytest.raises(UserError, match=r"^rows of x take 18 activation words a bank, scratchpads.act_depth is 16$"):
        RowProduct(bench.em, Rings(SMALL), source, target).emit(bench.memory.image("w", 64, 1, None))

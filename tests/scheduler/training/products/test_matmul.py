"""Products of activations on the golden machine against NumPy in float64."""

import itertools

import numpy as np
import pytest

from hwgen.arch import UserError
from hwgen.arch.isa import Dataflow, Opcode
from scheduler.training.graph.operators import Add, MatMul, Scale
from scheduler.training.kernels.rows import row_epilogue
from scheduler.training.products.decisions import choose
from scheduler.training.products.matmul import head_product
from scheduler.training.products.resident import Rings
from tests.scheduler.training.machine_support import TINY, Bench, arch8, operands

CASES = {
    # name: arch, images, heads, rows, reduction, columns, which of left, right and output are merged
    "one head": (TINY, 2, 1, 5, 8, 7, ()),
    "scores": (TINY, 2, 2, 5, 8, 6, ("left", "right")),
    "values": (TINY, 2, 2, 6, 5, 8, ("right", "output")),
    "all merged": (arch8(), 3, 2, 8, 16, 8, ("left", "right", "output")),
    "many tiles": (arch8(), 1, 2, 75, 10, 43, ()),
    "odd rows": (arch8(), 1, 1, 17, 32, 64, ()),
    "single values": (TINY, 1, 3, 1, 1, 1, ()),
}


class Case:
    """One product with its operands in memory; sides are `[images, heads, rows, columns]` in `values`."""

    def __init__(self, name, transposes, seed):
        self.arch, n, heads, rows, depth, columns, merged = CASES[name]
        rng = np.random.default_rng(seed)
        self.bench = Bench(self.arch)
        self.item = MatMul("output", "left", "right", heads, *transposes)
        sizes = {"left": (rows, depth), "right": (depth, columns), "output": (rows, columns)}
        turned = {"left": transposes[0], "right": transposes[1], "output": False}
        self.values, self.features, self.shapes = {}, {}, {}
        for side, size in sizes.items():
            values = operands(rng, n, heads, *(size[::-1] if turned[side] else size))
            stored = values
            if side in merged:
                stored = values.transpose(0, 2, 1, 3).reshape(n, 1, values.shape[2], -1)
            self.values[side] = values.swapaxes(2, 3) if turned[side] else values
            self.shapes[side] = stored.shape
            self.features[side] = self.bench.feature(side, None if side == "output" else stored, stored.shape)
        self.merged = "output" in merged

    def product(self):
        bench = self.bench
        return head_product(bench.em, Rings(self.arch), bench.memory, self.item, self.features, self.shapes)

    def result(self, **options):
        """The output after a run, as in `values`."""
        found = self.bench.read(self.bench.run(**options), self.features["output"])
        n, heads, rows, columns = self.values["output"].shape
        return found.reshape(n, rows, heads, columns).swapaxes(1, 2) if self.merged else found

    def wanted(self):
        return self.values["left"].astype(np.float64) @ self.values["right"]

    def fits(self):
        """Whether merged heads are whole words."""
        heads, cols = self.item.heads, self.arch.array.cols
        return all(size[1] == heads or size[3] // heads % cols == 0 for size in self.shapes.values())


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=6e-4, atol=3e-6 * max(1, np.abs(wanted).max()))


@pytest.mark.parametrize("transposes", list(itertools.product((False, True), repeat=2)))
@pytest.mark.parametrize("name", CASES)
def test_products_with_all_transposes(name, transposes, seed):
    case = Case(name, transposes, seed)
    if not case.fits():
        with pytest.raises(UserError, match=r"^output: 2 heads in \d+ channels have \d+ each, which must be"):
            case.product()
        return
    case.product().emit()
    close(case.result(scheduled=True), case.wanted())


@pytest.mark.parametrize(
    ("name", "transpose_right"),
    [("scores", True), ("values", False), *itertools.product(("all merged", "many tiles", "odd rows"), (False, True))],
)
def test_results_are_the_same_bits_however_they_are_cut(name, transpose_right, seed):
    found, choices = [], Case(name, (False, transpose_right), seed).product().choices()
    least = min(choices, key=lambda item: item.rows * item.cols)
    for choice in (least, choose(choices, "os")[0], choose(choices, "ws")[0]):
        case = Case(name, (False, transpose_right), seed)
        case.product().emit(choice=choice)
        tensors = [item for item in case.bench.em.recorder.commands if item.opcode == Opcode.TENSOR]
        assert {item.dataflow for item in tensors} == {choice.dataflow}
        assert max(item.tile_cols for item in tensors) == choice.cols
        found.append(case.result(scheduled=True))
    assert choose(choices, "ws")[0].dataflow == Dataflow.WEIGHT_STATIONARY
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_rows_that_do_not_fill_blocks_are_cheaper_weight_stationary():
    choices = Case("odd rows", (False, False), 1).product().choices()
    chosen, runner_up = choose(choices)
    assert (chosen.dataflow, runner_up.dataflow) == (Dataflow.WEIGHT_STATIONARY, Dataflow.OUTPUT_STATIONARY)
    assert runner_up.cycles > 1.2 * chosen.cycles


def test_a_chain_on_the_result(seed):
    case = Case("values", (False, False), seed)
    other = operands(np.random.default_rng(seed + 1), *case.shapes["output"])
    features = {"other": case.bench.feature("other", other)}
    chain = (Scale("scaled", "output", 0.25), Add("sum", "other", "scaled"))
    epilogue = row_epilogue(case.bench.em, "output", chain, features, {}.get, lambda block, fetch, word: None)
    case.product().emit(epilogue)
    n, heads, rows, columns = case.values["output"].shape
    wanted = case.wanted() / 4 + other.reshape(n, rows, heads, columns).swapaxes(1, 2)
    close(case.result(), wanted)


@pytest.mark.parametrize(("sizes", "what"), [((40, 160), "act_depth is 256"), ((4, 900), "wgt_depth is 2048")])
def test_matrices_that_do_not_fit_are_refused(sizes, what):
    bench, (rows, depth) = Bench(TINY), sizes
    shapes = {"left": (1, 1, rows, depth), "right": (1, 1, depth, 12), "output": (1, 1, rows, 12)}
    features = {name: bench.feature(name, None, shape) for name, shape in shapes.items()}
    item = MatMul("output", "left", "right", 1, False, False)
    product = head_product(bench.em, Rings(TINY), bench.memory, item, features, shapes)
    with pytest.raises(UserError, match=rf"^output: matrices of (left|right) take \d+ .*{what}$"):
        product.emit()

"""Operators that move values, on the golden machine, against NumPy."""

from dataclasses import replace

import numpy as np
import pytest

from hwgen.arch import UserError
from scheduler.training.graph.ir import Kind, Tensor, TrainingGraph
from scheduler.training.graph.moves import Broadcast, Concat, Pad, Permute, Reshape, Slice
from scheduler.training.graph.reference import RULES
from scheduler.training.kernels.copies import Copy, part, permuted, repeated
from scheduler.training.kernels.token_stages import emit_move
from scheduler.training.lower import Step, TrainingOptions
from scheduler.training.places import place_features
from scheduler.training.products.resident import Rings
from scheduler.training.schedule.fuse import Group
from tests.scheduler.training.machine_support import TINY, Bench, arch8, operands

CASES = {
    # name: arch, operator, shapes of its operands, shape of its result
    "token 0": (TINY, Slice("y", "a", 2, 0), [(3, 1, 5, 10)], (3, 1, 1, 10)),
    "tokens 1 ..": (TINY, Slice("y", "a", 2, 1), [(3, 1, 5, 10)], (3, 1, 4, 10)),
    "images": (TINY, Slice("y", "a", 0, 1), [(5, 2, 2, 4)], (3, 2, 2, 4)),
    "image rows": (TINY, Slice("y", "a", 1, 2), [(5, 6, 2, 4)], (5, 3, 2, 4)),
    "channels": (TINY, Slice("y", "a", 3, 8), [(2, 1, 3, 24)], (2, 1, 3, 12)),
    "last channels": (arch8(), Slice("y", "a", 3, 16), [(2, 1, 3, 27)], (2, 1, 3, 11)),
    "pad tokens": (TINY, Pad("y", "a", 2, 1), [(3, 1, 4, 10)], (3, 1, 7, 10)),
    "pad channels": (TINY, Pad("y", "a", 3, 4), [(3, 1, 4, 8)], (3, 1, 4, 21)),
    "class token": (TINY, Concat("y", ("a", "b"), 2), [(3, 1, 1, 8), (3, 1, 4, 8)], (3, 1, 5, 8)),
    "concat images": (TINY, Concat("y", ("a", "b", "a"), 0), [(3, 2, 1, 7), (5, 2, 1, 7)], (11, 2, 1, 7)),
    "concat channels": (TINY, Concat("y", ("a", "b"), 3), [(3, 2, 2, 8), (3, 2, 2, 6)], (3, 2, 2, 14)),
    "repeat": (TINY, Broadcast("y", "a"), [(1, 1, 1, 10)], (6, 1, 3, 10)),
    "repeat rows": (TINY, Broadcast("y", "a"), [(3, 1, 5, 10)], (3, 4, 5, 10)),
    "heads": (TINY, Permute("y", "a", (2, 5, 3, 4), (0, 2, 1, 3)), [(2, 1, 5, 12)], (2, 3, 5, 4)),
    "pixels": (TINY, Permute("y", "a", (2, 3, 5, 6), (2, 0, 1, 3)), [(2, 3, 5, 6)], (5, 2, 3, 6)),
    "matrices": (TINY, Permute("y", "a", (2, 5, 8), (0, 2, 1)), [(2, 1, 5, 8)], (2, 1, 8, 5)),
    "rows outside": (arch8(), Permute("y", "a", (2, 5, 16), (1, 2, 0)), [(2, 5, 1, 16)], (5, 1, 16, 2)),
    "same words": (TINY, Reshape("y", "a"), [(2, 2, 3, 8)], (2, 1, 4, 12)),
    "same channels": (TINY, Reshape("y", "a"), [(2, 2, 3, 5)], (1, 4, 3, 5)),
    "large": (arch8(), Slice("y", "a", 2, 3), [(2, 1, 99, 100)], (2, 1, 90, 100)),
}


def graph_of(item, shapes):
    """Just what moves need to know."""
    tensors = {name: Tensor(name, shape, Kind.ACTIVATION) for name, shape in shapes.items()}
    return TrainingGraph(tensors, (item,), {}, {}, {}, {}, {})


class Mover:
    """One operator, its operands in memory."""

    def __init__(self, arch, item, shapes, seed, parameters=()):
        rng = np.random.default_rng(seed)
        names = dict.fromkeys(item.names("source"))
        self.shapes = dict(zip(names, shapes[:-1], strict=True)) | {"y": shapes[-1]}
        self.bench, self.item = Bench(arch), item
        graph = graph_of(item, self.shapes)
        self.step = Step(graph, arch, TrainingOptions(), self.bench.memory, self.bench.em, Rings(arch))
        placed = [name for name in self.shapes if name not in parameters]
        self.step.features = place_features(graph, arch, self.bench.memory, placed)
        self.values = {name: operands(rng, *self.shapes[name]) for name in names}
        for name in names:
            self._write(name, parameters)

    def _write(self, name, parameters):
        bench, values = self.bench, self.values[name]
        if name in parameters:
            self.step.rows[name] = row = bench.memory.row(name, values.shape[3], "row")
            filled = np.pad(values.reshape(-1), (0, row.words * bench.arch.array.cols - values.shape[3]))
            bench.contents.append((row.address, filled.astype(np.float32).tobytes()))
        else:
            copy = bench.feature(name, values)
            address = self.step.features[name].address
            bench.contents[-1] = (address, bench.contents[-1][1])
            assert copy.words == self.step.features[name].words

    def wanted(self):
        run = Run(self.values, self.shapes)
        return RULES[type(self.item)](self.item, run)["y"]

    def result(self):
        emit_move(self.step, Group(self.item))
        pixels = replace(self.step.features["y"], n=np.prod(self.shapes["y"][:3]), h=1, w=1)
        found = self.bench.read(self.bench.run(scheduled=True), pixels)
        return found.reshape(self.shapes["y"])


class Run(dict):
    """What the rules of the reference interpreter read."""

    def __init__(self, values, shapes):
        super().__init__(values)
        self.shape = shapes.__getitem__


@pytest.mark.parametrize("name", CASES)
def test_moves(name, seed):
    arch, item, operand_shapes, shape = CASES[name]
    mover = Mover(arch, item, [*operand_shapes, shape], seed)
    np.testing.assert_array_equal(mover.result(), mover.wanted())


@pytest.mark.parametrize("item", [Broadcast("y", "a"), Reshape("y", "a")])
def test_a_parameter_becomes_operands(item, seed):
    shape = (6, 1, 1, 12) if isinstance(item, Broadcast) else (1, 1, 3, 4)
    mover = Mover(TINY, item, [(1, 1, 1, 12), shape], seed, parameters=("a",))
    np.testing.assert_array_equal(mover.result(), mover.wanted())


def test_reshapes_of_whole_words_take_no_instruction(seed):
    mover = Mover(TINY, Reshape("y", "a"), [(2, 2, 3, 8), (2, 1, 4, 12)], seed)
    emit_move(mover.step, Group(mover.item))
    assert mover.bench.em.recorder.commands == []
    assert mover.step.features["a"].address == mover.step.features["y"].address


REFUSED = {
    # what is moved: the sentence that refuses it
    "slice": (lambda: part("y", (1, 1, 2, 4), (1, 1, 2, 9), 3, 2, 4), "parts of 2 channels"),
    "middle": (lambda: part("y", (1, 1, 2, 3), (1, 1, 2, 9), 3, 4, 4), "parts of 3 channels"),
    "repeat": (lambda: repeated("y", (1, 1, 2, 1), (1, 1, 2, 9), 4), "repeats pixels, images and rows, not channels"),
    "heads": (lambda: permuted("y", ((1, 1, 5, 12), (1, 2, 5, 6)), (5, 2, 6), (1, 0, 2), 4), "parts of 12|parts of 6"),
    "matrix": (lambda: permuted("y", ((2, 1, 5, 6), (2, 1, 6, 5)), (2, 5, 6), (0, 2, 1), 4), "parts of 6 channels"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_parts_of_words_are_refused(name):
    move, sentence = REFUSED[name]
    with pytest.raises(UserError, match=rf"^y: .*({sentence})"):
        move()


def test_reshapes_that_cut_words_are_refused(seed):
    mover = Mover(TINY, Reshape("y", "a"), [(2, 1, 4, 6), (2, 1, 1, 24)], seed)
    with pytest.raises(UserError, match=r"^y: pixels of 6 channels become pixels of 24; both must be multiples of"):
        mover.result()


def test_axes_that_continue_one_another_are_one():
    moves = Copy(((3, 48, 24), (2, 24, 12), (1, 7, 7), (5, 4, 2)), 2)
    assert moves.merged() == Copy(((6, 24, 12), (5, 4, 2)), 2)
    assert Copy(((3, 40, 20), (2, 10, 10), (5, 2, 2)), 2).merged() == Copy(((3, 40, 20),), 20)

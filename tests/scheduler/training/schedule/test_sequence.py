"""The order of kernels: what must come first does, both engines have work, halves of a batch give the same bits."""

import dataclasses
import random

import numpy as np
import pytest
import torch

from models.cnn import DigitsCnn
from models.races import check_races
from models.zoo_train import Vit
from scheduler.training.capture import capture_training
from scheduler.training.compile import compile_step
from scheduler.training.graph.ir import Kind
from scheduler.training.graph.operators import ConvWeightGrad
from scheduler.training.kernels import table as kernels
from scheduler.training.lower import TrainingOptions, begin
from scheduler.training.schedule.fuse import Group, groups, main_result
from scheduler.training.schedule.sequence import Task, kernel_order, narrowed, schedule, tasks
from sim.training.train import GoldenTrainer
from tests.scheduler.training.machine_support import arch8

EIGHT = dataclasses.replace(arch8(), scratchpads=dataclasses.replace(arch8().scratchpads, acc_depth=8192, acc_banks=8))


@pytest.fixture(scope="module")
def graph():
    """8 images of 5 tokens: the second half begins at row 20, within a block of 8 rows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = Vit(side=8, patch=4, width=16, layers=1, hidden=32, heads=2)
        x, y = torch.randn(8, 3, 8, 8), torch.randint(0, 10, (8,))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    return capture_training(module, "cross_entropy", (x,), y, optimizer)


def task(array, vector, *needs, images=None):
    return Task(Group(None), images, array, vector, 0, frozenset(needs))


def test_a_product_that_nobody_waits_for_fills_the_gap():
    first, fill, wait, last = task(10, 0), task(40, 0), task(0, 35, 0), task(10, 0, 2)
    cycles, order = schedule([first, fill, wait, last], 0)
    assert [item.array or item.vector for item in order] == [10, 35, 40, 10]
    assert (cycles, order[0], order[3]) == (60, first, last)


def test_the_second_half_is_behind_the_first():
    chain = [task(10, 0, images=(0, 4)), task(10, 0, images=(4, 4))]
    for number in range(2, 10, 2):
        kind = (10, 0) if number % 4 == 0 else (0, 10)
        chain += [task(*kind, number - 2, images=(0, 4)), task(*kind, number - 1, images=(4, 4))]
    _, order = schedule(chain, 15)
    places = {half: [i for i, item in enumerate(order) if item.images[0] == half] for half in (0, 4)}
    assert all(first < second for first, second in zip(places[0], places[4]))
    assert places[0] != list(range(0, 10, 2)), "the first half runs ahead"


@pytest.mark.parametrize("round_", range(20))
def test_orders_are_complete_and_keep_what_tasks_need(round_, seed):
    rng = random.Random(seed * 100 + round_)
    items = []
    for number in range(30):
        needs = rng.sample(range(number), min(number, rng.randrange(3)))
        images = rng.choice([None, (0, 2), (2, 2)])
        items.append(task(rng.choice([0, rng.randrange(50)]), rng.randrange(50), *needs, images=images))
    cycles, order = schedule(items, rng.randrange(100))
    place = {id(item): number for number, item in enumerate(order)}
    assert len(place) == len(items)
    assert all(place[id(items[before])] < place[id(item)] for item in items for before in item.needs)
    assert cycles >= max(sum(item.array for item in items), sum(item.vector for item in items if not item.array))


def test_a_naive_schedule_keeps_the_order_of_the_graph(graph):
    for options, halves in ((TrainingOptions(), True), (TrainingOptions().naive(), False)):
        step = begin(graph, EIGHT, options)
        found = kernel_order(step, groups(step.graph, apart=step.em.apart))
        assert any(item.images for item in found) == halves
        names = [main_result(item.group.main) for item in found]
        wanted = [main_result(item.main) for item in groups(step.graph, apart=step.em.apart)]
        assert (names == wanted) != halves


def named(found):
    return {(main_result(item.group.main), item.images and item.images[0]): item for item in found}


def test_halves_need_their_own_half_and_everybody_else_both(graph):
    step = begin(graph, EIGHT, TrainingOptions())
    found = tasks(step, groups(graph, apart=True), 2)
    by_name = named(found)

    def needed(name, half=None):
        return {pair for pair, item in by_name.items() if item in [found[n] for n in by_name[name, half].needs]}

    assert needed("layers.0.query.product", 4) == {("layers.0.norm1.normalized", 4)}
    assert needed("layers.0.scores", 0) == {("layers.0.query.product", 0), ("layers.0.key.product", 0)}
    assert {pair[1] for pair in needed("slice")} == {0, 4}
    update = needed("layers.0.up.weight.grad")
    assert {("layers.0.up.product", 0), ("layers.0.up.product", 4), ("layers.0.up.input_grad", None)} <= update


def test_weight_gradients_come_after_the_last_reader_of_the_weight(graph):
    step = begin(graph, EIGHT, TrainingOptions())
    order = kernel_order(step, groups(graph, apart=True))
    for place, item in enumerate(order):
        if isinstance(item.group.main, ConvWeightGrad):
            weight = item.group.main.weight
            later = [other for other in order[place + 1 :] if getattr(other.group.main, "weight", None) == weight]
            assert later == []


def test_without_banks_of_their_own_kernels_stay_in_order(graph):
    step = begin(graph, arch8(), TrainingOptions())
    found = groups(graph)
    assert [item.group for item in kernel_order(step, found)] == found


def test_parts_of_tensors_and_their_hazards(graph):
    step = begin(graph, EIGHT, TrainingOptions())
    part, whole = narrowed(step, 3, 2), step
    one, all_ = part.features["layers.0.query.product"], whole.features["layers.0.query.product"]
    assert (one.n, one.address - all_.address) == (2 * 5, 3 * 5 * 2 * 16)
    region = part.em.pixels(one, 0, 10)
    assert (region.start - all_.unit, region.stop - all_.unit) == (1, 4), "rows 15 .. 24 in blocks of 8"
    assert part.features["x"] == whole.features["x"]
    assert part.graph.tensors["layers.0.scores"].shape == (2, 2, 5, 5)


def test_halves_give_the_same_bits(graph, monkeypatch):
    """Of every tensor and every parameter after a step."""
    memories = []
    for parts in (1, 2):
        monkeypatch.setattr(kernels, "kernel_order", lambda step, found, parts=parts: tasks(step, found, parts))
        program = compile_step(graph, EIGHT, TrainingOptions(loss_scale=64.0))
        assert check_races(program.step.encode(), EIGHT) is None
        memories.append(contents(program))
    counts = [len(memory) for memory in memories]
    assert counts[0] == counts[1] > 50
    for name, values in memories[0].items():
        np.testing.assert_array_equal(values, memories[1][name], err_msg=name)


def contents(program):
    graph, trainer = program.graph, GoldenTrainer(program)
    rng = np.random.default_rng(0)
    batch = {}
    for name in graph.of_kind(Kind.INPUT, Kind.LABEL):
        shape = graph.tensors[name].shape
        labels = np.eye(shape[3], dtype=np.float32)[rng.integers(shape[3], size=shape[:3])]
        batch[name] = labels if name == "target" else rng.standard_normal(shape).astype(np.float32)
    trainer.step(batch, {})
    found = {name: program.read_feature(trainer.memory, name) for name in program.places.features}
    return found | program.read_kept(trainer.memory)


def test_convolutions_stay_in_order():
    module = DigitsCnn(width=8)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    graph = capture_training(module, "cross_entropy", (torch.randn(16, 1, 8, 8),), torch.arange(16) % 10, optimizer)
    step = begin(graph, EIGHT, TrainingOptions())
    found = groups(graph, apart=True)
    assert [item.group for item in kernel_order(step, found)] == found


def test_transformers_run_by_halves(graph):
    step = begin(graph, EIGHT, TrainingOptions())
    assert sum(item.images is not None for item in kernel_order(step, groups(graph, apart=True))) > 20

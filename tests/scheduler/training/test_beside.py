"""Weight gradients beside other products: in parts, in banks and scratchpad words of their own, in any order."""

import dataclasses

import numpy as np
import pytest
import torch

from hwgen.arch.arrays import engines
from hwgen.arch.commands import command
from hwgen.arch.isa import Engine, Opcode, Walk
from models.cnn import DigitsCnn
from models.races import check_races
from models.tokens import check_tokens
from scheduler.hazards import Recorder, Region
from scheduler.training.capture import capture_training
from scheduler.training.compile import compile_step
from scheduler.training.graph.ir import Kind
from scheduler.training.graph.reference import Reference
from scheduler.training.lower import TrainingOptions
from scheduler.training.products import gradients
from scheduler.training.products.resident import Rings
from scheduler.training.schedule.order import Durations, ListScheduler, durations
from sim.training.train import GoldenTrainer
from tests.scheduler.training.machine_support import arch8

SCALE = 64.0
PADS = dataclasses.replace(arch8().scratchpads, acc_depth=8192, acc_banks=8)
EIGHT = dataclasses.replace(arch8(), scratchpads=PADS)


@pytest.fixture(scope="module")
def graph():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        module, x, y = DigitsCnn(), torch.randn(16, 1, 8, 8), torch.randint(0, 10, (16,))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    return capture_training(module, "cross_entropy", (x,), y, optimizer), x, y


def compiled(graph, cycles):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradients, "PART_CYCLES", cycles)
        return compile_step(graph[0], EIGHT, TrainingOptions(loss_scale=SCALE))


@pytest.fixture(scope="module")
def program(graph):
    """Parts of 256 cycles, so that tiles have several."""
    return compiled(graph, 256)


def after_a_step(program, graph):
    graph, *given = graph
    trainer, names = GoldenTrainer(program), graph.of_kind(Kind.INPUT, Kind.LABEL)
    values = [graph.layouts[name].from_torch(part.numpy()).astype(np.float32) for name, part in zip(names, given)]
    trainer.step(dict(zip(names, values, strict=True)), {})
    return program.read_kept(trainer.memory)


def test_parts_add_up_to_the_gradient(graph, program):
    """Weights are within rounding of those from sums in one piece; a step in FP16 is near the one in float64."""
    module, x, y = graph
    reference = Reference(module)
    reference.step(dict(zip(module.of_kind(Kind.INPUT, Kind.LABEL), (x.double().numpy(), y.numpy()), strict=True)))
    found, whole = after_a_step(program, graph), after_a_step(compiled(graph, np.inf), graph)
    changed = 0
    for name, values in found.items():
        wanted = reference.kept[name].reshape(values.shape)
        assert np.linalg.norm(values - wanted) < 0.05 * np.linalg.norm(wanted), name
        np.testing.assert_allclose(values, whole[name], rtol=0, atol=3e-6 * np.abs(whole[name]).max(), err_msg=name)
        changed += not np.array_equal(values, whole[name])
    assert changed > 3, "the order of the additions shows"


def test_tiles_have_several_parts_and_other_products_come_between(program):
    """With a slow vector engine; else the array has no gaps here."""
    recorder = program.places.em.recorder
    spans, slow = durations(recorder.commands, EIGHT), np.where(engines(recorder.commands) == Engine.VECTOR, 16, 1)
    order = ListScheduler(recorder).order(Durations(slow * spans.busy, slow * spans.total)).positions
    recorded, placed = (
        [item for item in commands if item.opcode == Opcode.TENSOR]
        for commands in (recorder.commands, [recorder.commands[position] for position in order])
    )
    parts = sum(item.walk == Walk.WGT and item.last for item in placed)
    tiles = sum(len(weights.tiles(EIGHT)) for weights in program.places.weights.values())
    assert parts > tiles
    before, after = ("".join("g" if item.walk == Walk.WGT else "p" for item in items) for items in (recorded, placed))
    assert after.count("gp") > before.count("gp")


def test_nothing_races(program):
    assert check_races(program.step.encode(), EIGHT) is None
    assert check_tokens(program.step.encode(), EIGHT) is None


def test_divided_scratchpads_do_not_overlap():
    rings = Rings(EIGHT)
    assert rings.gradients is rings
    rings.divide()
    for name, depth in (("act", PADS.act_depth), ("wgt", PADS.wgt_depth)):
        mine, other = getattr(rings, name), getattr(rings.gradients, name)
        taken = [set(range(start, start + 16)) for start in (ring.take(16) for ring in (mine,) * 200)]
        gradient = [set(range(start, start + 16)) for start in (ring.take(16) for ring in (other,) * 200)]
        assert set().union(*taken) == set(range(depth - depth // 4))
        assert set().union(*gradient) == set(range(depth - depth // 4, depth))


def test_the_array_is_fed_first_and_gradients_come_last():
    """Two loads and two products are ready at once: those of the array's next product come first."""
    recorder = Recorder()
    word = iter(range(100))
    for opcode, fields in (
        (Opcode.LOAD, {"target": 5, "beats": 1}),
        (Opcode.LOAD, {"target": 0, "beats": 1}),
        (Opcode.TENSOR, {"first": 1, "last": 1, "walk": Walk.WGT}),
        (Opcode.TENSOR, {"first": 1, "last": 1, "walk": Walk.ACT}),
    ):
        place = next(word)
        recorder.add(command(opcode, **fields), writes=[Region("acc", place, place + 1)])
    order = ListScheduler(recorder).order(durations(recorder.commands, EIGHT)).positions
    assert order.index(1) < order.index(0)
    assert order.index(3) < order.index(2)


def test_load_helps_fill_when_it_has_nothing_to_load_for_the_array():
    """Three accumulator loads and one of operands are ready at once: LOAD begins with its own."""
    recorder = Recorder()
    for place, (opcode, target) in enumerate([(Opcode.FILL, 5), (Opcode.FILL, 5), (Opcode.FILL, 5), (Opcode.LOAD, 0)]):
        item = command(opcode, target=target, beats=100)
        recorder.add(item, writes=[Region("acc", 100 * place, 100 * (place + 1))])
    order = ListScheduler(recorder).order(durations(recorder.commands, EIGHT))
    assert sorted(order.positions) == [0, 1, 2, 3]
    assert order.engines == [Engine.FILL, Engine.FILL, Engine.LOAD, Engine.LOAD]
    assert order.positions.index(3) < order.positions.index(2)


def test_preferred_instructions_come_first():
    recorder = Recorder()
    for place in range(3):
        recorder.prefer = place == 2
        recorder.add(command(Opcode.VECTOR), writes=[Region("acc", place, place + 1)])
    order = ListScheduler(recorder).order(durations(recorder.commands, EIGHT))
    assert order.positions == [2, 0, 1]

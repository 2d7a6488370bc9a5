"""A sum of two batch normalisations is one kernel; with two memory ports LOAD and FILL share accumulator words."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from hwgen.arch.isa import ACC_TARGETS, Opcode
from models.races import check_races
from models.tokens import check_tokens
from scheduler.training.capture import capture_training
from scheduler.training.compile import compile_step
from scheduler.training.graph.ir import Kind
from scheduler.training.graph.operators import BatchNorm
from scheduler.training.graph.reference import Reference
from scheduler.training.lower import TrainingOptions
from scheduler.training.schedule.fuse import groups
from sim.training.train import GoldenTrainer
from tests.scheduler.training.test_beside import EIGHT

TWO_PORTS = replace(EIGHT, memory=replace(EIGHT.memory, ports=2))


class Shortcut(nn.Module):
    """A block with a normalised shortcut, and one whose shortcut is read again, so that its sum is made of memory."""

    def __init__(self):
        super().__init__()
        self.first, self.body, self.side = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3, 2, 1, bias=False),
            nn.Conv2d(8, 8, 1, 2, bias=False),
        )
        self.body_norm, self.side_norm = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.last, self.last_norm, self.other_norm = (
            nn.Conv2d(8, 8, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.BatchNorm2d(8),
        )
        self.head = nn.Linear(8 * 9, 10)

    def forward(self, x):
        x = torch.relu(self.first(x))
        x = torch.relu(self.body_norm(self.body(x)) + self.side_norm(self.side(x)))
        other = self.other_norm(x)
        x = torch.relu(self.last_norm(self.last(other)) + other)
        return self.head(x.flatten(1))


@pytest.fixture(scope="module")
def problem():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        module, x, y = Shortcut(), torch.randn(8, 3, 6, 6), torch.randint(0, 10, (8,))
        for norm in (module.body_norm, module.side_norm):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.5, 0.5)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    return capture_training(module, "cross_entropy", (x,), y, optimizer), x, y


def kept_after_a_step(program, x, y):
    graph, trainer = program.graph, GoldenTrainer(program)
    names = graph.of_kind(Kind.INPUT, Kind.LABEL)
    given = {name: graph.layouts[name].from_torch(part.numpy()) for name, part in zip(names, (x, y))}
    trainer.step({name: value.astype(np.float32) for name, value in given.items()}, {})
    return program.read_kept(trainer.memory)


@pytest.fixture(scope="module", params=[EIGHT, TWO_PORTS], ids=["one port", "two ports"])
def program(request, problem):
    return compile_step(problem[0], request.param, TrainingOptions(loss_scale=64.0))


def test_a_step_is_that_of_the_reference(problem, program):
    graph, x, y = problem
    reference = Reference(graph)
    names = graph.of_kind(Kind.INPUT, Kind.LABEL)
    reference.step(dict(zip(names, (x.double().numpy(), y.numpy()), strict=True)))
    # a few values change sign at the ReLUs in FP16
    for name, found in kept_after_a_step(program, x, y).items():
        wanted = reference.kept[name].reshape(found.shape)
        assert np.linalg.norm(found - wanted) < 0.08 * np.linalg.norm(wanted) + 1e-4, name


def test_only_a_normalisation_that_nothing_else_reads_is_taken_along(problem, program):
    found = [group for group in groups(problem[0], apart=True) if isinstance(group.main, BatchNorm)]
    assert [group.beside is not None for group in found] == [True, False, False]
    inside = found[0].beside.output
    assert inside not in program.places.features
    assert not any(group.beside for group in groups(problem[0]))


def test_nothing_races(program):
    assert check_races(program.step.encode(), program.arch) is None
    assert check_tokens(program.step.encode(), program.arch) is None


def test_load_and_fill_share_accumulator_words(program):
    loads = [item for item in program.step.commands if item.opcode in (Opcode.LOAD, Opcode.FILL)]
    wanted = {Opcode.LOAD, Opcode.FILL} if program.arch.memory.ports == 2 else {Opcode.LOAD}
    assert {item.opcode for item in loads if item.target in ACC_TARGETS} == wanted
    assert {item.opcode for item in loads if item.target not in ACC_TARGETS} == {Opcode.LOAD}

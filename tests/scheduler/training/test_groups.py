"""Convolutions of several groups: two steps on the golden machine, and their weights in memory."""

import numpy as np
import pytest
import torch
from torch import nn

from models.pattern import Pattern
from scheduler.training.capture import capture_training
from scheduler.training.compile import compile_step
from scheduler.training.graph.ir import Kind
from scheduler.training.graph.reference import Reference
from scheduler.training.lower import TrainingOptions
from scheduler.training.products.weights import gathered, spread
from sim.training.train import GoldenTrainer
from tests.scheduler.training.machine_support import arch8


class Grouped(nn.Module):
    """Two groups, then one for each channel with a stride, then a plain product."""

    def __init__(self):
        super().__init__()
        self.first, self.halves = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1, groups=2)
        self.single, self.point = nn.Conv2d(12, 12, 3, 2, 1, groups=12), nn.Conv2d(12, 16, 1)
        self.head = nn.Linear(16 * 9, 10)

    def forward(self, x):
        x = torch.relu(self.halves(torch.relu(self.first(x))))
        return self.head(torch.relu(self.point(self.single(x))).flatten(1))


@pytest.fixture(scope="module")
def steps():
    """The program, and the golden machine and the reference interpreter after two steps with momentum and decay."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        module, x, y = Grouped(), torch.randn(2, 8, 3, 6, 6), torch.randint(0, 10, (2, 8))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    graph = capture_training(module, "cross_entropy", (x[0],), y[0], optimizer)
    program = compile_step(graph, arch8(), TrainingOptions(loss_scale=64.0, pattern=Pattern(2, 4)))
    trainer, reference, names = GoldenTrainer(program), Reference(graph), graph.of_kind(Kind.INPUT, Kind.LABEL)
    for inputs, labels in zip(x, y):
        given = dict(zip(names, (inputs.double().numpy(), labels.numpy()), strict=True))
        ours = {name: graph.layouts[name].from_torch(value).astype(np.float32) for name, value in given.items()}
        trainer.step(ours, {})
        reference.step(given)
    return program, trainer.memory, reference


def test_two_steps(steps):
    program, memory, reference = steps
    assert "it has 2 groups" in program.places.notes["halves.weight"]
    assert "it has 12 groups" in program.places.notes["single.weight"]
    for name, found in program.read_kept(memory).items():
        wanted = reference.kept[name].reshape(found.shape)
        assert np.abs(found - wanted).max() < 6e-3 * np.abs(wanted).max(), name


def test_zeros_between_groups_stay(steps):
    program, memory, _ = steps
    for name in ("halves.weight", "single.weight"):
        weights = program.places.weights[name]
        size = weights.channels * weights.taps * weights.inputs
        mask = memory[weights.mask.address :][: 4 * size].view(np.float32)
        assert mask.sum() == np.prod(program.graph.tensors[name].shape)
        for master in weights.masters:
            values = memory[master.address :][: 4 * size].view(np.float32)
            assert (values[mask == 0] == 0).all()
            assert (values[mask == 1] != 0).mean() > 0.9


@pytest.mark.parametrize(
    ("shape", "groups"), [((6, 3, 3, 4), 1), ((6, 1, 2, 4), 3), ((8, 3, 3, 1), 8), ((12, 1, 1, 2), 4)]
)
def test_spread_weights_are_those_of_one_group(shape, groups, seed):
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    wide = spread(values, groups)
    np.testing.assert_array_equal(gathered(wide, groups), values)
    x = torch.randn(2, shape[3] * groups, 5, 4, generator=torch.Generator().manual_seed(seed))
    results = [
        torch.nn.functional.conv2d(x, torch.from_numpy(kernel).permute(0, 3, 1, 2), groups=count)
        for kernel, count in ((values, groups), (wide, 1))
    ]
    torch.testing.assert_close(*results)

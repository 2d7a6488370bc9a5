"""Whole steps on the golden machine, with everything that is no convolution, against the reference interpreter."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hwgen.arch import UserError
from scheduler.training.capture import capture_training
from scheduler.training.compile import compile_step
from scheduler.training.graph.ir import Kind
from scheduler.training.graph.operators import DropoutMask
from scheduler.training.graph.reference import Reference
from scheduler.training.kernels import masks
from scheduler.training.kernels.rules import STEP
from scheduler.training.kernels.table import emit
from scheduler.training.lower import TrainingOptions
from scheduler.training.schedule.fuse import Group
from sim.training.train import GoldenTrainer
from tests.scheduler.training.machine_support import arch8


class Mlp(nn.Module):
    """Layer normalisation, all activation functions, dropout."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(20, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x):
        h = self.norm(F.gelu(self.a(x)))
        h = h + F.silu(self.b(h)) + F.gelu(self.c(h), approximate="tanh")
        return self.head(F.dropout(h, 0.25, True))


class Pools(nn.Module):
    """Both kinds of pooling with overlapping windows, an average over everything, a squared error."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 1)

    def forward(self, x):
        x = F.max_pool2d(torch.relu(self.a(x)), 3, 2, 1)
        x = F.avg_pool2d(torch.relu(self.b(x)), 3, 2, 1)
        return F.adaptive_avg_pool2d(x, 1).flatten(1)


def mlp_batch(generator):
    return torch.randn(24, 20, generator=generator), torch.randint(10, (24,), generator=generator)


def pools_batch(generator):
    return torch.randn(8, 3, 9, 8, generator=generator), torch.randn(8, 12, generator=generator)


CASES = {
    # name: model, batches, loss, optimiser, loss scale, error of parameters after three steps, relative to their length
    "mlp, sgd": (Mlp, mlp_batch, "cross_entropy", lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9), 1.0, 1e-3),
    "mlp, adamw": (Mlp, mlp_batch, "cross_entropy", lambda p: torch.optim.AdamW(p, lr=0.002), 128.0, 1e-2),
    "pools": (
        Pools,
        pools_batch,
        "mse",
        lambda p: torch.optim.SGD(p, lr=0.05, nesterov=True, momentum=0.9),
        64.0,
        1e-3,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_three_steps(name, seed):
    make, batch, loss, optimiser, loss_scale, bound = CASES[name]
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = make()
    x, target = batch(generator)
    graph = capture_training(module, loss, (x,), target, optimiser(list(module.parameters())))
    program = compile_step(graph, arch8(), TrainingOptions(loss_scale=loss_scale, seed=seed))
    golden, reference = GoldenTrainer(program), Reference(graph)
    names, states = graph.of_kind(Kind.INPUT, Kind.LABEL), {}
    for step in range(1, 4):
        given = dict(zip(names, (value.numpy() for value in batch(generator)), strict=True))
        drawn = draw(program, states, seed)
        seen = reference.step({key: wide(value) for key, value in given.items()}, masks=drawn)
        ours = {key: graph.layouts[key].from_torch(value).astype(np.float32) for key, value in given.items()}
        golden.step(ours, {STEP: step})
        assert program.read_loss(golden.memory) == pytest.approx(seen[graph.outputs["loss"]].item(), rel=1e-3)
    for key, value in program.read_kept(golden.memory).items():
        if key in module.state_dict() and value.shape == reference.kept[key].shape:
            error = np.linalg.norm(value - reference.kept[key]) / np.linalg.norm(reference.kept[key])
            assert error < bound, f"{key} is off by {error} of its length"


def wide(value):
    return value.astype(np.float64) if value.dtype == np.float32 else value


def draw(program, states, seed):
    """The dropout masks of the next step, by name; `states` goes from step to step."""
    found = {}
    for item in program.graph.operators:
        if isinstance(item, DropoutMask):
            mask, arch = program.places.features[item.output], program.arch
            words = masks.state_words(arch, mask)
            state = states.get(item.output, masks.seeds(seed, item.stream, words, arch.array.cols))
            values, states[item.output] = masks.draw(arch, mask, state, item.p)
            found[item.output] = values.astype(np.float16).astype(np.float64)
    return found


class Convolve3d:
    """An operator that nobody has a kernel for."""

    def names(self, role):
        return ("y",)


def test_an_operator_without_a_kernel_is_refused_by_name():
    with pytest.raises(UserError, match=r"^y: the array has no kernel for Convolve3d$"):
        emit(None, Group(Convolve3d()))

"""Models over tokens with other forms of attention and of moves: one step on the golden machine, tensor by tensor."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hwgen.arch import UserError
from scheduler.training.capture import capture_training
from scheduler.training.compile import compile_step
from scheduler.training.graph.ir import Kind
from scheduler.training.graph.reference import Reference
from scheduler.training.lower import TrainingOptions
from sim.training.train import GoldenTrainer
from tests.scheduler.training.machine_support import arch8

SCALE = 256.0


class Fused(nn.Module):
    """Query, key and value from one product, cut apart; an average over tokens, so that one gradient is repeated."""

    def __init__(self):
        super().__init__()
        self.qkv, self.head = nn.Linear(16, 48), nn.Linear(16, 10)

    def forward(self, x):
        parts = (part.unflatten(-1, (2, 8)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        return self.head(F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2).mean(1))


class Mixer(nn.Module):
    """Linear layers over tokens: matrices are transposed there and back."""

    def __init__(self):
        super().__init__()
        self.embed, self.mix, self.head = nn.Linear(16, 16), nn.Linear(8, 8), nn.Linear(128, 10)

    def forward(self, x):
        x = self.embed(x)
        return self.head((x + F.gelu(self.mix(x.transpose(1, 2))).transpose(1, 2)).flatten(1))


class Gated(nn.Module):
    """Halves of the channels, one with a SiLU, multiplied."""

    def __init__(self):
        super().__init__()
        self.up, self.head = nn.Linear(16, 32), nn.Linear(16, 10)

    def forward(self, x):
        a, b = self.up(x).chunk(2, -1)
        return self.head((F.silu(a) * b)[:, 3])


class Encoder(nn.Module):
    """PyTorch's own layer, with its fused projections."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 2, 24, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.layer(x)[:, 0])


@pytest.mark.parametrize("make", [Fused, Mixer, Gated, Encoder])
def test_every_tensor_of_a_step(make, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = make()
    x, y = torch.randn(8, 8, 16, generator=generator), torch.randint(10, (8,), generator=generator)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    graph = capture_training(module, "cross_entropy", (x,), y, optimizer)
    program = compile_step(graph, arch8(), TrainingOptions(loss_scale=SCALE))
    names, trainer, reference = graph.of_kind(Kind.INPUT, Kind.LABEL), GoldenTrainer(program), Reference(graph)
    given = dict(zip(names, (x.double().numpy(), y.numpy()), strict=True))
    seen = reference.step(given)
    ours = {name: graph.layouts[name].from_torch(value).astype(np.float32) for name, value in given.items()}
    trainer.step(ours, {})
    memory = trainer.memory
    scaled = {name for item in graph.phases()[1] for name in item.names("result")} | {"loss.logits_grad"}
    for name in set(program.places.features) & set(seen):
        found = program.read_feature(memory, name) / (SCALE if name in scaled else 1)
        assert near(found, seen[name]) < 6e-3, name
    for name, found in program.read_kept(memory).items():
        assert near(found, reference.kept[name]) < 6e-3, name


def near(found, wanted):
    """Largest difference over the largest value."""
    return np.abs(found - wanted).max() / max(np.abs(wanted).max(), 1e-30)


class Shared(nn.Module):
    """One layer normalisation in two places."""

    def __init__(self):
        super().__init__()
        self.norm, self.up, self.head = nn.LayerNorm(16), nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.norm(self.up(self.norm(x))))


class Narrow(nn.Module):
    """Heads of 4 channels."""

    def __init__(self):
        super().__init__()
        self.query, self.head = nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, x):
        q = self.query(x).unflatten(-1, (4, 4)).transpose(1, 2)
        return self.head(F.scaled_dot_product_attention(q, q, q).transpose(1, 2).flatten(2)[:, 0])


REFUSED = {
    Shared: r"^norm.weight: its gradient is the result of Add, as that of a parameter that is used more than once",
    Narrow: r"^scores: 4 heads in 16 channels have 4 each, which must be a multiple of array.cols \(8\)$",
}


@pytest.mark.parametrize("make", REFUSED)
def test_what_the_array_cannot_do_is_refused_by_name(make):
    module = make()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    shape = (8, 16) if make is Shared else (8, 8, 16)
    graph = capture_training(module, "cross_entropy", (torch.randn(*shape),), torch.zeros(8, dtype=int), optimizer)
    with pytest.raises(UserError, match=REFUSED[make]):
        compile_step(graph, arch8())

"""Training steps of a transformer on RTL: all of memory equal to the golden machine's."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hwgen.arch import load
from models.pattern import Pattern
from scheduler.training.capture import capture_training
from scheduler.training.compile import compile_step
from scheduler.training.graph.ir import Kind
from scheduler.training.lower import TrainingOptions
from sim.memory import MemoryModel
from sim.runner import build
from sim.training.train import GoldenTrainer, RtlTrainer, train
from tests.scheduler.support import used

TINY = load("tiny")
CURVES = replace(TINY, name="tiny_curves", vector=replace(TINY.vector, curve_entries=4096))


class Transformer(nn.Module):
    """One layer of two heads over six tokens: a class token, fused projections, a perceptron."""

    def __init__(self, activation):
        super().__init__()
        self.activation = activation
        self.token, self.position = nn.Parameter(torch.zeros(1, 1, 8)), nn.Parameter(0.1 * torch.randn(1, 6, 8))
        self.norm, self.qkv, self.output = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.up, self.down, self.head = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 10)

    def forward(self, x):
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        parts = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, -1))
        x = x + self.output(F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))
        return self.head((x + self.down(self.activation(self.up(x))))[:, 0])


@pytest.mark.verilator
@pytest.mark.parametrize(
    ("arch", "pattern", "dataflow"),
    [(TINY, "dense", "auto"), (TINY, "2:4", "auto"), (TINY, "2:4", "ws"), (CURVES, "dense", "auto")],
)
def test_steps_on_rtl_equal_golden(arch, pattern, dataflow, seed):
    """6 images, which is no multiple of the array's 4 rows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = Transformer(F.gelu if arch is CURVES else torch.relu)
    x, y = torch.randn(6, 5, 8, generator=generator), torch.randint(10, (6,), generator=generator)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    graph = capture_training(module, "cross_entropy", (x,), y, optimizer)
    options = TrainingOptions(loss_scale=128.0, pattern=Pattern.parse(pattern), dataflow=dataflow)
    program = compile_step(graph, arch, options)
    names = graph.of_kind(Kind.INPUT, Kind.LABEL)
    given = zip(names, (x.numpy(), y.numpy()), strict=True)
    batch = {name: graph.layouts[name].from_torch(value).astype(np.float32) for name, value in given}
    golden, rtl = GoldenTrainer(program), RtlTrainer(program, build(arch), MemoryModel(stalls=0.1, seed=seed))
    # RTL begins with zeros: what a program never writes must not matter.
    used(golden.machine).run(program.start.encode())
    results = list(train(program, [(batch, {})] * 2, golden=golden, rtl=rtl))
    rtl.close()
    assert [result.words for result in results] == [program.memory_size] * 2
    assert results[1].loss < results[0].loss
    loss = F.cross_entropy(module(x), y).item()
    assert results[0].loss == pytest.approx(loss, rel=2e-3 if pattern == "dense" else 0.3)

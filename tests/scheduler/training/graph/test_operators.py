"""Every operator that the capture knows, in a small module: three steps on the golden machine against PyTorch."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD, Adam, AdamW

from scheduler.training.capture import LOSSES, capture_training
from scheduler.training.compile import compile_step
from scheduler.training.graph.ir import Kind
from scheduler.training.kernels.rules import STEP
from scheduler.training.lower import TrainingOptions
from sim.training.train import GoldenTrainer
from tests.scheduler.training.machine_support import arch8

ROWS, IMAGES, TOKENS = (8, 16), (8, 3, 8, 8), (8, 8, 16)


class Lambda(nn.Module):
    """A function of a module and an input."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            self.register_buffer(name, part) if isinstance(part, torch.Tensor) else self.add_module(name, part)

    def forward(self, x):
        return self.function(self, x)


def convolution(*after, function=lambda x: x, **settings):
    """An image, a convolution, other layers, the mean of each channel."""
    first = nn.Conv2d(3, 16, 3, **{"padding": 1, **settings})
    layers = nn.Sequential(first, *after)
    return Lambda(lambda m, x: m.head(function(m.layers(x)).mean((2, 3))), layers=layers, head=nn.Linear(16, 10))


def flattened(function, features):
    """A convolution, a function that pools, a classifier."""
    parts = {"first": nn.Conv2d(3, 8, 3, padding=1), "head": nn.Linear(features, 10)}
    return Lambda(lambda m, x: m.head(function(m.first(x)).flatten(1)), **parts)


def rows(function, **parts):
    """A linear layer, a function of its result, a classifier."""
    parts = {"first": nn.Linear(16, 16), "head": nn.Linear(16, 10), **parts}
    return Lambda(lambda m, x: m.head(function(m, m.first(x))), **parts)


def attention(**options):
    """One layer of attention, the mean over tokens, a classifier."""
    mask = {"mask": options.pop("mask")} if "mask" in options else {}

    def run(m, x):
        q, k, v = (layer(x).unflatten(-1, (2, 8)).transpose(1, 2) for layer in (m.q, m.k, m.v))
        chosen = options | ({"attn_mask": m.mask} if mask else {})
        return m.head(F.scaled_dot_product_attention(q, k, v, **chosen).transpose(1, 2).flatten(2).mean(1))

    return Lambda(run, **{name: nn.Linear(16, 16) for name in "qkv"}, head=nn.Linear(16, 10), **mask)


MODELS = {
    "stride and padding": (lambda: convolution(stride=2), IMAGES),
    "groups": (lambda: convolution(nn.Conv2d(16, 16, 3, padding=1, groups=4)), IMAGES),
    "depthwise": (lambda: convolution(nn.Conv2d(16, 16, 3, 2, 1, groups=16)), IMAGES),
    "points": (lambda: convolution(nn.ReLU(), nn.Conv2d(16, 16, 1, bias=False)), IMAGES),
    "batch normalisation": (lambda: convolution(nn.BatchNorm2d(16), nn.ReLU(), bias=False), IMAGES),
    "batch normalisation of rows": (lambda: rows(lambda m, x: m.norm(x), norm=nn.BatchNorm1d(16)), ROWS),
    "layer normalisation": (lambda: rows(lambda m, x: m.norm(x), norm=nn.LayerNorm(16)), ROWS),
    "residual of images": (lambda: convolution(nn.ReLU(), function=lambda x: x + F.gelu(x)), IMAGES),
    "residual of rows": (lambda: rows(lambda m, x: x + F.silu(m.other(x)), other=nn.Linear(16, 16)), ROWS),
    "relu": (lambda: rows(lambda m, x: torch.relu(x)), ROWS),
    "gelu": (lambda: rows(lambda m, x: F.gelu(x)), ROWS),
    "gelu by tanh": (lambda: rows(lambda m, x: F.gelu(x, approximate="tanh")), ROWS),
    "silu": (lambda: rows(lambda m, x: F.silu(x)), ROWS),
    "maximum pooling": (lambda: flattened(lambda x: F.max_pool2d(x, 3, 2, 1), 8 * 16), IMAGES),
    "average pooling": (lambda: flattened(lambda x: F.avg_pool2d(x, 2), 8 * 16), IMAGES),
    "adaptive average": (lambda: flattened(lambda x: F.adaptive_avg_pool2d(x, 2), 8 * 4), IMAGES),
    "adaptive maximum": (lambda: flattened(lambda x: F.adaptive_max_pool2d(x, 2), 8 * 4), IMAGES),
    "attention": (attention, TOKENS),
    "causal attention": (lambda: attention(is_causal=True), TOKENS),
    "masked attention": (lambda: attention(mask=torch.full((8, 8), -1e4).tril(-1)), TOKENS),
    "encoder": (
        lambda: Lambda(
            lambda m, x: m.head(m.layer(x).mean(1)),
            layer=nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True),
            head=nn.Linear(16, 10),
        ),
        TOKENS,
    ),
}
OPTIMIZERS = {
    # name: optimizer, whether updates are in proportion to gradients
    "sgd": (lambda p: SGD(p, lr=0.05), True),
    "momentum and decay": (lambda p: SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01), True),
    "nesterov": (lambda p: SGD(p, lr=0.05, momentum=0.9, nesterov=True), True),
    "dampening": (lambda p: SGD(p, lr=0.05, momentum=0.9, dampening=0.5), True),
    "adam": (lambda p: Adam(p, lr=0.002, weight_decay=0.01), False),
    "adamw": (lambda p: AdamW(p, lr=0.002, weight_decay=0.1), False),
}


def check(module, x, target, make, loss="cross_entropy", bound=6e-3):
    """Three steps of the same batch: losses, parameters and statistics."""
    twin = copy.deepcopy(module)
    graph = capture_training(module, loss, (x,), target, make(list(module.parameters())))
    program = compile_step(graph, arch8(), TrainingOptions(loss_scale=64.0))
    golden, optimizer = GoldenTrainer(program), make(list(twin.parameters()))
    names = graph.of_kind(Kind.INPUT, Kind.LABEL)
    batch = {n: graph.layouts[n].from_torch(v.numpy()).astype(np.float32) for n, v in zip(names, (x, target))}
    for step in range(1, 4):
        golden.step(batch, {STEP: step})
        optimizer.zero_grad()
        wanted = LOSSES[loss]()(twin(x), target)
        wanted.backward()
        optimizer.step()
        assert program.read_loss(golden.memory) == pytest.approx(wanted.item(), rel=1e-3)
    state = twin.state_dict()
    for name, value in program.read_kept(golden.memory).items():
        if name in state:
            wanted = state[name].numpy()
            error = np.linalg.norm(graph.layouts[name].to_torch(value) - wanted) / np.linalg.norm(wanted)
            assert error < bound, f"{name} is off by {error} of its length"


def made(make, seed):
    """A module and random numbers that follow its initialisation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(), torch.Generator().manual_seed(seed + 1)


@pytest.mark.parametrize("name", MODELS)
def test_three_steps_of_every_operator(name, seed):
    make, shape = MODELS[name]
    module, generator = made(make, seed)
    x, target = torch.randn(shape, generator=generator), torch.randint(10, (8,), generator=generator)
    # Of values that are nearly the same, rounded ones may have their maximum elsewhere.
    check(module, x, target, lambda p: SGD(p, lr=0.05, momentum=0.9), bound=3e-2 if "maximum" in name else 6e-3)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_three_steps_of_every_optimizer(name, seed):
    make, near = OPTIMIZERS[name]
    module, generator = made(lambda: rows(lambda m, x: F.relu(x)), seed)
    x, target = torch.randn(ROWS, generator=generator), torch.randint(10, (8,), generator=generator)
    # Adam steps a whole rate by the sign of a gradient, however small it is.
    check(module, x, target, make, bound=6e-3 if near else 1e-2)


def test_three_steps_of_an_embedding(seed):
    parts = {"table": nn.Embedding(11, 16), "norm": nn.LayerNorm(16), "head": nn.Linear(48, 10)}
    module, generator = made(lambda: Lambda(lambda m, x: m.head(m.norm(m.table(x)).flatten(1)), **parts), seed)
    tokens, target = torch.randint(11, (8, 3), generator=generator), torch.randint(10, (8,), generator=generator)
    check(module, tokens, target, lambda p: SGD(p, lr=0.05))


def test_three_steps_of_a_squared_error(seed):
    module, generator = made(lambda: rows(lambda m, x: F.relu(x)), seed)
    x, target = torch.randn(ROWS, generator=generator), torch.randn(8, 10, generator=generator)
    check(module, x, target, lambda p: SGD(p, lr=0.05), "mse")

"""The model zoo: small models with random, seeded weights, built by name with settings."""

import inspect
from collections.abc import Callable

import torch
from torch import nn

from hwgen.arch import UserError

Model = tuple[nn.Module, tuple[torch.Tensor, ...]]
"""A module in evaluation mode and example inputs."""
LARGEST = 1 << 16
"""Upper limit of a size setting, so that a slip of the pen does not take all memory."""


class Mlp(nn.Module):
    """Multilayer perceptron with ReLU between its linear layers `fc1`, `fc2`, `fc3`: `[batch, 64]` -> `[batch, 10]`."""

    def __init__(self, inputs: int = 64, hidden: int = 128, outputs: int = 10) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits `[batch, outputs]` of inputs `[batch, inputs]`."""
        return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x)))))


class ResidualMlp(nn.Module):
    """Two linear layers with a bypass around them, between an input layer and a classifier."""

    def __init__(self, inputs: int = 64, hidden: int = 96, outputs: int = 10) -> None:
        super().__init__()
        self.stem = nn.Linear(inputs, hidden)
        self.fc1 = nn.Linear(hidden, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.head = nn.Linear(hidden, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits `[batch, outputs]` of inputs `[batch, inputs]`."""
        h = torch.relu(self.stem(x))
        return self.head(torch.relu(self.fc2(torch.relu(self.fc1(h))) + h))


def mlp(batch: int = 16, hidden: int = 128) -> Model:
    """64 - hidden - hidden - 10 perceptron, the shape that is trained on the handwritten digits."""
    return Mlp(hidden=hidden), (torch.rand(batch, 64),)


def residual_mlp(batch: int = 16, hidden: int = 96) -> Model:
    """Perceptron with a residual addition around two of its layers."""
    return ResidualMlp(hidden=hidden), (torch.rand(batch, 64),)


def linear(rows: int = 64, inputs: int = 128, outputs: int = 96, bias: int = 1) -> Model:
    """One linear layer of any size: rows x inputs times inputs x outputs."""
    return nn.Sequential(nn.Linear(inputs, outputs, bias=bool(bias))), (torch.randn(rows, inputs),)


ZOO: dict[str, Callable[..., Model]] = {builder.__name__: builder for builder in (mlp, residual_mlp, linear)}
"""Builders by name; their parameters are the settings."""


def names() -> dict[str, str]:
    """Name -> one line on the model and its settings with their defaults."""
    rows = {}
    for name, builder in ZOO.items():
        settings = ", ".join(f"{key}={item.default}" for key, item in inspect.signature(builder).parameters.items())
        rows[name] = f"{(builder.__doc__ or '').splitlines()[0]} ({settings})"
    return rows


def build(name: str, *, seed: int = 0, **settings: int) -> Model:
    """Build a model of the zoo; equal seeds and settings give equal weights and inputs.

    Raises `UserError` for an unknown name or setting and for a size that is not in 1..65536.
    """
    if name not in ZOO:
        raise UserError(f"unknown model {name!r}: the zoo has {', '.join(ZOO)}")
    known = inspect.signature(ZOO[name]).parameters
    for key, value in settings.items():
        if key not in known:
            raise UserError(f"model {name} has no setting {key!r}: it has {', '.join(known)}")
        low = 0 if key == "bias" else 1
        if not low <= value <= LARGEST:
            raise UserError(f"setting {key} of model {name} must be in {low}..{LARGEST}, not {value}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module, inputs = ZOO[name](**settings)
    return module.eval(), inputs

"""PyTorch optimizers -> update operators: hyper-parameters, and the state that an optimizer already has."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from hwgen.arch import UserError
from scheduler.training.graph.updates import Adam, Sgd, Update

STATES = {Sgd: {"velocity": "momentum_buffer"}, Adam: {"first": "exp_avg", "second": "exp_avg_sq"}}
"""Field of an update -> PyTorch's name of that state."""


@dataclass(frozen=True)
class Rule:
    """Update of one parameter: `make(parameter, gradient, states)`."""

    states: dict[str, torch.Tensor | None]
    """Field of the update -> value that the optimizer holds for it, if it has made a step."""
    make: Callable[[str, str, dict[str, str]], Update]


@dataclass(frozen=True)
class Rules:
    """What an optimizer does: a rule for each of its parameters by name, hyper-parameters, steps already made."""

    rules: dict[str, Rule]
    scalars: dict[str, float]
    steps: int


def read_optimizer(optimizer: torch.optim.Optimizer, names: dict[int, str]) -> Rules:
    """Rules of an optimizer; `names` gives the name of each of the model's parameters by `id`.

    Raises `UserError` for another optimizer, a variant without a lowering, and parameters of other models.
    """
    readers = {torch.optim.SGD: _sgd, torch.optim.Adam: _adam, torch.optim.AdamW: _adam}
    if type(optimizer) not in readers:
        raise UserError(f"the optimizer must be torch.optim.SGD, Adam or AdamW, not {type(optimizer).__name__}")
    rules, scalars, counts = {}, {}, set()
    for number, group in enumerate(optimizer.param_groups):
        kind, settings = readers[type(optimizer)](group, _Scalars(scalars, f".{number}" if number else ""))
        for parameter in group["params"]:
            if id(parameter) not in names:
                raise UserError(f"the optimizer has a parameter {list(parameter.shape)} that the model does not have")
            held = optimizer.state.get(parameter, {})
            wanted = {} if settings.get("momentum", "") is None else STATES[kind]
            rules[names[id(parameter)]] = Rule(
                {field: held.get(torch_name) for field, torch_name in wanted.items()}, _maker(kind, settings)
            )
            counts.add(_steps(held))
    if len(counts) > 1:
        raise UserError("the optimizer has made steps for some of its parameters and not for others")
    return Rules(rules, scalars, counts.pop() if counts else 0)


class _Scalars:
    """Registers the hyper-parameters of a parameter group under their names."""

    def __init__(self, scalars: dict[str, float], suffix: str) -> None:
        self.scalars, self.suffix = scalars, suffix

    def __call__(self, name: str, value: Any, *, optional: bool = False) -> str | None:
        if optional and value == 0:
            return None
        self.scalars[name + self.suffix] = float(value)
        return name + self.suffix


def _sgd(group: dict[str, Any], scalar: _Scalars) -> tuple[type[Sgd], dict[str, Any]]:
    _refuse(group, "maximize")
    moving = group["momentum"] != 0
    return Sgd, {
        "lr": scalar("lr", group["lr"]),
        "momentum": scalar("momentum", group["momentum"], optional=True),
        "dampening": scalar("dampening", group["dampening"], optional=True) if moving else None,
        "weight_decay": scalar("weight_decay", group["weight_decay"], optional=True),
        "nesterov": bool(group["nesterov"]),
    }


def _adam(group: dict[str, Any], scalar: _Scalars) -> tuple[type[Adam], dict[str, Any]]:
    _refuse(group, "maximize")
    _refuse(group, "amsgrad")
    return Adam, {
        "lr": scalar("lr", group["lr"]),
        "beta1": scalar("beta1", group["betas"][0]),
        "beta2": scalar("beta2", group["betas"][1]),
        "eps": scalar("eps", group["eps"]),
        "weight_decay": scalar("weight_decay", group["weight_decay"], optional=True),
        "decoupled": bool(group["decoupled_weight_decay"]),
    }


def _refuse(group: dict[str, Any], flag: str) -> None:
    if group[flag]:
        raise UserError(f"an optimizer with {flag} has no lowering")


def _maker(kind: type[Sgd] | type[Adam], settings: dict[str, Any]) -> Callable[[str, str, dict[str, str]], Update]:
    absent = dict.fromkeys(STATES[kind])
    return lambda parameter, gradient, states: kind(parameter, gradient, **{**absent, **states, **settings})


def _steps(held: dict[str, Any]) -> int:
    if "step" in held:
        return int(held["step"])
    return int(held.get("momentum_buffer") is not None)

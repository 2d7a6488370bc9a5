"""Update rules of optimisers on blocks of FP32 parameters, in place."""

from collections.abc import Iterable, Mapping

from hwgen.arch.isa import Operation
from models.pattern import Pattern
from scheduler.training.graph.base import Operator
from scheduler.training.graph.updates import Adam, Sgd, Update
from scheduler.training.kernels import adam
from scheduler.training.kernels.dropped import decay_dropped
from scheduler.training.kernels.emitter import Block, Emitter

MUL, MAC = Operation.MUL, Operation.MAC
LOSS_SCALE, STEP = "loss scale", "step"
"""Names of the loss scale and of the number of the step (1, 2 ..) among the scalars of a program."""
UNSCALE = "1 / loss scale"
"""Scalar by which gradients are multiplied before they are used."""


def negated(name: str) -> str:
    """Scalar whose value is minus that of another."""
    return f"-{name}"


def derived_scalars(operators: Iterable[Operator], values: Mapping[str, float]) -> dict[str, float]:
    """The scalars that updates read, from hyper-parameters by name, `LOSS_SCALE` and `STEP`; includes those.

    The first step of SGD is not dampened.
    """
    found = dict(values) | {UNSCALE: 1.0 / values[LOSS_SCALE]}
    for name, value in values.items():
        found |= {negated(name): -value, f"1-{name}": 1.0 - value}
    for item in operators:
        if isinstance(item, Adam):
            found |= adam.scalars(item, values, round(values[STEP]))
        elif isinstance(item, Sgd) and item.dampening is not None and round(values[STEP]) == 1:
            found[f"1-{item.dampening}"] = 1.0
    return found


def apply_update(
    em: Emitter,
    rule: Update,
    blocks: Mapping[str, Block],
    gradient: Block,
    *,
    scaled: bool,
    dropped: tuple[Pattern, float] | None = None,
) -> None:
    """Update the parameter and the states in `blocks` (tensor name -> block) from a gradient, which is overwritten.

    With `dropped`, weights that the pattern drops decay by that factor before anything else (SR-STE).
    """
    if scaled:
        em.vector(MUL, gradient, gradient, em.constant(UNSCALE).over(gradient))
    if dropped:
        decay_dropped(em, blocks[rule.parameter], gradient, *dropped)
    if isinstance(rule, Sgd):
        _sgd(em, rule, blocks, gradient)
    else:
        adam.adam(em, rule, blocks, gradient)


def _sgd(em: Emitter, rule: Sgd, blocks: Mapping[str, Block], gradient: Block) -> None:
    """3 passes with momentum and weight decay."""
    weight = blocks[rule.parameter]

    def scalar(name: str) -> Block:
        return em.constant(name).over(weight)

    if rule.weight_decay is not None:
        em.vector(MAC, gradient, weight, scalar(rule.weight_decay), gradient)
    step = gradient
    if rule.velocity is not None:
        velocity = blocks[rule.velocity]
        if rule.dampening is not None:
            em.vector(MUL, gradient, gradient, scalar(f"1-{rule.dampening}"))
        em.vector(MAC, velocity, velocity, scalar(rule.momentum), gradient)
        if rule.nesterov:
            em.vector(MAC, gradient, velocity, scalar(rule.momentum), gradient)
        else:
            step = velocity
    em.vector(MAC, weight, step, scalar(negated(rule.lr)), weight)

"""Update rules of optimisers on blocks of FP32 parameters, in place."""

from collections.abc import Mapping

from hwgen.arch.isa import Operation
from scheduler.training.emitter import Block, Emitter
from scheduler.training.updates import Adam, Sgd, Update

ADD, SUB, MUL, MAC = Operation.ADD, Operation.SUB, Operation.MUL, Operation.MAC
UNSCALE = "1 / loss scale"
"""Scalar by which gradients are multiplied before they are used."""


def negated(name: str) -> str:
    """Scalar whose value is minus that of another."""
    return f"-{name}"


def apply_update(em: Emitter, rule: Update, blocks: Mapping[str, Block], gradient: Block, *, scaled: bool) -> None:
    """Update the parameter and the states in `blocks` (tensor name -> block) from a gradient, which is overwritten."""
    if scaled:
        em.vector(MUL, gradient, gradient, em.constant(UNSCALE).over(gradient))
    if isinstance(rule, Sgd):
        _sgd(em, rule, blocks, gradient)
    elif isinstance(rule, Adam):
        raise ValueError("Adam")


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

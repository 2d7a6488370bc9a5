"""Adam and AdamW on blocks of FP32 parameters, in place."""

from collections.abc import Mapping

from scheduler.training.graph.updates import Adam
from scheduler.training.kernels.emitter import Block, Emitter
from scheduler.training.kernels.functions import MAC, MUL, reciprocal, rsqrt


def adam(em: Emitter, rule: Adam, blocks: Mapping[str, Block], gradient: Block) -> None:
    """Update the parameter and both states in `blocks` (tensor name -> block); the gradient is overwritten.

    22 passes, 1 more with weight decay. Relative error of the update 3e-6.
    """
    weight, first, second = blocks[rule.parameter], blocks[rule.first], blocks[rule.second]
    if rule.weight_decay is not None and rule.decoupled:
        em.vector(MUL, weight, weight, _kept(rule))
    elif rule.weight_decay is not None:
        em.vector(MAC, gradient, weight, rule.weight_decay, gradient)
    em.vector(MUL, first, first, rule.beta1)
    em.vector(MAC, first, gradient, f"1-{rule.beta1}", first)
    em.vector(MUL, gradient, gradient, gradient)
    em.vector(MUL, second, second, rule.beta2)
    em.vector(MAC, second, gradient, f"1-{rule.beta2}", second)
    root, inverse = em.take(weight.rows, weight.words), em.take(weight.rows, weight.words)
    rsqrt(em, second, inverse, spare=(gradient, root))
    em.vector(MUL, root, second, inverse)
    em.vector(MAC, root, root, _root(rule), rule.eps)
    reciprocal(em, root, inverse, negative=True, spare=(gradient,))
    em.vector(MUL, inverse, inverse, first)
    em.vector(MAC, weight, inverse, _rate(rule), weight)


def scalars(rule: Adam, values: Mapping[str, float], step: int) -> dict[str, float]:
    """What `adam` reads in step 1, 2 .. of training besides hyper-parameters and 1 minus those."""
    lr, beta1, beta2 = (values[name] for name in (rule.lr, rule.beta1, rule.beta2))
    found = {
        _rate(rule): lr / (1 - beta1**step),
        _root(rule): (1 - beta2**step) ** -0.5,
    }
    if rule.weight_decay is not None and rule.decoupled:
        found[_kept(rule)] = 1 - lr * values[rule.weight_decay]
    return found


def _rate(rule: Adam) -> str:
    return f"{rule.lr} / (1 - {rule.beta1}**t)"


def _root(rule: Adam) -> str:
    return f"(1 - {rule.beta2}**t)**-0.5"


def _kept(rule: Adam) -> str:
    return f"1 - {rule.lr} * {rule.weight_decay}"

"""Pointwise operators on a block in the accumulators, in place, with the blocks of their other operands."""

from collections.abc import Callable, Sequence

from hwgen.arch.isa import Operation
from scheduler.training.base import Operator
from scheduler.training.emitter import Block, Emitter
from scheduler.training.operators import Add, Bias, Mul, Relu, ReluGrad, Scale

POINTWISE = (Bias, Relu, ReluGrad, Add, Mul, Scale)
"""Operators whose results need only the same place of their operands."""
Fetch = Callable[[str], Block]
"""Gives the part of another tensor that lies under the block; a channel vector as one repeated row."""


def apply_chain(em: Emitter, block: Block, name: str, chain: Sequence[Operator], fetch: Fetch) -> Block:
    """Run a chain of operators on the block of tensor `name`; a ReLU is taken along by the operator before it."""
    for number, item in enumerate(chain):
        relu = number + 1 < len(chain) and isinstance(chain[number + 1], Relu)
        if isinstance(item, Relu) and number and not isinstance(chain[number - 1], Relu):
            name = item.output
            continue
        _apply(em, block, name, item, fetch, relu=relu)
        name = item.output
    return block


def _apply(em: Emitter, block: Block, name: str, item: Operator, fetch: Fetch, *, relu: bool) -> None:
    match item:
        case Bias():
            em.vector(Operation.ADD, block, block, fetch(item.bias), relu=relu)
        case Relu():
            em.vector(Operation.COPY, block, block, relu=1)
        case ReluGrad():
            em.vector(Operation.POSITIVE, block, fetch(item.y), block, relu=relu)
        case Add():
            em.vector(Operation.ADD, block, block, fetch(_other(item, name)), relu=relu)
        case Mul():
            em.vector(Operation.MUL, block, block, fetch(_other(item, name)), relu=relu)
        case Scale():
            em.vector(Operation.MUL, block, block, em.constant(float(item.factor)).over(block), relu=relu)
        case _:
            raise ValueError(f"{type(item).__name__} is not a pointwise operator")


def _other(item: Add | Mul, name: str) -> str:
    return item.right if item.left == name else item.left

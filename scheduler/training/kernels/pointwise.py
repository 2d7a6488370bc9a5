"""Pointwise operators on a block in the accumulators, in place, with the blocks of their other operands."""

from collections.abc import Callable, Sequence

from hwgen.arch.isa import Operation
from scheduler.training.graph.base import Operator
from scheduler.training.graph.operators import Add, Bias, Gelu, GeluGrad, Mul, Relu, ReluGrad, Scale, Silu, SiluGrad
from scheduler.training.kernels.activations import gelu, gelu_slope, gelu_tanh, gelu_tanh_slope, silu, silu_slope
from scheduler.training.kernels.emitter import Block, Emitter
from scheduler.training.kernels.functions import scratch

POINTWISE = (Bias, Relu, ReluGrad, Add, Mul, Scale, Gelu, GeluGrad, Silu, SiluGrad)
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
            em.vector(Operation.MUL, block, block, float(item.factor), relu=relu)
        case Gelu() | Silu():
            _function(item)(em, block, block)
            if relu:
                em.vector(Operation.COPY, block, block, relu=1)
        case GeluGrad() | SiluGrad():
            (slope,) = scratch(em, block, 1)
            _function(item)(em, fetch(item.input), slope)
            em.vector(Operation.MUL, block, block, slope, relu=relu)
        case _:
            raise ValueError(f"{type(item).__name__} is not a pointwise operator")


def _function(item: Operator) -> Callable[[Emitter, Block, Block], Block]:
    """The activation function of an operator, or its slope."""
    match item:
        case Gelu():
            return gelu_tanh if item.tanh else gelu
        case GeluGrad():
            return gelu_tanh_slope if item.tanh else gelu_slope
        case _:
            return silu if isinstance(item, Silu) else silu_slope


def _other(item: Add | Mul, name: str) -> str:
    return item.right if item.left == name else item.left

"""Groups of operators that run in one kernel: a main operator, and pointwise ones on its results.

What a group computes on the way stays in the accumulators: only the end of its chain, and what later groups read, goes
to external memory.
"""

from collections import defaultdict
from dataclasses import dataclass

from scheduler.training.base import Operator
from scheduler.training.ir import TrainingGraph
from scheduler.training.operators import (
    Add,
    BatchNorm,
    BatchNormGrad,
    Bias,
    Conv,
    ConvInputGrad,
    ConvWeightGrad,
    Gelu,
    GeluGrad,
    Mul,
    Relu,
    ReluGrad,
    Scale,
    Silu,
    SiluGrad,
)
from scheduler.training.updates import Adam, Sgd

POINTWISE = (Bias, Relu, ReluGrad, Add, Mul, Scale, Gelu, GeluGrad, Silu, SiluGrad)
"""Operators whose results need only the same place of their operands."""
MAINS = (Conv, ConvInputGrad, BatchNorm, BatchNormGrad, *POINTWISE)
"""Operators that may begin a chain."""


@dataclass(frozen=True)
class Group:
    """`main`, then `chain`: each takes the result before it and perhaps other tensors. `sums`: normalisations (forward
    or backward) whose sums over rows are taken of the group's result.
    """

    main: Operator
    chain: tuple[Operator, ...] = ()
    sums: tuple[Operator, ...] = ()

    @property
    def result(self) -> str:
        """The tensor that is stored."""
        return main_result(self.chain[-1] if self.chain else self.main)


def main_result(item: Operator) -> str:
    """The tensor that an operator is there for; normalisations have further results."""
    return item.names("result")[0]


def groups(graph: TrainingGraph) -> list[Group]:
    """All operators but the updates, which run with their gradients, in an order in which groups can run."""
    items = in_order(graph)
    users: dict[str, list[Operator]] = defaultdict(list)
    for item in items:
        for name in item.names("source"):
            users[name].append(item)
    place = {id(item): number for number, item in enumerate(items)}
    taken: set[int] = set()
    kept = set(graph.outputs.values())
    found: list[tuple[int, Group]] = []
    for item in items:
        if id(item) in taken:
            continue
        chain = _chain(item, users, taken, kept) if isinstance(item, MAINS) else []
        taken |= {id(link) for link in (item, *chain)}
        last = (chain or [item])[-1]
        found.append((place[id(last)], Group(item, tuple(chain), _sums(last, users))))
    return [group for _, group in sorted(found, key=lambda pair: pair[0])]


def in_order(graph: TrainingGraph) -> list[Operator]:
    """Operators without updates; a weight's gradient, whose update overwrites its copies, after all that read them."""
    items = [item for item in graph.operators if not isinstance(item, Sgd | Adam)]
    result, waiting = [], {item.weight: item for item in items if isinstance(item, ConvInputGrad)}
    held: dict[str, Operator] = {}
    for item in items:
        if isinstance(item, ConvWeightGrad) and item.weight in waiting:
            held[item.weight] = item
            continue
        result.append(item)
        if isinstance(item, ConvInputGrad):
            del waiting[item.weight]
            if item.weight in held:
                result.append(held.pop(item.weight))
    return result


def _chain(item: Operator, users: dict, taken: set[int], kept: set[str]) -> list[Operator]:
    """Pointwise operators that follow one another, each the only user of the result before it."""
    chain: list[Operator] = []
    if isinstance(item, ConvInputGrad) and any(size < step for size, step in zip(item.kernel, item.stride)):
        return chain  # some of its pixels are plain zeros, which no product visits
    while True:
        name = main_result((chain or [item])[-1])
        after = users[name]
        if len(after) != 1 or name in kept or not isinstance(after[0], POINTWISE) or id(after[0]) in taken:
            return chain
        if after[0].names("source").count(name) != 1:
            return chain
        chain.append(after[0])


def _sums(last: Operator, users: dict) -> tuple[Operator, ...]:
    """Normalisations that need sums of the result: forward of their input, backward of their gradient."""
    name = main_result(last)
    return tuple(
        user
        for user in users[name]
        if (isinstance(user, BatchNorm) and user.input == name)
        or (isinstance(user, BatchNormGrad) and user.gradient == name)
    )

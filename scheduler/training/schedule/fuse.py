"""Groups of operators that run in one kernel: a main operator, and pointwise ones on its results.

What a group computes on the way stays in the accumulators: only the end of its chain, and what later groups read, goes
to external memory.
"""

from collections import defaultdict
from collections.abc import Container
from dataclasses import dataclass
from itertools import takewhile

from scheduler.training.graph.base import Operator
from scheduler.training.graph.ir import TrainingGraph
from scheduler.training.graph.operators import (
    Add,
    BatchNorm,
    BatchNormGrad,
    BiasGrad,
    Conv,
    ConvInputGrad,
    ConvWeightGrad,
    Gelu,
    GeluGrad,
    MatMul,
    Silu,
    SiluGrad,
)
from scheduler.training.graph.updates import Adam, Sgd
from scheduler.training.kernels.curves import curve_of
from scheduler.training.kernels.pointwise import POINTWISE
from scheduler.training.products.unroll import Unroll

MAINS = (Conv, ConvInputGrad, MatMul, BatchNorm, BatchNormGrad, *POINTWISE)
"""Operators that may begin a chain."""
PRODUCTS = (Conv, ConvInputGrad, ConvWeightGrad, MatMul, Unroll)
"""Operators that keep the array busy."""
SLOW = (Gelu, GeluGrad, Silu, SiluGrad)
"""Pointwise operators of many passes, without curves."""


@dataclass(frozen=True)
class Group:
    """`main`, then `chain`: each takes the result before it and perhaps other tensors. `sums`: normalisations (forward
    or backward) whose sums over rows are taken of the group's result. `beside`: of a normalisation, the one whose
    result is added to its own by the first of the chain, and used by nothing else.
    """

    main: Operator
    chain: tuple[Operator, ...] = ()
    sums: tuple[Operator, ...] = ()
    beside: BatchNorm | None = None

    @property
    def result(self) -> str:
        """The tensor that is stored."""
        return main_result(self.chain[-1] if self.chain else self.main)

    @property
    def items(self) -> tuple[Operator, ...]:
        """All operators whose results the kernel computes; that of the last one is stored."""
        return (*((self.beside,) if self.beside else ()), self.main, *self.chain)


def main_result(item: Operator) -> str:
    """The tensor that an operator is there for; normalisations have further results."""
    return item.names("result")[0]


def groups(graph: TrainingGraph, *, apart: bool = False, curves: Container[str] = ()) -> list[Group]:
    """All operators but the updates, which run with their gradients, in an order in which groups can run.

    If products and other kernels run `apart`, side by side, no product waits for slow operators on its results: those
    of many passes because there is none of the `curves`.
    """
    items = [item for item in graph.operators if not isinstance(item, Sgd | Adam)]
    users: dict[str, list[Operator]] = defaultdict(list)
    for item in items:
        for name in item.names("source"):
            users[name].append(item)
    place = {id(item): number for number, item in enumerate(items)}
    taken: set[int] = set()
    kept = set(graph.outputs.values())
    normalised = {item.output: item for item in items if isinstance(item, BatchNorm) and item.output not in kept}
    found: list[tuple[int, Group]] = []
    for item in items:
        if id(item) in taken:
            continue
        chain = _chain(item, users, taken, kept) if isinstance(item, MAINS) else []
        if apart and isinstance(item, PRODUCTS):
            chain = list(takewhile(lambda link: not isinstance(link, SLOW) or curve_of(link) in curves, chain))
        beside = _beside(item, chain, users, normalised) if apart else None
        taken |= {id(link) for link in (item, *chain, beside)}
        last = (chain or [item])[-1]
        found.append((place[id(last)], Group(item, tuple(chain), _sums(last, users), beside)))
    after = {group.main.weight: number for number, group in found if isinstance(group.main, ConvInputGrad)}
    return [group for _, group in sorted(found, key=lambda pair: _rank(*pair, after))]


def _rank(number: int, group: Group, after: dict[str, int]) -> float:
    """Place of a group; that of a weight's gradient is behind the input gradient, which needs the weight as it was, and
    behind the next one, so that nothing on the way there waits for an update.
    """
    if isinstance(group.main, ConvWeightGrad):
        number = max(number, after.get(group.main.weight, number))
        return min((place for place in after.values() if place > number), default=number) + 0.5
    return number


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


def _beside(item: Operator, chain: list[Operator], users: dict, normalised: dict[str, BatchNorm]) -> BatchNorm | None:
    """The normalisation that a normalisation's result is added to, if nothing else uses that one's result."""
    if not isinstance(item, BatchNorm) or not chain or not isinstance(chain[0], Add):
        return None
    add = chain[0]
    other = normalised.get(add.right if add.left == item.output else add.left)
    return other if other is not None and users[other.output] == [add] else None


def _sums(last: Operator, users: dict) -> tuple[Operator, ...]:
    """Normalisations that need sums of the result: forward of their input, backward of their gradient."""
    name = main_result(last)
    return tuple(
        user
        for user in users[name]
        if (isinstance(user, BatchNorm) and user.input == name)
        or (isinstance(user, BatchNormGrad | BiasGrad) and user.gradient == name)
    )

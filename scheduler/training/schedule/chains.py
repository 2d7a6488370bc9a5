"""Which products of the array must follow one another, and when they may begin."""

from collections.abc import Iterable

from hwgen.arch.isa import Dataflow, Opcode, Walk
from scheduler.hazards import Recorder

Counts = tuple[int, int]
"""Products that are not weight gradients, and those that are."""
NOTHING = (0, 0)


class Chains:
    """TENSOR instructions that continue the sums that the one before keeps in the array: nothing may come between them.

    Once a chain has begun, the engine does nothing else until it ends. So that this can't block, a chain begins only
    when all products are placed that were recorded before the last product that anything in the chain depends on.
    Weight gradients and all other products are counted each for themselves: they have scratchpad words of their own
    (`Rings`), and so one kind need not wait for what was recorded of the other.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.after: dict[int, int] = {}
        """Position in a chain -> the next one."""
        self.members: set[int] = set()
        """All positions in chains but the first."""
        self.needed: dict[int, Counts] = {}
        """First position of a chain -> how many products, in recorded order, must be placed before it."""
        self.numbers: dict[int, Counts] = {}
        """Position of a product -> how many products of its kind there are up to it."""
        self._find(recorder)

    def _find(self, recorder: Recorder) -> None:
        """One pass: `reach` is how many products an instruction depends on, or are up to it if it is one; `outside` is
        the same for what is recorded in a chain, without the products of the chain.
        """
        reach: list[Counts] = []
        counts, head, before, outside = NOTHING, -1, -1, {}
        for position, (item, found) in enumerate(zip(recorder.commands, recorder.dependencies, strict=True)):
            above = _most(reach[earlier] for earlier in found)
            reach.append(above)
            if head >= 0:
                above = _most(outside.get(earlier, reach[earlier]) for earlier in found)
                outside[position] = above
            if item.opcode is not Opcode.TENSOR:
                continue
            gradient = item.walk == Walk.WGT
            counts = counts[0] + (not gradient), counts[1] + gradient
            own = (0, counts[1]) if gradient else (counts[0], 0)
            self.numbers[position], reach[position] = own, _most((own, reach[position]))
            if item.first and not item.last:
                head, outside = position, {}
            elif not item.first and item.dataflow == Dataflow.OUTPUT_STATIONARY:
                self.after[before] = position
                self.members.add(position)
            if head >= 0:
                outside[position] = above
                self.needed[head] = _most((self.needed.get(head, NOTHING), above))
            if item.last:
                head, outside = -1, {}
            before = position


def _most(counts: Iterable[Counts]) -> Counts:
    """The larger of each count."""
    first = second = 0
    for one, other in counts:
        if one > first:
            first = one
        if other > second:
            second = other
    return first, second


class Placed:
    """How many products of each kind have been placed, in recorded order and without a gap."""

    def __init__(self, chains: Chains) -> None:
        self._numbers = chains.numbers
        self._counts = [0, 0]
        self._ahead: set[Counts] = set()

    def place(self, position: int) -> None:
        """A product has been placed."""
        number = self._numbers[position]
        kind, counts = int(number[0] == 0), self._counts
        self._ahead.add(number)
        while (following := (0, counts[1] + 1) if kind else (counts[0] + 1, 0)) in self._ahead:
            self._ahead.remove(following)
            counts[kind] += 1

    def reach(self, needed: Counts) -> bool:
        """Whether as many are placed as a chain needs."""
        return needed[0] <= self._counts[0] and needed[1] <= self._counts[1]

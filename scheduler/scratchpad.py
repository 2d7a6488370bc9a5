"""Who owns which scratchpad words while a program is emitted."""

from collections import OrderedDict
from collections.abc import Callable, Hashable

from hwgen.arch import Arch
from scheduler.hazards import Region
from scheduler.state import Layer, Plan


class Ring:
    """Hands out stretches of a scratchpad one after the other, from the beginning again when the end is reached.

    The next layer thus gets other words than the last one as long as there is room, and can load ahead.
    """

    def __init__(self, depth: int, align: int = 1, base: int = 0) -> None:
        self.depth = depth
        self.align = align
        self.base = base
        self.next = 0

    def take(self, words: int) -> int:
        """First word of a stretch of `words`, which must not exceed the depth."""
        start = -(-self.next // self.align) * self.align
        if start + words > self.depth:
            start = 0
        self.next = start + words
        return self.base + start


class Held:
    """What a ring still holds of what one kernel loads: what was taken last, up to half of its depth.

    The other half is for what is loaded ahead, by this kernel or the next one.
    """

    def __init__(self, ring: Ring) -> None:
        self._limit, self._taken = ring.depth // 2, 0
        self._found: dict[Hashable, tuple[Region, int]] = {}

    def get(self, content: Hashable, load: Callable[[], Region]) -> Region:
        """Where `content` is; `load` takes a stretch of the ring for it and fills it, if it is not there."""
        region, end = self._found.get(content, (None, 0))
        if region is None or self._taken - end + region.stop - region.start > self._limit:
            region = load()
            self._taken += region.stop - region.start
            self._found[content] = region, self._taken
        return region


class Pool:
    """Slots of equal size; a new content goes to the slot that was used longest ago."""

    def __init__(self, base: int, slot_words: int, slots: int) -> None:
        self._slots: OrderedDict[Hashable, int] = OrderedDict(
            ((None, slot), base + slot * slot_words) for slot in range(slots)
        )

    def get(self, content: Hashable) -> tuple[int, bool]:
        """Address of the slot for `content`, and whether it holds it already (if not, the caller must load it)."""
        held = content in self._slots
        if held:
            self._slots.move_to_end(content)
        else:
            _, address = self._slots.popitem(last=False)
            self._slots[content] = address
        return self._slots[content], held


class Accumulators:
    """The accumulator scratchpad, in four equal areas, so that engines rarely meet in a bank.

    Area 0 holds results of even tiles, area 2 of odd ones; areas 3 and 1 hold what the vector engine adds to them,
    which is in another bank for any number of banks. While one tile is computed into one area, the vector engine
    reads both operands of the tile before from different banks.
    Two results of an area have a half each, and with eight banks a bank each: the array writes one of them while the
    vector engine and STORE may still be at the other.
    """

    def __init__(self, arch: Arch) -> None:
        self._area = area = arch.scratchpads.acc_depth // 4
        self._results = (0, area // 2), (2 * area, 2 * area + area // 2)
        self._sides = Ring(area, base=3 * area), Ring(area, base=area)

    def begin(self, plan: Plan, layer: Layer) -> None:
        """Give words to a layer. What its steps add lies behind that of the layer before, so that it can be loaded
        while that one is under way: a load that waits holds up all that LOAD does after it.
        """
        self.plan = plan
        adds = any(step.kind == "add" for step in layer.steps)
        biased = any(step.kind == "bias" for step in layer.steps)
        bias_words = plan.tile_cols if biased else 0
        slots = min(2, (self._area - bias_words) // plan.out_words) if adds else 0
        left = self._area - slots * plan.out_words
        biases = min(plan.col_tiles, left // plan.tile_cols) if biased else 0
        starts = [side.take(slots * plan.out_words + biases * plan.tile_cols) for side in self._sides]
        self.addends = tuple(Pool(start, plan.out_words, slots) for start in starts)
        self.biases = tuple(Pool(start + slots * plan.out_words, plan.tile_cols, biases) for start in starts)

    def result(self, number: int) -> tuple[int, int]:
        """First word of the result of tile `number`, and the half (0 or 1) that what is added to it is in."""
        slot = number % self.plan.out_slots
        return self._results[slot % 2][slot // 2], slot % 2

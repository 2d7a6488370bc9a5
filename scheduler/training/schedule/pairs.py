"""Products that are recorded in turns, so that one has the array while the other waits for memory."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from scheduler.training.graph.operators import Conv
from scheduler.training.kernels.stages import conv_parts, unroll_parts
from scheduler.training.lower import Step
from scheduler.training.products.unroll import Unroll
from scheduler.training.products.windows import Progress, WindowProduct, forward_window
from scheduler.training.schedule.effort import array_cycles, store_words
from scheduler.training.schedule.fuse import Group

WORTH = 0.05
"""Least share of the cycles of two products that doing them in turns must save."""
UNROLL_PART = 8
"""The part of the activation scratchpad that an unrolling gets; the product that follows it reads rows again."""


def pairs(step: Step, groups: Sequence[Group]) -> dict[int, int]:
    """Which product, by number, is recorded with which later one.

    An unrolling runs with the product that it is for. A product whose input is there early, as that of a shortcut,
    runs with the one before it that saves most cycles: results of the one are stored under products of the other.
    """
    if not (step.options.overlap and step.em.apart and step.options.pregenerate):
        return {}
    found: dict[int, int] = {}
    written = {group.result: number for number, group in enumerate(groups)}
    for number, group in enumerate(groups):
        if not _simple(step, group):
            continue
        before = written.get(group.main.input, number)
        if isinstance(groups[before].main, Unroll):
            if before not in found and _fit(step, groups[before], group):
                found[before] = number
            continue
        others = [
            other
            for other in range(before + 1, number)
            if other not in found and _simple(step, groups[other]) and _fit(step, groups[other], group)
        ]
        saved = {other: _saved(step, groups[other], group) for other in others}
        best = max(saved, key=saved.__getitem__, default=number)
        if saved.get(best, 0) > 0:
            found[best] = number
    return found


def _simple(step: Step, group: Group) -> bool:
    """Whether a group is a convolution of feature maps with nothing but sums behind it."""
    if not isinstance(group.main, Conv) or group.chain:
        return False
    place = step.features[group.main.input]
    return (place.h, place.w) != (1, 1)


def _saved(step: Step, first: Group, second: Group) -> int:
    """Cycles that two products save in turns, by estimates; 0 if they are few."""
    array = [array_cycles(step, group) for group in (first, second)]
    store = [store_words(step, group) for group in (first, second)]
    apart = sum(map(max, array, store))
    saved = apart - max(sum(array), sum(store))
    return saved if saved > WORTH * apart else 0


def _apart(step: Step, first: Group) -> list[Step]:
    """The step with parts of the scratchpads, for each of two products."""
    parts = UNROLL_PART if isinstance(first.main, Unroll) else 2
    return [replace(step, rings=rings) for rings in step.rings.split(parts)]


def _fit(step: Step, first: Group, second: Group) -> bool:
    """Whether two products have room in their parts of the scratchpads."""
    products = [_product(part, group) for part, group in zip(_apart(step, first), (first, second), strict=True)]
    images = [step.weights[group.main.weight].forward for group in (first, second) if isinstance(group.main, Conv)]
    rows = all(product.area <= product.rings.act.depth for product in products)
    return rows and all(image.slots <= products[0].rings.wgt.depth for image in images)


def emit_pair(step: Step, first: Group, second: Group) -> None:
    """Record two products in turns."""
    step.em.begin_kernel()
    unrolls, steps = isinstance(first.main, Unroll), _apart(step, first)
    parts = unroll_parts if unrolls else conv_parts
    in_turns(parts(steps[0], first), conv_parts(steps[1], second), follows=unrolls)


def _product(step: Step, group: Group) -> WindowProduct:
    """The product of a convolution, or of an unrolling, in the scratchpads of a step."""
    main, places = group.main, step.features
    window = forward_window(main.kernel, main.stride, main.padding, places[main.output])
    return WindowProduct(step.em, step.rings, places[main.input], places[main.output], window)


def in_turns(first: Iterator[Progress], second: Iterator[Progress], *, follows: bool) -> None:
    """Record tiles of both so that the shares that have been are equal, or, if the second one `follows` the first, that
    it finds the rows that it needs.
    """
    reached = 0.0
    for progress in second:
        while reached < (progress.needs if follows else progress.share):
            state = next(first, None)
            reached = 1.0 if state is None else state.made if follows else state.share
    for _ in first:
        pass

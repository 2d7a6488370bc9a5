"""In which order kernels are recorded, so that the array and the vector engine both have work.

Products and other kernels run side by side (`Emitter.choose_banks`), but each engine takes, of what is ready, what was
recorded first. So kernels are list-scheduled too, by estimates of their cycles: what the longest chain waits for comes
first, weight gradients fill the gaps. Forward kernels over plain rows run once for each half of the batch, the second
half some way behind the first, so that one half's products go with the other half's normalisations. This is for
transformers; networks of convolutions stay in the graph's order.
"""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from scheduler.training.graph.ir import Kind
from scheduler.training.graph.operators import BatchNormGrad, Conv, CrossEntropy, LayerNorm, MatMul, Mse, Softmax
from scheduler.training.kernels.pointwise import POINTWISE
from scheduler.training.lower import Step
from scheduler.training.places import PIXELS
from scheduler.training.schedule.effort import array_cycles, memory_cycles, vector_cycles
from scheduler.training.schedule.fuse import Group

Images = tuple[int, int]
"""First image and number of images."""
ROW_BY_ROW = (Conv, MatMul, LayerNorm, Softmax, *POINTWISE)
"""Operators that a part of the batch may have for itself, if their tensors are plain rows."""
DELAYS = 4
"""How many distances between the halves are tried: multiples of 1 / 64 of the longest chain."""


@dataclass(frozen=True)
class Task:
    """A kernel, for some images or (None) for all, and its estimated cycles."""

    group: Group
    images: Images | None
    array: int
    vector: int
    memory: int
    needs: frozenset[int]
    """Tasks that must come before, by number."""

    @property
    def span(self) -> int:
        """Cycles from its start to its end if nothing holds it up."""
        return max(self.array, self.vector, self.memory)


def kernel_order(step: Step, groups: Sequence[Group]) -> list[Task]:
    """Tasks in the order in which they are recorded.

    That is the order of `groups`, if engines or kernels don't run side by side, or if kernels that run for halves of
    the batch are less than an eighth of the work: convolutions keep the array busy in either order.
    """
    if not step.options.overlap:
        return tasks(step, groups, 1)
    whole, halves = tasks(step, groups, 1), tasks(step, groups, 2)
    if not step.em.apart or 8 * sum(task.span for task in halves if task.images) < sum(task.span for task in whole):
        return whole
    longest = max(_remaining(halves))
    found = [schedule(halves, longest * number // 64) for number in range(DELAYS)]
    return min([schedule(whole, 0), *found], key=lambda pair: pair[0])[1]


def tasks(step: Step, groups: Sequence[Group], parts: int) -> list[Task]:
    """A task for each group, or, for forward groups over plain rows, one for each part of the batch."""
    found: list[Task] = []
    accesses = _Accesses()
    batch = step.graph.tensors[step.graph.of_kind(Kind.INPUT)[0]].shape[0]
    forward = True
    for group in groups:
        forward = forward and not isinstance(group.main, CrossEntropy | Mse)
        cut = parts > 1 and forward and batch >= parts and _row_by_row(step, group, batch)
        for images in _cut(batch, parts) if cut else [None]:
            place = step if images is None else narrowed(step, *images)
            needs = accesses.add(len(found), _reads(group), _writes(step, group), images)
            costs = array_cycles(place, group), vector_cycles(place, group), memory_cycles(place, group)
            found.append(Task(group, images, *costs, frozenset(needs)))
    return found


def _cut(batch: int, parts: int) -> list[Images]:
    ends = [batch * number // parts for number in range(parts + 1)]
    return [(first, end - first) for first, end in itertools.pairwise(ends)]


def _row_by_row(step: Step, group: Group, batch: int) -> bool:
    """Whether a group can run for a part of the batch: its tensors are plain rows, the same number for each image."""
    items = group.items
    names = {name for item in items for name in (*item.names("source"), *item.names("result"))}
    places = [step.features[name] for name in names if name in step.features]
    rows = all(place.h == place.w == 1 and place.n % batch == 0 for place in places)
    return isinstance(group.main, ROW_BY_ROW) and not group.sums and rows


def _reads(group: Group) -> set[str]:
    """Tensors that a kernel reads."""
    items = group.items
    sums = {item.input for item in group.sums if isinstance(item, BatchNormGrad)}
    return {name for item in items for name in item.names("source", "in place")} | sums


def _writes(step: Step, group: Group) -> set[str]:
    """Tensors that a kernel writes, with parameters whose update runs in it and their states."""
    items = group.items
    results = {name for item in items for name in item.names("result")}
    rules = [step.updates[name] for name in results if name in step.updates]
    return results | {name for item in (*items, *rules) for name in item.names("in place")}


class _Accesses:
    """Who wrote and read each tensor last; parts of the batch do not touch one another's rows."""

    def __init__(self) -> None:
        self.writers: dict[str, list[tuple[int, Images | None]]] = defaultdict(list)
        self.readers: dict[str, list[tuple[int, Images | None]]] = defaultdict(list)

    def add(self, number: int, reads: set[str], writes: set[str], images: Images | None) -> set[int]:
        """Note a task; gives the tasks that must come before it."""
        needs = {task for name in reads | writes for task, other in self.writers[name] if _meet(images, other)}
        needs |= {task for name in writes for task, other in self.readers[name] if _meet(images, other)}
        for name in writes:
            self.writers[name] = [pair for pair in self.writers[name] if not _covers(images, pair[1])]
            self.readers[name] = [pair for pair in self.readers[name] if not _covers(images, pair[1])]
            self.writers[name].append((number, images))
        for name in reads:
            self.readers[name].append((number, images))
        return needs - {number}


def _meet(one: Images | None, other: Images | None) -> bool:
    return one is None or other is None or one == other


def _covers(one: Images | None, other: Images | None) -> bool:
    return one is None or one == other


def narrowed(step: Step, first: int, count: int) -> Step:
    """The step for `count` images of the batch from image `first` on: that part of all tensors of plain rows."""
    batch = step.graph.tensors[step.graph.of_kind(Kind.INPUT)[0]].shape[0]
    rows, beat = step.arch.array.rows, step.arch.beat_bytes
    features, tensors = dict(step.features), dict(step.graph.tensors)
    for name, place in step.features.items():
        if place.h == place.w == 1 and place.n % batch == 0:
            skipped, size = place.n // batch * first, place.n // batch * count
            block, shift = (0, 0) if place.span else divmod(skipped, rows)
            address, unit = place.address + skipped * place.words * beat, place.unit + block
            features[name] = replace(place, n=size, address=address, unit=unit, shift=shift)
    for name, tensor in tensors.items():
        n, *others = tensor.shape
        if tensor.kind in PIXELS and n % batch == 0:
            tensors[name] = replace(tensor, shape=(n // batch * count, *others))
    return replace(step, graph=replace(step.graph, tensors=tensors), features=features)


def schedule(items: Sequence[Task], delay: int) -> tuple[int, list[Task]]:
    """Cycles in all, and the tasks in the order of their starts; the second half of the batch is `delay` cycles behind.

    Array and vector engine each do one task at a time. A task starts when those that it needs have ended; of several
    that can start at a time, that with the longest chain behind it does.
    """
    waits = [delay if task.images and task.images[0] else 0 for task in items]
    urgency = [rest - wait for rest, wait in zip(_remaining(items), waits)]
    users: list[list[int]] = [[] for _ in items]
    for number, task in enumerate(items):
        for before in task.needs:
            users[before].append(number)
    missing, ends = [len(task.needs) for task in items], [0] * len(items)
    ready = {number: 0 for number, count in enumerate(missing) if not count}
    engines, order = _Engines(), []
    while ready:
        start, _, number = min((engines.start(items[n], when), -urgency[n], n) for n, when in ready.items())
        del ready[number]
        ends[number] = engines.run(items[number], start)
        order.append(items[number])
        for user in users[number]:
            missing[user] -= 1
            if not missing[user]:
                ready[user] = max(ends[before] for before in items[user].needs)
    return max(ends, default=0), order


class _Engines:
    """When the array and the vector engine are free."""

    def __init__(self) -> None:
        self.array = self.vector = 0

    def start(self, task: Task, ready: int) -> int:
        """First cycle in which a task can start."""
        if task.array:
            return max(ready, self.array)
        return max(ready, self.vector) if task.vector else ready

    def run(self, task: Task, start: int) -> int:
        """Start a task; gives its end."""
        if task.array:
            self.array = start + task.array
        if task.vector:
            self.vector = max(self.vector, start) + task.vector
        return max(start + task.span, self.vector if task.vector else 0)


def _remaining(items: Sequence[Task]) -> list[int]:
    """Cycles from the start of each task to the end of the longest chain that begins with it."""
    rest = [task.span for task in items]
    for number in range(len(items) - 1, -1, -1):
        for before in items[number].needs:
            rest[before] = max(rest[before], items[before].span + rest[number])
    return rest

"""Sums over pixels that kernels take for normalisations and biases, and channel vectors on chip."""

from collections.abc import Callable, Sequence

from hwgen.arch.isa import Format
from scheduler.training.graph.base import Operator
from scheduler.training.graph.operators import BatchNorm, BatchNormGrad, BiasGrad
from scheduler.training.kernels.emitter import Block
from scheduler.training.kernels.sums import RowSums, partial_rows
from scheduler.training.lower import Step
from scheduler.training.memory import Row
from scheduler.training.schedule.fuse import main_result


class Sums:
    """Sums over all pixels that normalisations and biases need of a tensor, kept while it is computed."""

    def __init__(self, step: Step, items: Sequence[Operator], words: int, kernels: int = 1) -> None:
        self.step, self.items = step, items
        parts = [(number, part) for number, item in enumerate(items) for part in range(_parts(item))]
        rows = partial_rows(step.em, kernels * len(parts), words)
        self.sums = {place: RowSums(step.em, words, rows) for place in parts}

    def collect(self, block: Block, fetch: Callable[[str], Block], first: int) -> None:
        """Add the sums of a block whose first word holds channels of word `first`."""
        for number, item in enumerate(self.items):
            self.sums[number, 0].add(block, first=first)
            if isinstance(item, BatchNorm):
                self.sums[number, 1].add(block, block, first=first)
            elif isinstance(item, BatchNormGrad):
                self.sums[number, 1].add(block, fetch(item.input), first=first)

    def finish(self) -> None:
        """Store the sums for the kernels that need them."""
        self.step.summed |= {main_result(item) for item in self.items}
        for (number, part), sums in self.sums.items():
            row = sums_row(self.step, self.items[number], part)
            self.step.em.store(sums.total(), row.address, 0, row.region, Format.FP32)


def _parts(item: Operator) -> int:
    """Sums that an operator needs: of a tensor, and for a normalisation of its products too."""
    return 1 if isinstance(item, BiasGrad) else 2


def sums_row(step: Step, item: Operator, part: int) -> Row:
    """Where a sum for `item` lies in external memory."""
    name = f"{main_result(item)} sum {part}"
    if name not in step.rows:
        step.rows[name] = step.memory.row(name, step.graph.tensors[summed_tensor(item)].shape[3], "sum")
    return step.rows[name]


def summed_tensor(item: Operator) -> str:
    """The tensor whose sums an operator needs."""
    return item.input if isinstance(item, BatchNorm) else item.gradient


def make_sums(step: Step, item: Operator) -> None:
    """Take the sums that an operator needs, if no kernel took them with its results."""
    if main_result(item) not in step.summed:
        source = step.features[summed_tensor(item)]
        sums = Sums(step, [item], source.words)
        for chunk in step.em.chunks(source, step.limit_of(source)):
            block = step.em.fetch(source, chunk)
            sums.collect(block, lambda name, chunk=chunk: step.em.fetch(step.features[name], chunk), 0)
        sums.finish()


def load_sums(step: Step, item: Operator) -> list[Block]:
    """The sums that an operator needs."""
    make_sums(step, item)
    return [load_row(step, sums_row(step, item, part)) for part in range(_parts(item))]


def load_row(step: Step, row: Row) -> Block:
    """A channel vector, kept for the kernel."""
    block = step.em.keep(1, row.words)
    return step.em.load_block(block, row.address, 0, row.region, wide=True)


def store_row(step: Step, row: Row, block: Block) -> None:
    """The inverse of `load_row`."""
    step.em.store(block, row.address, 0, row.region, Format.FP32)

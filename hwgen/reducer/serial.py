"""Ranking in the serial style: every column is an insertion sorter, a chain of cells with wires to neighbours only."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data

from hwgen.lib.shared import Shared
from hwgen.reducer.cell import SortCell
from hwgen.reducer.ranking import Rank, RankControl


class SerialSteps(data.StructLayout):
    """What all columns do in a cycle; bit k of each is for cell k.

    position : index of the value in its group. enable, first : as in `SortCell`. done : the cell holds its final key.
    """

    def __init__(self, group_max: int) -> None:
        masks = dict.fromkeys(("enable", "first", "done"), group_max)
        super().__init__({"position": (group_max - 1).bit_length()} | masks)


class SerialControl(RankControl):
    """Follows the values of groups through the cells of a chain."""

    def __init__(self, *, group_max: int) -> None:
        super().__init__(SerialSteps(group_max), group_max=group_max)

    @staticmethod
    def latency(n: int) -> int:
        """Steps from the last value of a group to `complete`: through n cells, then the index of the last is noted."""
        return n + 1

    def elaborate(self, platform: object) -> Module:
        """Shift registers beside the cells; nothing goes to those behind the first `n`."""
        m = Module()
        cells = self._group_max
        valid, first, last, done = Signal(cells), Signal(cells), Signal(cells), Signal(cells)
        later_valid, later_first, later_last = Signal(cells - 1), Signal(cells - 1), Signal(cells - 1)
        used = Cat(self.n > cell for cell in range(cells))
        final = Cat(self.n == cell + 1 for cell in range(cells))
        m.d.comb += [
            valid.eq(Cat(self.take, later_valid)),
            first.eq(Cat(self.first, later_first)),
            last.eq(Cat(self.last, later_last)),
            self.steps.position.eq(self.position),
            self.steps.enable.eq(Mux(self.step, valid, 0)),
            self.steps.first.eq(first),
            self.steps.done.eq(Mux(self.step, done, 0)),
        ]
        with m.If(self.step):
            m.d.sync += [
                later_valid.eq(valid & used[1:]),
                later_first.eq(first),
                later_last.eq(last),
                done.eq(valid & last),
                self.complete.eq((done & final).any()),
            ]
        return m


class SerialRank(Rank):
    """The sorter of one column; notes the indices of the first `n` cells, one after another."""

    def __init__(self, *, group_max: int) -> None:
        super().__init__(SerialSteps(group_max), group_max=group_max)

    def elaborate(self, platform: object) -> Module:
        """The chain, and a bit map that is written index by index; cell 0 is the first of a group to be done."""
        m = Module()
        index_bits = (self._group_max - 1).bit_length()
        key, indices, steps = Cat(~self.steps.position, self.magnitude, 1), [], self.steps
        for number in range(self._group_max):
            m.submodules[f"cell_{number}"] = cell = Shared(SortCell, index_bits=index_bits)
            m.d.comb += [cell.enable.eq(steps.enable[number]), cell.first.eq(steps.first[number])]
            m.d.comb += cell.i.eq(key)
            key = cell.o
            indices.append(Mux(steps.done[number], cell.index, 0))
        index = Signal(index_bits)
        m.d.comb += index.eq(_any(indices))
        with m.If(steps.done.any()):
            m.d.sync += self.kept.eq(Mux(steps.done[0], 0, self.kept) | (1 << index))
        return m


def _any(values: list) -> object:
    """All values or-ed, as a tree."""
    while len(values) > 1:
        values = [left | right for left, right in zip(values[::2], values[1::2])]
    return values[0]

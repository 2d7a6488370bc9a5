"""Ranking in the serial style: every column is an insertion sorter, a chain of cells with wires to neighbours only."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwgen.lib.shared import Shared
from hwgen.reducer.cell import MAGNITUDE_BITS, SortCell


class SerialSteps(data.StructLayout):
    """What all columns do in a cycle; bit k of each is for cell k.

    position : index of the value in its group. enable, first : as in `SortCell`. done : the cell holds its final key.
    """

    def __init__(self, group_max: int) -> None:
        masks = dict.fromkeys(("enable", "first", "done"), group_max)
        super().__init__({"position": (group_max - 1).bit_length()} | masks)


class SerialControl(wiring.Component):
    """Follows the values of groups through the cells of a chain.

    Timing
    ------
    `complete` rises `latency(n)` steps after the last value of a group was taken.

    Parameters
    ----------
    group_max : int

    Members
    -------
    step : In(1)      Everything moves on; nothing does in other cycles.
    take : In(1)      A value enters; only with `step`.
    first, last : In(1), position : In(range(group_max))   Of that value.
    n : In(5), m : In(5)    Of all groups inside.
    steps : Out(SerialSteps)
    complete : Out(1)  The columns know what stays of a group; it must be taken from them in the next step.
    """

    def __init__(self, *, group_max: int) -> None:
        self._group_max = group_max
        self._steps = SerialSteps(group_max)
        super().__init__(
            {
                "step": In(1),
                "take": In(1),
                "first": In(1),
                "last": In(1),
                "position": In((group_max - 1).bit_length()),
                "n": In(5),
                "m": In(5),
                "steps": Out(self._steps),
                "complete": Out(1),
            }
        )

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


class SerialRank(wiring.Component):
    """The sorter of one column; notes the indices of the first `n` cells, one after another.

    Timing
    ------
    One value a step; `kept` is that of a group in the cycles with `SerialControl.complete`.

    Parameters
    ----------
    group_max : int

    Members
    -------
    steps : In(SerialSteps)
    magnitude : In(15)
    kept : Out(group_max)   Bit i: value i of the group stays.
    """

    def __init__(self, *, group_max: int) -> None:
        self._group_max = group_max
        self._index_bits = (group_max - 1).bit_length()
        super().__init__({"steps": In(SerialSteps(group_max)), "magnitude": In(MAGNITUDE_BITS), "kept": Out(group_max)})

    def elaborate(self, platform: object) -> Module:
        """The chain, and a bit map that is written index by index; cell 0 is the first of a group to be done."""
        m = Module()
        key, indices, steps = Cat(~self.steps.position, self.magnitude, 1), [], self.steps
        for number in range(self._group_max):
            m.submodules[f"cell_{number}"] = cell = Shared(SortCell, index_bits=self._index_bits)
            m.d.comb += [cell.enable.eq(steps.enable[number]), cell.first.eq(steps.first[number])]
            m.d.comb += cell.i.eq(key)
            key = cell.o
            indices.append(Mux(steps.done[number], cell.index, 0))
        index = Signal(self._index_bits)
        m.d.comb += index.eq(_any(indices))
        with m.If(steps.done.any()):
            m.d.sync += self.kept.eq(Mux(steps.done[0], 0, self.kept) | (1 << index))
        return m


def _any(values: list) -> object:
    """All values or-ed, as a tree."""
    while len(values) > 1:
        values = [left | right for left, right in zip(values[::2], values[1::2])]
    return values[0]

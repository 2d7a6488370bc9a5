"""One column of the reducer: ranks the values of a group, then gives those that stay in the order of their index."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch import INDEX_BITS
from hwgen.lib.shared import Shared
from hwgen.reducer.cell import MAGNITUDE_BITS
from hwgen.reducer.parallel import ParallelControl, ParallelRank, ParallelSteps
from hwgen.reducer.serial import SerialControl, SerialRank, SerialSteps

STYLES = {
    "serial": (SerialControl, SerialRank, SerialSteps),
    "parallel": (ParallelControl, ParallelRank, ParallelSteps),
}
"""Of each `arch.reducer.style`: control, ranking, and what the one tells the other; all else is the same."""
PAGES = 4
"""Groups whose values are kept: one gives its slots, one is ranked, one has come meanwhile, one begins."""


class ReducerColumn(wiring.Component):
    """Ranking, a memory of values, and a picker of slots.

    Timing
    ------
    One value a cycle in. `value` and `index` are registers that follow `pick` by 1 cycle.

    Parameters
    ----------
    style : str       Of `arch.reducer`.
    group_max : int

    Members
    -------
    i : In(16)        Value; its place in the ranking is in `steps`.
    write : In(1), write_page : In(2), position : In(range(group_max))   The value enters, and is kept there.
    steps : In(SerialSteps or ParallelSteps)
    load : In(1)      The group that has been ranked is the one to pick from.
    pick : In(1), pick_page : In(2)   Show the next slot of that group, whose values are in this page.
    value : Out(16), index : Out(4)   The slot; +0 with index 0 when nothing is left.
    """

    def __init__(self, *, style: str, group_max: int) -> None:
        _, self._rank, steps = STYLES[style]
        self._group_max, self._index_bits = group_max, (group_max - 1).bit_length()
        super().__init__(
            {
                "i": In(16),
                "write": In(1),
                "write_page": In(range(PAGES)),
                "position": In(self._index_bits),
                "steps": In(steps(group_max)),
                "load": In(1),
                "pick": In(1),
                "pick_page": In(range(PAGES)),
                "value": Out(16),
                "index": Out(INDEX_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """The lowest bit of what is left to pick is the next index."""
        m = Module()
        m.submodules.rank = rank = Shared(self._rank, group_max=self._group_max)
        m.submodules.values = values = memory.Memory(shape=16, depth=PAGES * self._group_max, init=[])
        write, read = values.write_port(), values.read_port(domain="comb")
        left, index = Signal(self._group_max), Signal(self._index_bits)
        m.d.comb += [
            rank.steps.eq(self.steps),
            rank.magnitude.eq(self.i[:MAGNITUDE_BITS]),
            write.en.eq(self.write),
            write.addr.eq(self.position + self._group_max * self.write_page),
            write.data.eq(self.i),
            read.addr.eq(index + self._group_max * self.pick_page),
        ]
        for place in reversed(range(self._group_max)):
            with m.If(left[place]):
                m.d.comb += index.eq(place)
        with m.If(self.pick):
            m.d.sync += [
                self.value.eq(Mux(left.any(), read.data, 0)),
                self.index.eq(index),
                left.eq(left & (left - 1)),
            ]
        with m.If(self.load):
            m.d.sync += left.eq(rank.kept)
        return m

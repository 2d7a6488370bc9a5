"""Ranking in the parallel style: every value is compared with all earlier ones of its group at once."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data

from hwgen.reducer.cell import MAGNITUDE_BITS
from hwgen.reducer.ranking import Rank, RankControl


class ParallelSteps(data.StructLayout):
    """What all columns do in a cycle; bit i of each mask is for value i of the group.

    enter : the value that enters. earlier : values that are there. member : values of a whole group. n : how many stay.
    """

    def __init__(self, group_max: int) -> None:
        super().__init__(dict.fromkeys(("enter", "earlier", "member"), group_max) | {"n": 5})


class ParallelControl(RankControl):
    """Counts the values of a group."""

    def __init__(self, *, group_max: int) -> None:
        super().__init__(ParallelSteps(group_max), group_max=group_max)

    @staticmethod
    def latency(n: int) -> int:
        """Steps from the last value of a group to `complete`."""
        return 1

    def elaborate(self, platform: object) -> Module:
        """Masks from the position."""
        m = Module()
        places = range(self._group_max)
        m.d.comb += [
            self.steps.enter.eq(Mux(self.take, 1 << self.position, 0)),
            self.steps.earlier.eq(Cat(self.position > place for place in places)),
            self.steps.member.eq(Cat(self.m > place for place in places)),
            self.steps.n.eq(self.n),
        ]
        with m.If(self.step):
            m.d.sync += self.complete.eq(self.take & self.last)
        return m


class ParallelRank(Rank):
    """Magnitudes of a group, and the rank of each: how many others come before it."""

    def __init__(self, *, group_max: int) -> None:
        super().__init__(ParallelSteps(group_max), group_max=group_max)

    def elaborate(self, platform: object) -> Module:
        """A comparator for each value; equal ones stay behind those that were there."""
        m = Module()
        steps, before, kept = self.steps, [], []
        rank = Signal(range(self._group_max), name="rank")
        for place in range(self._group_max):
            magnitude = Signal(MAGNITUDE_BITS, name=f"magnitude_{place}", reset_less=True)
            own_rank = Signal.like(rank, name=f"rank_{place}", reset_less=True)
            larger = self.magnitude > magnitude
            with m.If(steps.enter[place]):
                m.d.sync += [magnitude.eq(self.magnitude), own_rank.eq(rank)]
            with m.Elif(steps.enter.any() & steps.earlier[place] & larger):
                m.d.sync += own_rank.eq(own_rank + 1)
            before.append(steps.earlier[place] & ~larger)
            kept.append(steps.member[place] & (own_rank < steps.n))
        m.d.comb += [rank.eq(sum(before)), self.kept.eq(Cat(kept))]
        return m

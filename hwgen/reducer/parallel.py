"""Ranking in the parallel style: every value is compared with all earlier ones of its group at once."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwgen.reducer.cell import MAGNITUDE_BITS


class ParallelSteps(data.StructLayout):
    """What all columns do in a cycle; bit i of each mask is for value i of the group.

    enter : the value that enters. earlier : values that are there. member : values of a whole group. n : how many stay.
    """

    def __init__(self, group_max: int) -> None:
        super().__init__(dict.fromkeys(("enter", "earlier", "member"), group_max) | {"n": 5})


class ParallelControl(wiring.Component):
    """Counts the values of a group.

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
    steps : Out(ParallelSteps)
    complete : Out(1)  The columns know what stays of a group; it must be taken from them in the next step.
    """

    def __init__(self, *, group_max: int) -> None:
        self._group_max = group_max
        super().__init__(
            {
                "step": In(1),
                "take": In(1),
                "first": In(1),
                "last": In(1),
                "position": In((group_max - 1).bit_length()),
                "n": In(5),
                "m": In(5),
                "steps": Out(ParallelSteps(group_max)),
                "complete": Out(1),
            }
        )

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


class ParallelRank(wiring.Component):
    """Magnitudes of one column's group, and the rank of each: how many others come before it.

    Timing
    ------
    One value a step; `kept` is that of a group in the cycles with `ParallelControl.complete`.

    Parameters
    ----------
    group_max : int

    Members
    -------
    steps : In(ParallelSteps)
    magnitude : In(15)
    kept : Out(group_max)   Bit i: value i of the group stays.
    """

    def __init__(self, *, group_max: int) -> None:
        self._group_max = group_max
        super().__init__(
            {"steps": In(ParallelSteps(group_max)), "magnitude": In(MAGNITUDE_BITS), "kept": Out(group_max)}
        )

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

"""What the styles of ranking have in common: the ports of the control, and those of a column's ranking."""

from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwgen.reducer.cell import MAGNITUDE_BITS


class RankControl(wiring.Component):
    """Tells the columns which value of a group comes in a step, and says when a group has been ranked.

    Timing
    ------
    `complete` rises `latency(n)` steps after the last value of a group was taken.

    Parameters
    ----------
    steps : Layout     What all columns do in a step.
    group_max : int

    Members
    -------
    step : In(1)      Everything moves on; nothing does in other cycles.
    take : In(1)      A value enters; only with `step`.
    first, last : In(1), position : In(range(group_max))   Of that value.
    n : In(5), m : In(5)    Of all groups inside.
    steps : Out(steps)
    complete : Out(1)  The columns know what stays of a group; it must be taken from them in the next step.
    """

    def __init__(self, steps: data.Layout, *, group_max: int) -> None:
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
                "steps": Out(steps),
                "complete": Out(1),
            }
        )


class Rank(wiring.Component):
    """Ranks the magnitudes of one column's group.

    Timing
    ------
    One value a step; `kept` is that of a group in the cycles with `RankControl.complete`.

    Parameters
    ----------
    steps : Layout     As of `RankControl`.
    group_max : int

    Members
    -------
    steps : In(steps)
    magnitude : In(15)
    kept : Out(group_max)   Bit i: value i of the group stays.
    """

    def __init__(self, steps: data.Layout, *, group_max: int) -> None:
        self._group_max = group_max
        super().__init__({"steps": In(steps), "magnitude": In(MAGNITUDE_BITS), "kept": Out(group_max)})

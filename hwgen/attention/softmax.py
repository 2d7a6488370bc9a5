"""Softmax of rows: e of every score, their sum, its reciprocal and the confidence test."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import SUM_BITS, AttentionSizes
from hwgen.attention.exponential import ExponentialLane, scale_parts
from hwgen.attention.reciprocal import Reciprocal
from hwgen.attention.words import LaneExponentials, LaneScores, RowSum, SoftmaxCommand
from hwgen.lib.pipeline import delay
from hwgen.lib.shared import Shared


class Softmax(wiring.Component):
    """e = 2^-t of the scores of a row, `softmax_lanes` a cycle, and what the row sums up to.

    Rows follow one another without a gap; the parts of the command may change with the first word of a row. Memories on
    both sides take a word whenever there is one, so nothing waits.

    Timing
    ------
    A word of e leaves `LATENCY` cycles after its scores came, the sum of a row `result_latency` cycles after its last
    word. A word a cycle. No stall.

    Parameters
    ----------
    sizes : AttentionSizes

    Members
    -------
    command : In(SoftmaxCommand)   Of the word that is valid.
    i : In(LaneScores), i_valid : In(1)
    o : Out(LaneExponentials), o_valid : Out(1)
    result : Out(RowSum), result_valid : Out(1)
    """

    LATENCY = ExponentialLane.LATENCY

    def __init__(self, sizes: AttentionSizes) -> None:
        self._lanes = sizes.softmax_lanes
        super().__init__(
            {
                "command": In(SoftmaxCommand()),
                "i": In(LaneScores(sizes)),
                "i_valid": In(1),
                "o": Out(LaneExponentials(sizes)),
                "o_valid": Out(1),
                "result": Out(RowSum()),
                "result_valid": Out(1),
            }
        )

    @property
    def tree_latency(self) -> int:
        """Cycles from a word of e to its sum: a register behind every two levels of adders."""
        return ((self._lanes - 1).bit_length() + 1) // 2

    @property
    def result_latency(self) -> int:
        """Cycles from the last word of a row to its result."""
        return self.LATENCY + self.tree_latency + 1 + Reciprocal.LATENCY

    def elaborate(self, platform: object) -> Module:
        """The scale beside the lanes; behind them tree, accumulator, divider."""
        m = Module()
        dropped, shift = scale_parts(m, self.command.exponent)
        dropped = delay(m, dropped, ExponentialLane.DROPPED_AFTER, "dropped")
        mantissa = delay(m, self.command.mantissa, ExponentialLane.MANTISSA_AFTER, "mantissa")
        shift = delay(m, shift, ExponentialLane.SHIFT_AFTER, "shift")
        for number in range(self._lanes):
            m.submodules[f"lane_{number}"] = lane = Shared(ExponentialLane)
            m.d.comb += [
                lane.score.eq(self.i.scores[number]),
                lane.seen.eq(self.i.seen[number]),
                lane.maximum.eq(self.command.maximum),
                lane.dropped.eq(dropped),
                lane.mantissa.eq(mantissa),
                lane.shift.eq(shift),
                self.o.e[number].eq(lane.o),
            ]
        m.d.comb += [
            self.o_valid.eq(delay(m, self.i_valid, self.LATENCY, "valid", reset=True)),
            self.o.last.eq(delay(m, self.i.last, self.LATENCY, "last")),
        ]
        self._results(m)
        return m

    def _results(self, m: Module) -> None:
        """Sum of a row, then its reciprocal."""
        summed = self.LATENCY + self.tree_latency
        word = self._tree(m, [self.o.e[number] for number in range(self._lanes)])
        valid = delay(m, self.o_valid, self.tree_latency, "summed", reset=True)
        last = delay(m, self.o.last, self.tree_latency, "summed_last")
        before, limit = delay(m, self.command.before, summed, "before"), delay(m, self.command.limit, summed, "limit")
        total, later_limit = Signal(SUM_BITS, reset_less=True), Signal(SUM_BITS, reset_less=True)
        first, done = Signal(init=1), Signal()
        m.d.sync += done.eq(valid & last)
        with m.If(valid):
            m.d.sync += [total.eq(Mux(first, before, total) + word), first.eq(last), later_limit.eq(limit)]

        m.submodules.reciprocal = reciprocal = Reciprocal()
        later = Reciprocal.LATENCY
        m.d.comb += [
            reciprocal.total.eq(total),
            self.result.r.eq(reciprocal.r),
            self.result.n.eq(reciprocal.n),
            self.result.total.eq(delay(m, total, later, "total")),
            self.result.confident.eq(delay(m, total <= later_limit, later, "confident")),
            self.result_valid.eq(delay(m, done, later, "result_valid", reset=True)),
        ]

    def _tree(self, m: Module, values: list[Value]) -> Value:
        """Sum of `values`, `tree_latency` cycles later."""
        level = 0
        while len(values) > 1:
            values = [left + right for left, right in zip(values[::2], values[1::2])]
            level += 1
            if level % 2 == 0 or len(values) == 1:
                values = [delay(m, value, 1, f"sum_{level}_{place}") for place, value in enumerate(values)]
        return values[0]

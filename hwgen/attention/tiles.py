"""Rows of several tiles: maximum and sum of the tiles before, and what a larger maximum makes of their sums."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import EXP_BITS, SCALE_BITS, SCORE_BITS, SUM_BITS
from hwgen.attention.exponential import ExponentialLane, scale_parts
from hwgen.lib.shared import Shared

MOST_ROWS = 16
"""Tiles whose sums may be under way; each has a slot."""


class Growth(data.StructLayout):
    """grown : the maximum is larger than before. factor : e of the old one, by which sums are multiplied then."""

    def __init__(self) -> None:
        super().__init__({"grown": 1, "factor": EXP_BITS})


class RunningRow(wiring.Component):
    """Keeps maximum and sum of e of the row at hand, tile by tile.

    Timing
    ------
    `ready` comes `LATENCY` cycles after the sum of the tile before, if the next one waits, and for the first tile of a
    row at once.

    Members
    -------
    tile_valid : In(1), first : In(1), tile_maximum : In(signed(SCORE_BITS))    The tile that is next.
    mantissa : In(16), exponent : In(6)    Of its softmax.
    ready : Out(1)         What follows is known.
    maximum : Out(signed(SCORE_BITS)), before : Out(32), growth : Out(Growth)    Of the row up to this tile; sum of e of
        the tiles before, for this maximum.
    taken : In(1)          The tile has been sent to the softmax.
    total : In(32), total_valid : In(1)    Sum of e of the row, with every tile sent; one comes for each.
    """

    LATENCY = ExponentialLane.LATENCY + 2
    """Factor, product, sum."""

    tile_valid: In(1)
    first: In(1)
    tile_maximum: In(signed(SCORE_BITS))
    mantissa: In(SCALE_BITS)
    exponent: In(6)
    ready: Out(1)
    maximum: Out(signed(SCORE_BITS))
    before: Out(SUM_BITS)
    growth: Out(Growth())
    taken: In(1)
    total: In(SUM_BITS)
    total_valid: In(1)

    def elaborate(self, platform: object) -> Module:
        """Registers of the row | factor | product | sum, while the tile waits."""
        m = Module()
        m.submodules.lane = lane = Shared(ExponentialLane)
        highest, total = Signal(signed(SCORE_BITS), reset_less=True), Signal(SUM_BITS, reset_less=True)
        coming = Signal(range(MOST_ROWS + 1))
        cycles, dropped, shift = Signal(range(self.LATENCY + 1)), *scale_parts(m, self.exponent)
        product, shrunk = Signal(SUM_BITS + EXP_BITS, reset_less=True), Signal(SUM_BITS, reset_less=True)
        # Nothing changes while a tile waits, so the parts of the scale need not come one behind the other.
        m.d.comb += [
            *(lane.score.eq(highest), lane.maximum.eq(self.tile_maximum), lane.seen.eq(1)),
            *(lane.dropped.eq(dropped), lane.mantissa.eq(self.mantissa), lane.shift.eq(shift)),
            self.growth.grown.eq(~self.first & (self.tile_maximum > highest)),
            self.growth.factor.eq(lane.o),
            self.maximum.eq(Mux(self.first | self.growth.grown, self.tile_maximum, highest)),
            self.before.eq(Mux(self.first, 0, Mux(self.growth.grown, shrunk, total))),
            self.ready.eq(self.first | (cycles == self.LATENCY)),
        ]
        m.d.sync += [product.eq(total * lane.o), shrunk.eq((product + (1 << EXP_BITS - 1)) >> EXP_BITS)]
        m.d.sync += coming.eq(coming + self.taken - self.total_valid)
        with m.If(self.tile_valid & (coming == 0) & ~self.ready):
            m.d.sync += cycles.eq(cycles + 1)
        with m.If(self.total_valid):
            m.d.sync += total.eq(self.total)
        with m.If(self.taken):
            m.d.sync += [highest.eq(self.maximum), cycles.eq(0)]
        return m

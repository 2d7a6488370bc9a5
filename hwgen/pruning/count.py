"""Counts digits of keys: how many are at least each value, so that the k-th largest shows without adding up bins."""

from functools import reduce
from operator import and_, or_

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out


class DigitCounter(wiring.Component):
    """Cumulative histogram of one digit over a pass, `width` keys a cycle, and what the lower digits have in common.

    Each value of the digit has a population count over the lanes, so any number of lanes may hit the same one.

    Timing
    ------
    A word with `valid` is in the outputs `LATENCY` cycles later; one with `first` starts anew.

    Parameters
    ----------
    width : int        Keys a cycle.
    digit : int        Bits of a digit.
    tail : int         Bits of the lower digits.
    count_bits : int   Bits of a count.

    Members
    -------
    valid, first : In(1)
    mask : In(width)                          Lanes that count.
    digits : In(width of digit bits)
    tails : In(width of tail bits)
    at_least : Out(2**digit of count_bits)    Entry b: keys whose digit is b or more; entry 0: all keys.
    ones, some : Out(tail)                    Bits that are 1 in all keys, and in some of them.
    """

    LATENCY = 2

    def __init__(self, *, width: int, digit: int, tail: int, count_bits: int) -> None:
        self._width, self._digit, self._tail, self._count_bits = width, digit, tail, count_bits
        super().__init__(
            {
                "valid": In(1),
                "first": In(1),
                "mask": In(width),
                "digits": In(data.ArrayLayout(digit, width)),
                "tails": In(data.ArrayLayout(tail, width)),
                "at_least": Out(data.ArrayLayout(count_bits, 1 << digit)),
                "ones": Out(tail),
                "some": Out(tail),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """A register behind the lanes, then the sums."""
        m = Module()
        valid, first = Signal(), Signal()
        m.d.sync += [valid.eq(self.valid), first.eq(self.first)]
        lanes = range(self._width)
        for value in range(1 << self._digit):
            partial = Signal(range(self._width + 1), name=f"partial_{value}", reset_less=True)
            total = self.at_least[value]
            hits = [self.mask[i] & (self.digits[i] >= value) if value else self.mask[i] for i in lanes]
            m.d.sync += partial.eq(tree_sum(hits))
            with m.If(valid):
                m.d.sync += total.eq(Mux(first, 0, total) + partial)

        ones, some = Signal(self._tail, reset_less=True), Signal(self._tail, reset_less=True)
        m.d.sync += [
            ones.eq(reduce(and_, (self.tails[i] | ~self.mask[i].replicate(self._tail) for i in lanes))),
            some.eq(reduce(or_, (self.tails[i] & self.mask[i].replicate(self._tail) for i in lanes))),
        ]
        with m.If(valid):
            m.d.sync += [
                self.ones.eq(Mux(first, ones, self.ones & ones)),
                self.some.eq(Mux(first, some, self.some | some)),
            ]
        return m


def tree_sum(bits: list[Value]) -> Value:
    """How many of `bits` are set, by a tree of adders."""
    while len(bits) > 1:
        bits = [sum(bits[i + 1 : i + 2], bits[i]) for i in range(0, len(bits), 2)]
    return bits[0]

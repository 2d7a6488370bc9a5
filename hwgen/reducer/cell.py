"""One place of an insertion sorter."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

MAGNITUDE_BITS = 15
"""An operand without its sign; as an integer it is in the order of the numbers, NaN above infinity."""


class Key(data.StructLayout):
    """What a sorter sorts by, as one integer: the larger magnitude first, among equals the lower index.

    A key with `present` = 0 comes after all others.
    """

    def __init__(self, index_bits: int) -> None:
        super().__init__({"mirrored_index": index_bits, "magnitude": MAGNITUDE_BITS, "present": 1})


class SortCell(wiring.Component):
    """Holds the largest key of a group that has come by and passes the others on, a key a cycle.

    Behind k other cells it ends up with the key of rank k, counted from 0.

    Timing
    ------
    `o` follows `i` by 1 cycle with `enable`; `index` is that of the largest key up to the cycle before.

    Parameters
    ----------
    index_bits : int

    Members
    -------
    enable : In(1)   A key comes in.
    first : In(1)    It is the first of its group: what is held is forgotten.
    i : In(Key), o : Out(Key)
    index : Out(index_bits)   Of the key that is held.
    """

    def __init__(self, *, index_bits: int) -> None:
        self._key = Key(index_bits)
        super().__init__(
            {"enable": In(1), "first": In(1), "i": In(self._key), "o": Out(self._key), "index": Out(index_bits)}
        )

    def elaborate(self, platform: object) -> Module:
        """One comparator, two registers."""
        m = Module()
        held = Signal(self._key, name="held", reset_less=True)
        passed = Signal(self._key, name="passed", reset_less=True)
        replace = Signal()
        m.d.comb += [self.o.eq(passed), self.index.eq(~held.mirrored_index)]
        with m.If(self.enable):
            m.d.comb += replace.eq(self.first | (self.i.as_value() > held.as_value()))
            with m.If(replace):
                m.d.sync += [held.eq(self.i), passed.eq(Mux(self.first, 0, held))]
            with m.Else():
                m.d.sync += passed.eq(self.i)
        return m

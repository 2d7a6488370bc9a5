"""Piecewise linear functions of the vector engine: a table of straight lines, and which of them a value meets."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwgen.fp.formats import FP32
from hwgen.lib.ram import Ram
from hwgen.lib.shapes import WORD_BITS


class CurveEntry(data.StructLayout):
    """A straight line `slope * x + offset`, FP32 each; the lower bytes of a beat of LOAD CURVE."""

    def __init__(self) -> None:
        super().__init__({"slope": 32, "offset": 32})


class CurveWrite(data.StructLayout):
    """An entry on its way into the tables of all lanes; in a cycle with `enable`."""

    def __init__(self) -> None:
        super().__init__({"enable": 1, "address": WORD_BITS, "entry": CurveEntry()})


class CurveTable(wiring.Component):
    """Entries of one lane, and the one that `x` meets in a curve, as ISA.md says for VECTOR CURVE.

    The curve is `size` entries from `base` on: `size` a power of two of at least 2, `base` a multiple of it, so that no
    address needs an adder. The upper half is for `x` without sign, the lower half, backwards, for `x` with one.

    Timing
    ------
    `o` follows `x` by `LATENCY` cycles, one value a cycle. `base`, `size` and `shift` hold for all values under way. An
    entry that is written in a cycle is read from the next one on.

    Parameters
    ----------
    entries : int    Of the table, a power of two.

    Members
    -------
    x : In(32)
    base, size : In(20), shift : In(5)    First entry and entries of the curve, log2 of its entries for a unit of x.
    o : Out(CurveEntry)
    write : In(CurveWrite)
    """

    LATENCY = 1

    def __init__(self, *, entries: int) -> None:
        self._entries = entries
        super().__init__(
            {
                "x": In(32),
                "base": In(WORD_BITS),
                "size": In(WORD_BITS),
                "shift": In(5),
                "o": Out(CurveEntry()),
                "write": In(CurveWrite()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """The place of `x` from the middle of the curve, mirrored by its sign, then the memory."""
        m = Module()
        m.submodules.table = table = Ram(width=64, depth=self._entries)
        bits = self._entries.bit_length() - 1
        half, sign = Signal(bits), self.x[31]
        place, inside = self._place(m), Signal(bits)
        last = Signal(bits)
        m.d.comb += [
            half.eq(self.size >> 1),
            last.eq(half - 1),
            inside.eq(Mux((place & ~last).any(), last, place)),
            table.read_address.eq(self.base[:bits] | Mux(sign, 0, half) | ((inside ^ sign.replicate(bits)) & last)),
            self.o.eq(table.read_data),
            table.write_enable.eq(self.write.enable),
            table.write_address.eq(self.write.address[:bits]),
            table.write_data.eq(self.write.entry),
        ]
        return m

    def _place(self, m: Module) -> Value:
        """`|x| * 2**shift` without its fraction, or something beyond every curve."""
        bits = self._entries.bit_length() - 1
        exponent = self.x[23:31]
        # Of 1.f * 2**(exponent - bias + shift), the `bits` highest places of 1.f go `gap` places to the right.
        top, gap = Cat(self.x[24 - bits : 23], 1), Signal(11)
        m.d.comb += gap.eq(FP32.bias + bits - 1 - self.shift - exponent)
        return Mux(gap[10], (1 << bits) - 1, Mux(gap[:10] >= bits, 0, top >> gap[: bits.bit_length()]))

"""What a selection gives, as beats of memory and as words of importance."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import AttentionSizes
from hwgen.attention.importance import IMPORTANCE_BITS
from hwgen.attention.rows import row_words
from hwgen.attention.services.words import StoreBeat, rank_width
from hwgen.pruning.words import DenseBeat


class BeatPacker(wiring.Component):
    """Puts items behind one another in beats, from the lowest byte on; nothing comes of a list without items.

    Timing
    ------
    A word of `width` items a cycle; a beat comes the cycle after the word that fills or ends it.

    Parameters
    ----------
    item_bytes : int
    width : int        Items in a word.
    beat_bytes : int   A multiple of the bytes of a word.

    Members
    -------
    i : In(stream of DenseBeat)      All of its words but the last are full.
    o : Out(stream of StoreBeat)
    busy : Out(1)                    Something is inside.
    """

    def __init__(self, *, item_bytes: int, width: int, beat_bytes: int) -> None:
        self._item, self._width, self._beat = item_bytes, width, beat_bytes
        super().__init__(
            {
                "i": In(stream.Signature(DenseBeat(8 * item_bytes, width))),
                "o": Out(stream.Signature(StoreBeat(beat_bytes))),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """A beat grows in the register that is offered when it is whole."""
        m = Module()
        word_bytes = self._item * self._width
        parts = self._beat // word_bytes
        part, word, beat = Signal(range(max(2, parts))), self.i.payload, self.o.payload
        ends = word.last | (part == parts - 1)
        m.d.comb += [self.i.ready.eq(~self.o.valid | self.o.ready), self.busy.eq(self.o.valid | (part != 0))]
        with m.If(self.i.ready):
            m.d.sync += self.o.valid.eq(self.i.valid & ends & ((word.count != 0) | (part != 0)))
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += part.eq(Mux(ends, 0, part + 1))
            marks = Cat((word.count > place).replicate(self._item) for place in range(self._width))
            with m.If(part == 0):
                m.d.sync += beat.strobes.eq(0)
            with m.Switch(part):
                for number in range(parts):
                    with m.Case(number):
                        bytes_here = slice(number * word_bytes, (number + 1) * word_bytes)
                        m.d.sync += [
                            beat.data[8 * bytes_here.start : 8 * bytes_here.stop].eq(Value.cast(word.items)),
                            beat.strobes[bytes_here].eq(marks),
                        ]
        return m


class Compactor(wiring.Component):
    """Writes the importance of the survivors to their new places, and 0 to all places behind them.

    Timing
    ------
    `rank_width` survivors a cycle, then a word of `softmax_lanes` a cycle.

    Parameters
    ----------
    sizes : AttentionSizes

    Members
    -------
    i : In(DenseBeat), i_valid : In(1)    Importance of the survivors; always taken.
    address : Out, data : Out(32 x lanes), write : Out(1)
    busy : Out(1)                         Words are left to be written.
    """

    def __init__(self, sizes: AttentionSizes) -> None:
        self._lanes, self._width, self._depth = sizes.softmax_lanes, rank_width(sizes), row_words(sizes)
        super().__init__(
            {
                "i": In(DenseBeat(IMPORTANCE_BITS, self._width)),
                "i_valid": In(1),
                "address": Out(range(self._depth)),
                "data": Out(IMPORTANCE_BITS * self._lanes),
                "write": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """A word grows in a register; behind the last one come words of zeros."""
        m = Module()
        parts, bits = self._lanes // self._width, IMPORTANCE_BITS * self._width
        part, clearing, ends = Signal(range(max(2, parts))), Signal(), Signal()
        items = Cat(Mux(self.i.count > place, self.i.items[place], 0) for place in range(self._width))
        m.d.comb += [
            ends.eq(self.i.last | (part == parts - 1)),
            self.busy.eq(self.write | clearing),
        ]
        m.d.sync += self.write.eq((self.i_valid & ends) | (clearing & (self.address != self._depth - 1)))
        with m.If(self.write):
            m.d.sync += self.address.eq(self.address + 1)
            with m.If(clearing):
                m.d.sync += self.data.eq(0)
            with m.If(self.address == self._depth - 1):
                m.d.sync += [self.address.eq(0), clearing.eq(0)]
        with m.If(self.i_valid):
            m.d.sync += [part.eq(Mux(ends, 0, part + 1)), clearing.eq(self.i.last)]
            with m.If(part == 0):
                m.d.sync += self.data.eq(0)
            with m.Switch(part):
                for number in range(parts):
                    with m.Case(number):
                        m.d.sync += self.data[number * bits : (number + 1) * bits].eq(items)
        return m

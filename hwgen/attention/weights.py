"""Weights of values in the order in which values arrive: from words of e, or from a list of kept keys."""

from amaranth.hdl import Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import CHUNK, EXP_BITS, AttentionSizes
from hwgen.attention.rows import RowWord
from hwgen.attention.select import KeptRow
from hwgen.attention.words import RowIndex
from hwgen.lib.ram import Ram


def weight_layout(sizes: AttentionSizes) -> data.ArrayLayout:
    """Weights of the rows of a word of values."""
    return data.ArrayLayout(unsigned(EXP_BITS), sizes.multipliers // CHUNK)


def rows_per_word(m: Module, sizes: AttentionSizes, head_size: Value) -> Signal:
    """Values in a word."""
    result = Signal(range(sizes.multipliers // CHUNK + 1), name="rows_per_word", init=1)
    size = sizes.multipliers // 2
    while size >= CHUNK:
        with m.If(head_size <= size):
            m.d.comb += result.eq(sizes.rows_per_word(size))
        size //= 2
    return result


class WordWeights(wiring.Component):
    """Cuts words of e into weights for words of values that are read as a range.

    Timing
    ------
    Weights of one word of values a cycle.

    Parameters
    ----------
    sizes : AttentionSizes

    Members
    -------
    head_size : In(8)
    i : In(stream of RowWord)
    o : Out(stream of weights)
    """

    def __init__(self, sizes: AttentionSizes) -> None:
        self._sizes = sizes
        word = RowWord(sizes, EXP_BITS * sizes.softmax_lanes)
        super().__init__(
            {
                "head_size": In(8),
                "i": In(stream.Signature(word)),
                "o": Out(stream.Signature(weight_layout(sizes))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """A place in the word."""
        m = Module()
        step, place, word = rows_per_word(m, self._sizes, self.head_size), Signal(8), self.i.payload
        end, width = Signal(), EXP_BITS * (self._sizes.multipliers // CHUNK)
        m.d.comb += [
            end.eq(place + step >= word.count),
            self.o.valid.eq(self.i.valid),
            self.i.ready.eq(self.o.ready & end),
        ]
        with m.Switch(place):
            for lane in range(self._sizes.softmax_lanes):
                with m.Case(lane):
                    m.d.comb += Value.cast(self.o.payload).eq(word.bits[EXP_BITS * lane :][:width])
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += place.eq(Mux(end, 0, place + step))
        return m


class KeptList(wiring.Component):
    """Gives the kept keys of a row, once more for a second plane.

    Timing
    ------
    A key a cycle, at once.

    Parameters
    ----------
    sizes : AttentionSizes

    Members
    -------
    enable : In(1)       A pass is under way; between two of them there is a cycle without.
    again : In(1)        The row needs two passes.
    kept : In(stream of KeptRow)
    o : Out(stream of KeptRow)
    """

    def __init__(self, sizes: AttentionSizes) -> None:
        self._length = sizes.max_length
        super().__init__(
            {
                "enable": In(1),
                "again": In(1),
                "kept": In(stream.Signature(KeptRow())),
                "o": Out(stream.Signature(KeptRow())),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """What comes, or what came before from a memory."""
        m = Module()
        m.submodules.list = ram = Ram(width=KeptRow().size, depth=self._length)
        replay, number, moves, last = Signal(), Signal(range(self._length)), Signal(), self.o.payload.last
        m.d.comb += [
            Value.cast(self.o.payload).eq(Mux(replay, ram.read_data, Value.cast(self.kept.payload))),
            self.o.valid.eq(self.enable & (replay | self.kept.valid)),
            moves.eq(self.o.valid & self.o.ready),
            self.kept.ready.eq(self.enable & self.o.ready & ~replay),
            ram.write_enable.eq(moves & ~replay),
            ram.write_address.eq(number),
            ram.write_data.eq(Value.cast(self.kept.payload)),
            ram.read_address.eq(Mux(replay, number + moves, 0)),
        ]
        with m.If(moves):
            m.d.sync += number.eq(Mux(last, 0, number + 1))
            with m.If(last):
                m.d.sync += replay.eq(self.again & ~replay)
        return m


class KeptWeights(wiring.Component):
    """Kept keys to indices for the value fetch or the value buffer, and weights of the words that these give.

    The value fetch puts kept values side by side: an index for each. The value buffer gives the words that hold them:
    an index for each word, and weights of 0 for its other values.

    Timing
    ------
    A key a cycle; `held`: one cycle more behind the last key of a pass.

    Parameters
    ----------
    sizes : AttentionSizes

    Members
    -------
    head_size : In(8)
    held : In(1)
    i : In(stream of KeptRow)
    indices : Out(stream of RowIndex)
    o : Out(stream of weights)
    """

    def __init__(self, sizes: AttentionSizes) -> None:
        self._sizes, self._rows = sizes, sizes.multipliers // CHUNK
        super().__init__(
            {
                "head_size": In(8),
                "held": In(1),
                "i": In(stream.Signature(KeptRow())),
                "indices": Out(stream.Signature(RowIndex())),
                "o": Out(stream.Signature(weight_layout(sizes))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Weights are collected until their word is complete; a word of the buffer is when the next one begins."""
        m = Module()
        item, step = self.i.payload, rows_per_word(m, self._sizes, self.head_size)
        collected, count, takes = Signal(weight_layout(self._sizes)), Signal(range(self._rows + 1)), Signal()
        index, filled, closing = Signal(RowIndex()["index"].shape), Signal(), Signal()
        place, full, begins = Signal(range(self._rows + 1)), Signal(), Signal()
        both = self.indices.ready & self.o.ready
        m.d.comb += [
            place.eq(Mux(self.held, item.index & (step - 1), count)),
            full.eq(item.last | (count + 1 == step)),
            begins.eq(filled & ((item.index ^ index) & ~(step - 1)).any()),
            self.o.payload.eq(collected),
        ]
        with m.If(self.held):
            gives = closing | (self.i.valid & begins)
            m.d.comb += [
                self.indices.valid.eq(gives & self.o.ready),
                self.o.valid.eq(gives & self.indices.ready),
                self.indices.payload.index.eq(index),
                self.indices.payload.last.eq(closing),
                self.i.ready.eq(~closing & (~begins | both)),
            ]
        with m.Else():
            m.d.comb += [
                self.indices.valid.eq(self.i.valid & (~full | self.o.ready)),
                self.o.valid.eq(self.i.valid & full & self.indices.ready),
                self.indices.payload.index.eq(item.index),
                self.indices.payload.last.eq(item.last),
                self.i.ready.eq(self.indices.ready & (~full | self.o.ready)),
                self._row(self.o.payload, place).eq(item.e),
            ]
        m.d.comb += takes.eq(self.i.valid & self.i.ready)
        with m.If(closing & both):
            m.d.sync += [closing.eq(0), filled.eq(0)]
        with m.If(takes):
            with m.If(self.held & (begins | ~filled)):
                m.d.sync += Value.cast(collected).eq(0)
            m.d.sync += [
                self._row(collected, place).eq(item.e),
                *(index.eq(item.index), filled.eq(self.held), closing.eq(self.held & item.last)),
                count.eq(Mux(full, 0, count + 1)),
            ]
        return m

    def _row(self, word: data.View, place: Value) -> Value:
        """The weight of a row."""
        return Value.cast(word).word_select(place, EXP_BITS)

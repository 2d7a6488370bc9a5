"""Weights of values in the order in which values arrive: from words of e, or from a list of kept keys."""

from amaranth.hdl import Cat, Module, Mux, Shape, ShapeLike, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import CHUNK, EXP_BITS, AttentionSizes
from hwgen.attention.rows import RowWord, lowest
from hwgen.attention.select import KeptRow
from hwgen.attention.words import INDEX_BITS, LaneExponentials, RowIndex
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
    """Gives what is kept of a row, once more for a second plane.

    Timing
    ------
    An item a cycle, at once.

    Parameters
    ----------
    shape : ShapeLike    With `last`.
    depth : int          Items of the longest row.

    Members
    -------
    enable : In(1)       A pass is under way; between two of them there is a cycle without.
    again : In(1)        The row needs two passes.
    i : In(stream of shape)
    o : Out(stream of shape)
    """

    def __init__(self, *, shape: ShapeLike, depth: int) -> None:
        self._shape, self._depth = shape, depth
        items = stream.Signature(shape)
        super().__init__({"enable": In(1), "again": In(1), "i": In(items), "o": Out(items)})

    def elaborate(self, platform: object) -> Module:
        """What comes, or what came before from a memory."""
        m = Module()
        m.submodules.list = ram = Ram(width=Shape.cast(self._shape).width, depth=self._depth)
        replay, number, moves, last = Signal(), Signal(range(max(2, self._depth))), Signal(), self.o.payload.last
        m.d.comb += [
            Value.cast(self.o.payload).eq(Mux(replay, ram.read_data, Value.cast(self.i.payload))),
            self.o.valid.eq(self.enable & (replay | self.i.valid)),
            moves.eq(self.o.valid & self.o.ready),
            self.i.ready.eq(self.enable & self.o.ready & ~replay),
            ram.write_enable.eq(moves & ~replay),
            ram.write_address.eq(number),
            ram.write_data.eq(Value.cast(self.i.payload)),
            ram.read_address.eq(Mux(replay, number + moves, 0)),
        ]
        with m.If(moves):
            m.d.sync += number.eq(Mux(last, 0, number + 1))
            with m.If(last):
                m.d.sync += replay.eq(self.again & ~replay)
        return m


class KeptWeights(wiring.Component):
    """Kept keys to indices for the value fetch, which puts their values side by side, and weights of its words.

    Timing
    ------
    A key a cycle.

    Parameters
    ----------
    sizes : AttentionSizes

    Members
    -------
    head_size : In(8)
    i : In(stream of KeptRow)
    indices : Out(stream of RowIndex)
    o : Out(stream of weights)
    """

    def __init__(self, sizes: AttentionSizes) -> None:
        self._sizes, self._rows = sizes, sizes.multipliers // CHUNK
        super().__init__(
            {
                "head_size": In(8),
                "i": In(stream.Signature(KeptRow())),
                "indices": Out(stream.Signature(RowIndex())),
                "o": Out(stream.Signature(weight_layout(sizes))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Weights are collected until their word is complete."""
        m = Module()
        item, step = self.i.payload, rows_per_word(m, self._sizes, self.head_size)
        collected, count, full = Signal(weight_layout(self._sizes)), Signal(range(self._rows + 1)), Signal()
        m.d.comb += [
            full.eq(item.last | (count + 1 == step)),
            self.indices.valid.eq(self.i.valid & (~full | self.o.ready)),
            self.o.valid.eq(self.i.valid & full & self.indices.ready),
            *(self.indices.payload[name].eq(item[name]) for name in ("index", "last", "none")),
            self.i.ready.eq(self.indices.ready & (~full | self.o.ready)),
            self.o.payload.eq(collected),
            self._row(self.o.payload, count).eq(item.e),
        ]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [self._row(collected, count).eq(item.e), count.eq(Mux(full, 0, count + 1))]
        return m

    def _row(self, word: data.View, place: Value) -> Value:
        """The weight of a row."""
        return Value.cast(word).word_select(place, EXP_BITS)


class GroupWeights(wiring.Component):
    """Words of e, 0 where a key is not kept, to indices for the value buffer, and weights of the words that it gives.

    The value buffer gives all values of a word: an index for each word that holds a kept one, weights of 0 for others.

    Timing
    ------
    A word of values a cycle, and a cycle for a word of e that keeps nothing; weights leave with the next ones or, those
    that are the last of a row, a cycle later. A row that keeps nothing has weights of 0 and an index with `none`.

    Parameters
    ----------
    sizes : AttentionSizes

    Members
    -------
    head_size : In(8)
    i : In(stream of LaneExponentials)
    indices : Out(stream of RowIndex)
    o : Out(stream of weights)
    """

    def __init__(self, sizes: AttentionSizes) -> None:
        self._sizes = sizes
        super().__init__(
            {
                "head_size": In(8),
                "i": In(stream.Signature(LaneExponentials(sizes))),
                "indices": Out(stream.Signature(RowIndex())),
                "o": Out(stream.Signature(weight_layout(sizes))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """The next group of a word with a weight; the one before is held back until it is known whether it is last."""
        m = Module()
        lanes, item = self._sizes.softmax_lanes, self.i.payload
        step = rows_per_word(m, self._sizes, self.head_size)
        done, left, group, place = Signal(lanes), Signal(lanes), Signal(lanes), Signal(range(lanes))
        base, index = Signal(INDEX_BITS), Signal(INDEX_BITS)
        held, filled, closing = Signal(weight_layout(self._sizes)), Signal(), Signal()
        gives, goes, ends = Signal(), Signal(), Signal()
        m.d.comb += [
            left.eq(Cat(item.e[lane] != 0 for lane in range(lanes)) & ~done),
            place.eq(lowest(m, left, "first") & ~(step - 1)),
            group.eq(((1 << step) - 1) << place),
            ends.eq((left & ~group) == 0),
            gives.eq(closing | (filled & self.i.valid & left.any())),
            goes.eq(~gives | (self.indices.ready & self.o.ready)),
            self.i.ready.eq(ends & goes),
            *(self.indices.valid.eq(gives & self.o.ready), self.o.valid.eq(gives & self.indices.ready)),
            *(self.indices.payload.index.eq(index), self.indices.payload.last.eq(closing)),
            *(self.indices.payload.none.eq(~filled), self.o.payload.eq(held)),
        ]
        with m.If(gives & goes):
            m.d.sync += [filled.eq(0), closing.eq(0)]
        with m.If(self.i.valid & goes):
            m.d.sync += [closing.eq(ends & item.last), done.eq(Mux(ends, 0, done | group))]
            with m.If(ends):
                m.d.sync += base.eq(Mux(item.last, 0, base + lanes))
            with m.If(left.any()):
                m.d.sync += [filled.eq(1), index.eq(base + place), self._weights(m, place, held)]
        return m

    def _weights(self, m: Module, place: Value, held: Signal) -> Value:
        """The weights from a place on become those that are held."""
        rows, own = self._sizes.multipliers // CHUNK, Signal(held.shape())
        with m.Switch(place):
            for lane in range(self._sizes.softmax_lanes):
                with m.Case(lane):
                    part = Value.cast(self.i.payload.e)[EXP_BITS * lane :]
                    m.d.comb += Value.cast(own).eq(part[: EXP_BITS * rows])
        return held.eq(own)

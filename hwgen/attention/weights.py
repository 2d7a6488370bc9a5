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


class KeptWeights(wiring.Component):
    """Gives the kept keys of a row to the value fetch, and their weights in words; once more for a second plane.

    Timing
    ------
    A key a cycle; weights of a word when its last key is there.

    Parameters
    ----------
    sizes : AttentionSizes

    Members
    -------
    head_size : In(8)
    enable : In(1)       A pass is under way; between two of them there is a cycle without.
    again : In(1)        The row needs two passes.
    kept : In(stream of KeptRow)
    indices : Out(stream of RowIndex)
    o : Out(stream of weights)
    """

    def __init__(self, sizes: AttentionSizes) -> None:
        self._sizes = sizes
        super().__init__(
            {
                "head_size": In(8),
                "enable": In(1),
                "again": In(1),
                "kept": In(stream.Signature(KeptRow())),
                "indices": Out(stream.Signature(RowIndex())),
                "o": Out(stream.Signature(weight_layout(sizes))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """What comes, or what came before from a memory; weights are collected."""
        m = Module()
        m.submodules.list = ram = Ram(width=KeptRow().size, depth=self._sizes.max_length)
        replay, number, item, there = Signal(), Signal(range(self._sizes.max_length)), Signal(KeptRow()), Signal()
        step, full, moves = rows_per_word(m, self._sizes, self.head_size), Signal(), Signal()
        count, rows = Signal(range(self._sizes.multipliers // CHUNK)), self._sizes.multipliers // CHUNK
        collected = Signal(weight_layout(self._sizes))
        m.d.comb += [
            Value.cast(item).eq(Mux(replay, ram.read_data, Value.cast(self.kept.payload))),
            there.eq(self.enable & (replay | self.kept.valid)),
            full.eq(item.last | (count + 1 == step)),
            # An index and the weights that it completes go in the same cycle.
            moves.eq(there & self.indices.ready & (~full | self.o.ready)),
            self.kept.ready.eq(moves & ~replay),
            self.indices.valid.eq(there & (~full | self.o.ready)),
            self.indices.payload.index.eq(item.index),
            self.indices.payload.last.eq(item.last),
            self.o.valid.eq(there & full & self.indices.ready),
            self.o.payload.eq(collected),
            ram.write_enable.eq(moves & ~replay),
            ram.write_address.eq(number),
            ram.write_data.eq(Value.cast(self.kept.payload)),
            ram.read_address.eq(Mux(replay & ~(moves & item.last), number + moves, 0)),
        ]
        for row in range(rows):
            with m.If(count == row):
                m.d.comb += self.o.payload[row].eq(item.e)
        with m.If(moves):
            for row in range(rows):
                with m.If(count == row):
                    m.d.sync += collected[row].eq(item.e)
            m.d.sync += [count.eq(Mux(full, 0, count + 1)), number.eq(number + 1)]
            with m.If(item.last):
                m.d.sync += [number.eq(0), replay.eq(self.again & ~replay)]
        return m

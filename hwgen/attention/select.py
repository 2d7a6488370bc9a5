"""Local value pruning: which keys of a row have their value multiplied."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import EXP_BITS, KEEP_FRACTION, AttentionSizes
from hwgen.attention.serial import OneByOne
from hwgen.attention.words import INDEX_BITS, LaneExponentials
from hwgen.lib.streams import Queue
from hwgen.pruning.eliminate import ZeroEliminator
from hwgen.pruning.topk import TopKMask
from hwgen.pruning.words import Element, TopKSizes


class SelectCommand(data.StructLayout):
    """One row. keys : values of e that follow, at least 1. seen : of these, at least 1. share : `value_keep`.

    words : give whole words, for jobs that hold their values; else kept keys one by one.
    """

    def __init__(self) -> None:
        super().__init__({"keys": INDEX_BITS, "seen": INDEX_BITS, "share": KEEP_FRACTION + 1, "words": 1})


class KeptRow(data.StructLayout):
    """A kept key and its weight; `last` ends the row."""

    def __init__(self) -> None:
        super().__init__({"index": INDEX_BITS, "e": EXP_BITS, "last": 1})


class ValueSelection(wiring.Component):
    """Keeps the ceil(seen x share / 2^KEEP_FRACTION) largest e of a row, but none that is 0; ties to the lower index.

    Rows follow one another; the next one arrives while results leave.

    Timing
    ------
    That of the top-k engine (`hwgen/pruning/cycles.py`), `COMMAND_LATENCY` cycles more for the count. Then a word a
    cycle, or a kept key a cycle.

    Parameters
    ----------
    sizes : AttentionSizes

    Members
    -------
    command : In(stream of SelectCommand)
    i : In(stream of EXP_BITS x lanes)    e of a row; lanes behind its end hold anything.
    kept : Out(stream of KeptRow)         Ascending.
    words : Out(stream of LaneExponentials)   e of all keys in order, 0 where they are not kept.
    busy : Out(1)
    """

    COMMAND_LATENCY = 2

    def __init__(self, sizes: AttentionSizes) -> None:
        self._lanes = sizes.softmax_lanes
        self._topk = TopKSizes(width=self._lanes, bits=EXP_BITS, max_length=sizes.max_length)
        super().__init__(
            {
                "command": In(stream.Signature(SelectCommand())),
                "i": In(stream.Signature(EXP_BITS * self._lanes)),
                "kept": Out(stream.Signature(KeptRow())),
                "words": Out(stream.Signature(LaneExponentials(sizes))),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Count | top-k marks | words as they are, or packed and one by one."""
        m = Module()
        m.submodules.mask = mask = TopKMask(sizes=self._topk)
        m.submodules.kinds = kinds = Queue(shape=1, depth=4)
        m.submodules.eliminator = eliminator = ZeroEliminator(shape=Element(self._topk), width=self._lanes)
        wiring.connect(m, wiring.flipped(self.i), mask.scores)
        counting = self._count(m, mask.command, kinds.i)

        beat, as_words = mask.o.payload, kinds.o.payload
        packed = eliminator.i.payload
        m.d.comb += [
            self.words.valid.eq(mask.o.valid & kinds.o.valid & as_words),
            eliminator.i.valid.eq(mask.o.valid & kinds.o.valid & ~as_words),
            mask.o.ready.eq(kinds.o.valid & Mux(as_words, self.words.ready, eliminator.i.ready)),
            kinds.o.ready.eq(mask.o.valid & mask.o.ready & beat.last),
            self.words.payload.last.eq(beat.last),
            packed.items.eq(beat.items),
            packed.last.eq(beat.last),
        ]
        for lane in range(self._lanes):
            item = beat.items[lane]
            m.d.comb += packed.mask[lane].eq(beat.mask[lane] & (item.score != 0))
            with m.If(beat.mask[lane]):
                m.d.comb += self.words.payload.e[lane].eq(item.score)
        m.submodules.serial = serial = OneByOne(shape=Element(self._topk), width=self._lanes)
        wiring.connect(m, eliminator.o, serial.i)
        single = serial.o.payload
        m.d.comb += [
            self.kept.valid.eq(serial.o.valid),
            self.kept.payload.index.eq(single.item.index),
            self.kept.payload.e.eq(single.item.score),
            self.kept.payload.last.eq(single.last),
            serial.o.ready.eq(self.kept.ready),
        ]
        m.d.comb += self.busy.eq(counting | mask.busy | kinds.o.valid | eliminator.busy | self.kept.valid)
        return m

    def _count(self, m: Module, command: stream.Interface, kind: stream.Interface) -> Value:
        """The top-k command of a row: a product, rounded up. Gives whether one is under way."""
        row, full = self.command.payload, Signal()
        product = Signal(INDEX_BITS + KEEP_FRACTION + 1, reset_less=True)
        length, as_words = Signal(self._topk.count_bits, reset_less=True), Signal(reset_less=True)
        m.d.comb += [
            self.command.ready.eq(~full & (~command.valid | command.ready) & kind.ready),
            kind.payload.eq(as_words),
            kind.valid.eq(full),
        ]
        with m.If(command.ready):
            m.d.sync += command.valid.eq(0)
        with m.If(full):
            m.d.sync += [
                full.eq(0),
                command.valid.eq(1),
                command.payload.length.eq(length),
                command.payload.k.eq((product + ((1 << KEEP_FRACTION) - 1)) >> KEEP_FRACTION),
            ]
        with m.If(self.command.valid & self.command.ready):
            m.d.sync += [full.eq(1), product.eq(row.seen * row.share), length.eq(row.keys), as_words.eq(row.words)]
        return full | command.valid

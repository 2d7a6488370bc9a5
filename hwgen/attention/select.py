"""Local value pruning: which keys of a row have their value multiplied."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
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

    marks : for values that are held: whole words instead of kept keys.
    """

    def __init__(self) -> None:
        super().__init__({"keys": INDEX_BITS, "seen": INDEX_BITS, "share": KEEP_FRACTION + 1, "marks": 1})


class KeptRow(data.StructLayout):
    """A kept key and its weight; `last` ends the row; none : all e that are kept are 0, and this is not a key."""

    def __init__(self) -> None:
        super().__init__({"index": INDEX_BITS, "e": EXP_BITS, "last": 1, "none": 1})


class ValueSelection(wiring.Component):
    """Keeps the ceil(seen x share / 2^KEEP_FRACTION) largest e of a row, but none that is 0; ties to the lower index.

    Rows follow one another; the next one arrives while results leave.

    Timing
    ------
    That of a top-k engine of `selection_width` (`hwgen/pruning/cycles.py`), `COMMAND_LATENCY` cycles more for the
    count. Then a kept key a cycle, or what the engine gives in a cycle.

    Parameters
    ----------
    sizes : AttentionSizes

    Members
    -------
    command : In(stream of SelectCommand)
    i : In(stream of EXP_BITS x lanes)    e of a row; lanes behind its end hold anything.
    kept : Out(stream of KeptRow)         Ascending.
    marked : Out(stream of LaneExponentials)   e of all keys in order, 0 where they are not kept.
    busy : Out(1)
    """

    COMMAND_LATENCY = 2

    def __init__(self, sizes: AttentionSizes) -> None:
        self._lanes = sizes.softmax_lanes
        self._topk = TopKSizes(width=sizes.selection_width, bits=EXP_BITS, max_length=sizes.max_length)
        super().__init__(
            {
                "command": In(stream.Signature(SelectCommand())),
                "i": In(stream.Signature(EXP_BITS * self._lanes)),
                "kept": Out(stream.Signature(KeptRow())),
                "marked": Out(stream.Signature(LaneExponentials(sizes))),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Count | part of a word | top-k marks | packed, one by one, or words again."""
        m = Module()
        m.submodules.mask = mask = TopKMask(sizes=self._topk)
        m.submodules.eliminator = eliminator = ZeroEliminator(shape=Element(self._topk), width=self._topk.width)
        m.submodules.kinds = kinds = Queue(shape=1, depth=4)
        counting = self._count(m, mask.command, kinds.i)
        self._parts(m, mask)

        beat, packed, whole = mask.o.payload, eliminator.i.payload, kinds.o.payload
        collects = self._words(m, beat, mask.o.valid & kinds.o.valid & whole)
        m.d.comb += [
            eliminator.i.valid.eq(mask.o.valid & kinds.o.valid & ~whole),
            mask.o.ready.eq(kinds.o.valid & Mux(whole, collects, eliminator.i.ready)),
            kinds.o.ready.eq(mask.o.valid & mask.o.ready & beat.last),
            packed.items.eq(beat.items),
            packed.last.eq(beat.last),
        ]
        for lane in range(self._topk.width):
            m.d.comb += packed.mask[lane].eq(beat.mask[lane] & (beat.items[lane].score != 0))
        m.submodules.serial = serial = OneByOne(shape=Element(self._topk), width=self._topk.width)
        wiring.connect(m, eliminator.o, serial.i)
        single = serial.o.payload
        m.d.comb += [
            self.kept.valid.eq(serial.o.valid),
            self.kept.payload.index.eq(single.item.index),
            self.kept.payload.e.eq(single.item.score),
            *(self.kept.payload.last.eq(single.last), self.kept.payload.none.eq(single.none)),
            serial.o.ready.eq(self.kept.ready),
        ]
        m.d.comb += self.busy.eq(counting | mask.busy | kinds.o.valid | eliminator.busy | self.kept.valid)
        return m

    def _words(self, m: Module, beat: data.View, valid: Value) -> Value:
        """What the engine gives, put together to words of e; gives whether it is taken."""
        width, count = self._topk.word_bits, self._lanes // self._topk.width
        collected, part, full, takes = Signal(EXP_BITS * self._lanes), Signal(range(max(2, count))), Signal(), Signal()
        own = Cat(Mux(beat.mask[lane], beat.items[lane].score, 0) for lane in range(self._topk.width))
        word = Value.cast(self.marked.payload.e)
        m.d.comb += [
            full.eq((part == count - 1) | beat.last),
            takes.eq(~full | self.marked.ready),
            self.marked.valid.eq(valid & full),
            self.marked.payload.last.eq(beat.last),
        ]
        for place in range(count):
            piece = slice(place * width, (place + 1) * width)
            m.d.comb += word[piece].eq(Mux(part == place, own, collected[piece]))
        with m.If(valid & takes):
            m.d.sync += [part.eq(Mux(full, 0, part + 1)), collected.eq(Mux(full, 0, word))]
        return takes

    def _parts(self, m: Module, mask: TopKMask) -> None:
        """A word of e to the top-k engine, as many lanes a cycle as it takes; those behind the row are passed over."""
        width, parts = self._topk.width, self._lanes // self._topk.width
        part, left = Signal(range(max(2, parts))), Signal(self._topk.count_bits, reset_less=True)
        last, moves = (part == parts - 1) | (left <= width), mask.scores.valid & mask.scores.ready
        m.d.comb += [
            mask.scores.payload.eq(self.i.payload.word_select(part, self._topk.word_bits)),
            mask.scores.valid.eq(self.i.valid),
            self.i.ready.eq(mask.scores.ready & last),
        ]
        with m.If(mask.command.valid & mask.command.ready):
            m.d.sync += left.eq(mask.command.payload.length)
        with m.Elif(moves):
            m.d.sync += [left.eq(left - width), part.eq(Mux(last, 0, part + 1))]

    def _count(self, m: Module, command: stream.Interface, kind: stream.Interface) -> Value:
        """The top-k command of a row: a product, rounded up. Gives whether one is under way."""
        row, full = self.command.payload, Signal()
        product = Signal(INDEX_BITS + KEEP_FRACTION + 1, reset_less=True)
        length, marks = Signal(self._topk.count_bits, reset_less=True), Signal(reset_less=True)
        m.d.comb += [
            self.command.ready.eq(~full & (~command.valid | command.ready) & kind.ready),
            *(kind.payload.eq(marks), kind.valid.eq(full)),
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
            m.d.sync += [full.eq(1), product.eq(row.seen * row.share), length.eq(row.keys), marks.eq(row.marks)]
        return full | command.valid

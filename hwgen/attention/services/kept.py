"""Which elements of a ranked vector go on: their indices, and what they were before they became keys."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import AttentionSizes
from hwgen.arch.services import INDEX_BYTES
from hwgen.attention.services.feed import RankWord
from hwgen.attention.services.words import rank_width
from hwgen.attention.words import INDEX_BITS
from hwgen.lib.ram import Ram
from hwgen.pruning.eliminate import ZeroEliminator
from hwgen.pruning.keys import KEY_BITS
from hwgen.pruning.words import DenseBeat, Element, SparseBeat, TopKSizes, present


class KeptItem(data.StructLayout):
    """An element that goes on."""

    def __init__(self) -> None:
        super().__init__({"index": 8 * INDEX_BYTES, "value": KEY_BITS})


def rank_sizes(sizes: AttentionSizes) -> TopKSizes:
    """Sizes of the top-k engine."""
    return TopKSizes(width=rank_width(sizes), bits=KEY_BITS, max_length=sizes.max_length)


class KeptStage(wiring.Component):
    """Holds the elements while the engine ranks their keys; then those that are kept, or those that are not, densely.

    Timing
    ------
    A word a cycle in and out; that of the zero eliminator.

    Parameters
    ----------
    sizes : AttentionSizes

    Members
    -------
    start : In(1)                     A vector begins; fields are constant until its last word.
    length : In(16)
    dropped : In(1)                   Elements that are not kept go on.
    by_head : In(1), alive : In(max_heads)    Elements are heads; of these only those that are alive are kept.
    i : In(RankWord), i_valid : In(1)
    marks : In(stream of SparseBeat(Element))    Of the engine.
    o : Out(stream of DenseBeat(KeptItem))
    survivors : Out(max_heads), survive : Out(1)   Heads that are kept, for a cycle, behind the last word.
    busy : Out(1)
    """

    def __init__(self, sizes: AttentionSizes) -> None:
        self._sizes, self._topk, self._width = sizes, rank_sizes(sizes), rank_width(sizes)
        super().__init__(
            {
                "start": In(1),
                "length": In(INDEX_BITS),
                "dropped": In(1),
                "by_head": In(1),
                "alive": In(sizes.max_heads),
                "i": In(RankWord(sizes)),
                "i_valid": In(1),
                "marks": In(stream.Signature(SparseBeat(Element(self._topk), self._width))),
                "o": Out(stream.Signature(DenseBeat(KeptItem(), self._width))),
                "survivors": Out(sizes.max_heads),
                "survive": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """A memory of elements; marks and elements side by side into the eliminator."""
        m = Module()
        width, bits = self._width, self._width * KEY_BITS
        m.submodules.elements = elements = Ram(width=bits, depth=self._topk.depth)
        m.submodules.eliminator = eliminator = ZeroEliminator(shape=KeptItem(), width=width)
        wiring.connect(m, eliminator.o, wiring.flipped(self.o))
        written, word, left = Signal(self._topk.address_bits), Signal(self._topk.address_bits), Signal(INDEX_BITS)
        moves, own, kept = self.marks.valid & self.marks.ready, Signal(width), Signal(width)
        sink = eliminator.i.payload
        m.d.comb += [
            elements.write_enable.eq(self.i_valid),
            elements.write_address.eq(written),
            elements.write_data.eq(Cat(*(self.i.values[lane] for lane in range(width)))),
            elements.read_address.eq(Mux(moves, word + 1, word)),
            own.eq(self._alive(m, word) | ~self.by_head.replicate(width)),
            kept.eq(self.marks.payload.mask & own),
            eliminator.i.valid.eq(self.marks.valid),
            self.marks.ready.eq(eliminator.i.ready),
            sink.mask.eq(Mux(self.dropped, Cat(*present(left, width)) & ~kept, kept)),
            sink.last.eq(self.marks.payload.last),
            self.busy.eq(eliminator.busy),
        ]
        for lane in range(width):
            m.d.comb += [
                sink.items[lane].index.eq(Cat(Const(lane, (width - 1).bit_length()), word)),
                sink.items[lane].value.eq(elements.read_data.word_select(lane, KEY_BITS)),
            ]
        with m.If(self.i_valid):
            m.d.sync += written.eq(written + 1)
        with m.If(moves):
            m.d.sync += [word.eq(word + 1), left.eq(left - width)]
        with m.If(self.start):
            m.d.sync += [written.eq(0), word.eq(0), left.eq(self.length)]
        self._survivors(m, word, kept, moves)
        return m

    def _alive(self, m: Module, word: Value) -> Value:
        """Which heads of a word are alive."""
        own = Signal(self._width)
        with m.Switch(word):
            for number in range(self._head_words):
                with m.Case(number):
                    m.d.comb += own.eq(self.alive[number * self._width :][: self._width])
        return own

    def _survivors(self, m: Module, word: Value, kept: Value, moves: Value) -> None:
        """Bits of the heads that are kept, word by word."""
        m.d.sync += self.survive.eq(moves & self.marks.payload.last & self.by_head)
        with m.If(moves), m.Switch(word):
            for number in range(self._head_words):
                with m.Case(number):
                    m.d.sync += self.survivors[number * self._width :][: self._width].eq(kept)
        with m.If(self.start):
            m.d.sync += self.survivors.eq(0)

    @property
    def _head_words(self) -> int:
        return -(-self._sizes.max_heads // self._width)

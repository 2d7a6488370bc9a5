"""The top-k engine: a selector, two buffers, a filter, and the zero eliminator."""

from amaranth.hdl import Module, Mux, ResetInserter, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.lib.ram import Ram
from hwgen.pruning.eliminate import ZeroEliminator
from hwgen.pruning.keep import KeepFilter
from hwgen.pruning.quick_select import QuickSelect
from hwgen.pruning.radix_select import DIGIT, RadixSelect, check_digit
from hwgen.pruning.selector import Selector
from hwgen.pruning.words import Command, DenseBeat, Element, SparseBeat, TopKSizes

METHODS = ("radix", "quick")
"""How the k-th largest score is found: by its digits, or by the published quick-select."""


def check_method(sizes: TopKSizes, method: str, digit: int) -> None:
    """Raise ValueError unless there is a selector of this method and digit."""
    if method not in METHODS:
        raise ValueError(f"top-k method must be one of {', '.join(METHODS)}, not {method!r}")
    if method == "radix":
        check_digit(sizes, digit)


class TopKMask(wiring.Component):
    """Marks the k largest of `length` scores; all elements come out in their order, with index, score and mark.

    Of equal scores the lower indices are kept. A bad command (length 0 or above the largest, k above the length) takes
    no scores and gives one beat without elements, with `error`. Vectors alternate between two buffers: the next one
    arrives while the one before is given out.

    Timing
    ------
    `hwgen/pruning/cycles.py`. The first beat is offered `KeepFilter.LATENCY` cycles after the threshold was found, then
    one a cycle.

    Parameters
    ----------
    sizes : TopKSizes
    method : str   One of `METHODS`.
    digit : int    Bits of a digit of "radix".

    Members
    -------
    command : In(stream of Command)
    scores : In(stream of width x bits)   Unsigned; lane 0 of word 0 is element 0, the last word may be partial.
    o : Out(stream of SparseBeat(Element))
    busy : Out(1)    A call is under way.
    clear : In(1)    Forget it.
    """

    def __init__(self, *, sizes: TopKSizes, method: str = "radix", digit: int = DIGIT) -> None:
        check_method(sizes, method, digit)
        self._sizes, self._method, self._digit = sizes, method, digit
        super().__init__(
            {
                "command": In(stream.Signature(Command(sizes))),
                "scores": In(stream.Signature(sizes.word_bits)),
                "o": Out(stream.Signature(SparseBeat(Element(sizes), sizes.width))),
                "busy": Out(1),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """The selector has one buffer, the filter the other; they change sides when a threshold is found."""
        m = Module()
        cleared, keep = ResetInserter(self.clear), KeepFilter(sizes=self._sizes)
        selector = self._make_selector()
        m.submodules.selector, m.submodules.keep = cleared(selector), cleared(keep)
        wiring.connect(m, selector.found, keep.found)
        wiring.connect(m, wiring.flipped(self.command), selector.command)
        wiring.connect(m, wiring.flipped(self.scores), selector.scores)
        wiring.connect(m, keep.o, wiring.flipped(self.o))
        m.d.comb += self.busy.eq(selector.busy | keep.busy)

        side = Signal()
        with m.If(keep.found.valid & keep.found.ready):
            m.d.sync += side.eq(~side)
        buffers = [Ram(width=self._sizes.word_bits, depth=self._sizes.depth) for _ in range(2)]
        m.submodules.buffer_0, m.submodules.buffer_1 = buffers
        for number, buffer in enumerate(buffers):
            selects = side == number
            m.d.comb += [
                buffer.write_enable.eq(selector.write_enable & selects),
                buffer.write_address.eq(selector.write_address),
                buffer.write_data.eq(selector.write_data),
                buffer.read_address.eq(Mux(selects, selector.read_address, keep.read_address)),
            ]
        first, second = (buffer.read_data for buffer in buffers)
        m.d.comb += [
            selector.read_data.eq(Mux(side, second, first)),
            keep.read_data.eq(Mux(side, first, second)),
        ]
        return m

    def _make_selector(self) -> Selector:
        if self._method == "radix":
            return RadixSelect(sizes=self._sizes, digit=self._digit)
        return QuickSelect(sizes=self._sizes)


class TopK(wiring.Component):
    """The indices of the k largest of `length` scores, ascending, in dense beats.

    Of equal scores the lower indices are kept. Every call ends with a beat marked `last`, for k = 0 one with
    `count` 0. A bad command (length 0 or above the largest, k above the length) takes no scores and gives one beat
    with `count` 0 and `error`.

    Timing
    ------
    `hwgen/pruning/cycles.py` has the cycles from command to last beat for every vector. The next vector arrives while
    results leave.

    Parameters
    ----------
    sizes : TopKSizes
    method : str    One of `METHODS`.
    digit : int     Bits of a digit of "radix".
    with_scores : bool   Items are Elements, index and score; otherwise indices alone.

    Members
    -------
    command : In(stream of Command)
    scores : In(stream of width x bits)   Unsigned; lane 0 of word 0 is element 0, the last word may be partial.
    o : Out(stream of DenseBeat(Element or index))
    busy : Out(1)    A call is under way.
    clear : In(1)    Forget it.
    """

    def __init__(
        self, *, sizes: TopKSizes, method: str = "radix", digit: int = DIGIT, with_scores: bool = False
    ) -> None:
        check_method(sizes, method, digit)
        self._sizes, self._method, self._digit = sizes, method, digit
        self._item = Element(sizes) if with_scores else data.StructLayout({"index": sizes.index_bits})
        super().__init__(
            {
                "command": In(stream.Signature(Command(sizes))),
                "scores": In(stream.Signature(sizes.word_bits)),
                "o": Out(stream.Signature(DenseBeat(self._item, sizes.width))),
                "busy": Out(1),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Marks, then packing."""
        m = Module()
        m.submodules.mask = mask = TopKMask(sizes=self._sizes, method=self._method, digit=self._digit)
        eliminator = ZeroEliminator(shape=self._item, width=self._sizes.width)
        m.submodules.eliminator = ResetInserter(self.clear)(eliminator)
        wiring.connect(m, wiring.flipped(self.command), mask.command)
        wiring.connect(m, wiring.flipped(self.scores), mask.scores)
        wiring.connect(m, eliminator.o, wiring.flipped(self.o))
        source, sink = mask.o.payload, eliminator.i.payload
        m.d.comb += [
            eliminator.i.valid.eq(mask.o.valid),
            mask.o.ready.eq(eliminator.i.ready),
            *(sink.mask.eq(source.mask), sink.last.eq(source.last), sink.error.eq(source.error)),
            mask.clear.eq(self.clear),
            self.busy.eq(mask.busy | eliminator.busy),
        ]
        for lane, item in enumerate(sink.items):
            m.d.comb += [item[name].eq(source.items[lane][name]) for name, _ in self._item]
        return m

"""Goes through a vector again and marks what is kept: scores above the threshold, and the first equal to it."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.pruning.eliminate import prefix_counts
from hwgen.pruning.words import Element, Found, SparseBeat, TopKSizes, present


class KeepFilter(wiring.Component):
    """Reads a buffer of scores word by word and gives every element with its index and whether it is kept.

    Timing
    ------
    One word a cycle. The first beat is offered `LATENCY` cycles after `found` was taken. Another `found` is taken when
    the last word has been compared, so a vector of W words takes W + 2 cycles in a stream of vectors.

    Parameters
    ----------
    sizes : TopKSizes

    Members
    -------
    found : In(stream of Found)
    read_address : Out(address_bits)
    read_data : In(width x bits)       One cycle after its address; word 0 in the cycle after `found` is taken.
    o : Out(stream of SparseBeat(Element))   A beat for each word; one without elements if `found.error`.
    busy : Out(1)                      A vector is under way.
    """

    LATENCY = 3

    def __init__(self, *, sizes: TopKSizes) -> None:
        self._sizes = sizes
        super().__init__(
            {
                "found": In(stream.Signature(Found(sizes))),
                "read_address": Out(sizes.address_bits),
                "read_data": In(sizes.word_bits),
                "o": Out(stream.Signature(SparseBeat(Element(sizes), sizes.width))),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Compare, then rank those equal to the threshold, then offer."""
        m = Module()
        sizes, lanes = self._sizes, range(self._sizes.width)
        found, running, word = Signal(Found(sizes)), Signal(), Signal(sizes.address_bits)
        left, last_word = Signal(sizes.count_bits), Signal()
        compared, above, equal = Signal(), Signal(sizes.width), Signal(sizes.width)
        scores, number, last = Signal(sizes.word_bits, reset_less=True), Signal.like(word), Signal()
        offer, moves = ~self.o.valid | self.o.ready, Signal()

        m.d.comb += [
            moves.eq(~compared | offer),
            last_word.eq(left <= sizes.width),
            self.found.ready.eq(~running & ~compared),
            self.read_address.eq(Mux(moves & running, word + 1, word)),
            self.busy.eq(running | compared | self.o.valid),
        ]
        with m.If(self.found.valid & self.found.ready):
            payload = self.found.payload
            m.d.sync += [found.eq(payload), running.eq(1), word.eq(0), left.eq(payload.length)]
        with m.If(moves):
            there = Cat(present(left, sizes.width))
            parts = [self.read_data.word_select(lane, sizes.bits) for lane in lanes]
            m.d.sync += [
                compared.eq(running),
                above.eq(there & Cat(part > found.threshold for part in parts)),
                equal.eq(there & Cat(part == found.threshold for part in parts)),
                *(scores.eq(self.read_data), number.eq(word), last.eq(last_word)),
            ]
            with m.If(running):
                m.d.sync += [word.eq(word + 1), left.eq(left - sizes.width), running.eq(~last_word)]
        self._offer(m, found, compared, offer, above, equal, scores, number, last)
        return m

    def _offer(self, m, found, compared, offer, above, equal, scores, number, last) -> None:
        sizes = self._sizes
        ranks = prefix_counts(m, list(equal), "tie")
        count = ranks[-1]
        beat = self.o.payload
        with m.If(offer):
            m.d.sync += [
                self.o.valid.eq(compared),
                beat.mask.eq(above | Cat(equal[i] & (ranks[i] < found.ties) for i in range(sizes.width))),
                beat.last.eq(last),
                beat.error.eq(found.error),
            ]
            for lane, item in enumerate(beat.items):
                index = Cat(Const(lane, (sizes.width - 1).bit_length()), number)
                m.d.sync += [item.index.eq(index), item.score.eq(scores.word_select(lane, sizes.bits))]
            with m.If(compared):
                m.d.sync += found.ties.eq(Mux(found.ties > count, found.ties - count, 0))

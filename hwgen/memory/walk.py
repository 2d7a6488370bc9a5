"""Walk over strided blocks of accumulator words side by side, as the vector engine needs it."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.lib.shapes import WORD_BITS

COUNT_BITS = 16


class Walk(data.StructLayout):
    """`rows` rows of `words` words, both at least 1, of `blocks` blocks: first word and words between rows of each.

    A block with `hold` stays at the first word of each row.
    """

    def __init__(self, blocks: int) -> None:
        corner = data.StructLayout({"addr": WORD_BITS, "stride": WORD_BITS, "hold": 1})
        super().__init__({"rows": COUNT_BITS, "words": COUNT_BITS, "corners": data.ArrayLayout(corner, blocks)})


class Step(data.StructLayout):
    """One word of each block, a bit wider than an address so that leaving the scratchpad shows; the next one too if
    `pair`, but not of blocks with hold (`holds`, a bit for each block).

    `first` and `last` step of the walk, and last step of a row (`row_end`).
    """

    def __init__(self, blocks: int) -> None:
        words = data.ArrayLayout(WORD_BITS + 1, blocks)
        super().__init__({"words": words, "holds": blocks, "pair": 1, "first": 1, "row_end": 1, "last": 1})


class BlockWalker(wiring.Component):
    """Visits the words of a few blocks of one shape side by side, in ascending (row, word), `pace` words of a row in
    each step; the last step of a row has what is left of it.

    Timing
    ------
    The first step is offered 1 cycle after the walk has been taken; one step a cycle, also from walk to walk.

    Parameters
    ----------
    blocks : int     Blocks side by side.
    pace : int       Words of a row in a step, 1 or 2.

    Members
    -------
    i : In(stream of Walk)
    o : Out(stream of Step)    Once a word lies outside every scratchpad (2**20), `clear` must follow: later ones wrap.
    clear : In(1)              Forget the walk under way.
    """

    LATENCY = 1

    def __init__(self, *, blocks: int, pace: int) -> None:
        self._blocks, self._pace = blocks, pace
        super().__init__(
            {"i": In(stream.Signature(Walk(blocks))), "o": Out(stream.Signature(Step(blocks))), "clear": In(1)}
        )

    def elaborate(self, platform: object) -> Module:
        """Counters of words and rows; for each block the word and the first word of the row."""
        m = Module()
        active, first = Signal(), Signal()
        held = Signal(Walk(self._blocks), reset_less=True)
        words_left = Signal(COUNT_BITS, reset_less=True)
        rows_left = Signal(COUNT_BITS, reset_less=True)
        step, walk = self.o.payload, self.i.payload
        do_step = self.o.valid & self.o.ready
        do_walk = self.i.valid & self.i.ready

        m.d.comb += [
            self.o.valid.eq(active),
            step.first.eq(first),
            step.holds.eq(Cat(corner.hold for corner in held.corners)),
            step.pair.eq((words_left != 1) if self._pace == 2 else 0),
            step.row_end.eq((words_left == 1) | (words_left == self._pace)),
            step.last.eq(step.row_end & (rows_left == 1)),
            self.i.ready.eq(~active | (do_step & step.last)),
        ]
        with m.If(do_walk | do_step):
            m.d.sync += first.eq(do_walk)
        with m.If(do_walk):
            m.d.sync += [active.eq(1), held.eq(walk), words_left.eq(walk.words), rows_left.eq(walk.rows)]
        with m.Elif(do_step):
            m.d.sync += words_left.eq(words_left - self._pace)
            with m.If(step.row_end):
                m.d.sync += [words_left.eq(held.words), rows_left.eq(rows_left - 1), active.eq(~step.last)]
        with m.If(self.clear):
            m.d.sync += active.eq(0)

        for index in range(self._blocks):
            word = Signal(WORD_BITS + 1, name=f"word_{index}", reset_less=True)
            row = Signal(WORD_BITS + 1, name=f"row_{index}", reset_less=True)
            next_row = row + held.corners[index].stride
            m.d.comb += step.words[index].eq(word)
            with m.If(do_walk):
                m.d.sync += [word.eq(walk.corners[index].addr), row.eq(walk.corners[index].addr)]
            with m.Elif(do_step & step.row_end):
                m.d.sync += [word.eq(next_row), row.eq(next_row)]
            with m.Elif(do_step):
                m.d.sync += word.eq(word + Mux(held.corners[index].hold, 0, self._pace))
        return m

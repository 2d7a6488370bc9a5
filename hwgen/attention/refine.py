"""LSBs key by key: which keys of a row that is not confident may still matter."""

from amaranth.hdl import Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import DIFFERENCE_BITS, RECORD, SCORE_BITS, AttentionSizes
from hwgen.attention.maximum import larger, largest, levels
from hwgen.attention.multiply import register
from hwgen.attention.serial import OneByOne, Single
from hwgen.attention.words import FLOOR_BITS, INDEX_BITS, LaneScores
from hwgen.lib.pipeline import delay
from hwgen.pruning.eliminate import ZeroEliminator

_WIDTHS = {item.name: item.width for item in RECORD}
MAGNITUDE_BITS = 23
"""Bits of the sum of |q|: 128 elements of 15 bits and the sign's, 2^15 each at most."""
MARGIN_BITS = 5
OCTAVE_SUM = 16
"""floor(log2 S) of a sum of 1: below, the largest probability is 1."""


class RefineCommand(data.StructLayout):
    """One row. maximum : of its scores. n : floor(log2 S). gap, octave : of the head record. margin : of the job.

    magnitude : sum of |q|.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "maximum": signed(SCORE_BITS),
                "n": FLOOR_BITS,
                "gap": _WIDTHS["key_gap"],
                "octave": _WIDTHS["key_octave"],
                "margin": MARGIN_BITS,
                "magnitude": MAGNITUDE_BITS,
            }
        )


class KeySelection(wiring.Component):
    """The seen keys with maximum - score <= gap - max(0, n - 16) x octave + margin x magnitude, one by one, ascending.

    Timing
    ------
    A word of scores a cycle, from `COMMAND_LATENCY` cycles after its command on; a word is compared in the cycle after
    it is taken. Rows follow one another. The rest of a row comes `rest_latency` cycles behind its last word.

    Parameters
    ----------
    sizes : AttentionSizes

    Members
    -------
    command : In(stream of RefineCommand)
    i : In(stream of LaneScores)
    o : Out(stream of Single(index))   `none` where no key of a row matters.
    rest : Out(signed(SCORE_BITS)), rest_seen : Out(1), rest_valid : Out(1)    Largest score of the other seen keys of a
        row, and whether there are any.
    busy : Out(1)
    """

    COMMAND_LATENCY = 2
    REACH_BITS = 46
    """Signed; a gap of 40 bits less 15 octaves of 40 bits."""

    def __init__(self, sizes: AttentionSizes) -> None:
        self._lanes = sizes.softmax_lanes
        super().__init__(
            {
                "command": In(stream.Signature(RefineCommand())),
                "i": In(stream.Signature(LaneScores(sizes))),
                "o": Out(stream.Signature(Single(INDEX_BITS))),
                "rest": Out(signed(SCORE_BITS)),
                "rest_seen": Out(1),
                "rest_valid": Out(1),
                "busy": Out(1),
            }
        )

    @property
    def rest_latency(self) -> int:
        """Cycles from the last word of a row to the largest score that is not among its items."""
        return 1 + levels(self._lanes) + 1

    def elaborate(self, platform: object) -> Module:
        """Reach | compare | packing, one by one."""
        m = Module()
        m.submodules.eliminator = eliminator = ZeroEliminator(shape=INDEX_BITS, width=self._lanes)
        m.submodules.serial = serial = OneByOne(shape=INDEX_BITS, width=self._lanes)
        wiring.connect(m, eliminator.o, serial.i)
        wiring.connect(m, serial.o, wiring.flipped(self.o))
        known, working, maximum, reach = self._reach(m)
        word, base, sink = self.i.payload, Signal(INDEX_BITS), eliminator.i
        take, room, near = Signal(), ~sink.valid | sink.ready, Signal(self._lanes)
        m.d.comb += [self.i.ready.eq(known & room), take.eq(self.i.valid & self.i.ready)]
        with m.If(room):
            m.d.sync += sink.valid.eq(take)
        for lane in range(self._lanes):
            difference = (maximum - word.scores[lane])[:DIFFERENCE_BITS]
            m.d.comb += near[lane].eq(word.seen[lane] & (difference <= reach))
        with m.If(take):
            m.d.sync += [base.eq(Mux(word.last, 0, base + self._lanes)), sink.payload.last.eq(word.last)]
            with m.If(word.last):
                m.d.sync += known.eq(0)
            for lane in range(self._lanes):
                m.d.sync += [sink.payload.mask[lane].eq(near[lane]), sink.payload.items[lane].eq(base + lane)]
        self._rest(m, take, near)
        m.d.comb += self.busy.eq(known | working | sink.valid | eliminator.busy | serial.o.valid)
        return m

    def _rest(self, m: Module, take: Signal, near: Signal) -> None:
        """The largest score that stays as it is: of a word, then of the row."""
        word, cycles = self.i.payload, 1 + levels(self._lanes)
        scores = [Value.cast(word.scores[lane]).as_signed() for lane in range(self._lanes)]
        far = [(word.seen[lane] & ~near[lane], score) for lane, score in enumerate(scores)]
        best = largest(m, [tuple(register(m, part, "far") for part in pair) for pair in far], "far_best")
        valid, last = delay(m, take, cycles, "far_valid", reset=True), delay(m, word.last, cycles, "far_last")
        first = Signal(init=1)
        seen, score = larger((self.rest_seen & ~first, self.rest), best)
        m.d.sync += self.rest_valid.eq(valid & last)
        with m.If(valid):
            m.d.sync += [self.rest_seen.eq(seen), self.rest.eq(score), first.eq(last)]

    def _reach(self, m: Module) -> tuple[Signal, Signal, Signal, Signal]:
        """Of the row at hand: whether it is known, is being worked out, the maximum, and the reach."""
        known, working = Signal(), Signal()
        maximum = Signal(signed(SCORE_BITS), reset_less=True)
        less = Signal(_WIDTHS["key_octave"] + FLOOR_BITS - 1, reset_less=True)
        more = Signal(MAGNITUDE_BITS + MARGIN_BITS, reset_less=True)
        gap = Signal(_WIDTHS["key_gap"], reset_less=True)
        reach = Signal(signed(self.REACH_BITS), reset_less=True)
        row = self.command.payload
        octaves = Signal(FLOOR_BITS - 1)
        m.d.comb += [
            self.command.ready.eq(~known & ~working),
            octaves.eq(Mux(row.n > OCTAVE_SUM, row.n - OCTAVE_SUM, 0)),
        ]
        with m.If(self.command.valid & self.command.ready):
            m.d.sync += [
                working.eq(1),
                maximum.eq(row.maximum),
                less.eq(octaves * row.octave),
                more.eq(row.margin * row.magnitude),
                gap.eq(row.gap),
            ]
        with m.If(working):
            m.d.sync += [working.eq(0), known.eq(1), reach.eq(gap + more - less)]
        return known, working, maximum, reach

"""Quick-select as the published top-k engine does it: pivots, parallel comparators, two zero eliminators."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value

from hwgen.lib.pipeline import delay, select_part
from hwgen.lib.ram import Ram
from hwgen.pruning.count import tree_sum
from hwgen.pruning.eliminate import ZeroEliminator, eliminator_latency
from hwgen.pruning.selector import Selector
from hwgen.pruning.words import TopKSizes, present

PASS_OVERHEAD = 4
"""Cycles of a pass beside those of its words: two to count and decide, two to fetch the next pivot."""


def partition_gap(width: int) -> int:
    """Cycles that a pass of a partition waits for the eliminators beyond `PASS_OVERHEAD`."""
    return eliminator_latency(width) - 2


class QuickSelect(Selector):
    """Finds the k-th largest score by partition, as SpAtten does (arXiv 2012.09852).

    A pass compares all candidates with a pivot, the middle one of them or the first of two: larger ones are packed into
    one memory, smaller ones into another, equal ones are counted. Then the k-th largest is among the larger, is the
    pivot, or is among the smaller, and the search goes on there. Ranks count from 1; the published listing is off by
    one. The pivot leaves the candidates in every pass, so equal scores cannot make it hang.

    Timing
    ------
    A pass over c candidates takes ceil(c / width) + `PASS_OVERHEAD` cycles, and `partition_gap` more if a pass follows.
    The number of passes depends on the scores: about 12 for 1,024 random ones, at worst one for each score.

    Parameters
    ----------
    sizes : TopKSizes

    Members
    -------
    Those of `Selector`.
    """

    def __init__(self, *, sizes: TopKSizes) -> None:
        super().__init__(sizes=sizes)
        self._pivot, self._count = Signal(sizes.bits), Signal(sizes.count_bits)
        self._source = Signal(2)
        self._larger, self._equal = Signal(sizes.count_bits), Signal(sizes.count_bits)
        self._ties = Signal(sizes.count_bits)

    def elaborate(self, platform: object) -> Module:
        """Two memories beside the buffer, comparators, and the passes."""
        m = Module()
        sizes = self.sizes
        self.connect_buffer(m)
        sides = {"larger": _Side(m, self, "larger"), "smaller": _Side(m, self, "smaller")}
        words = Signal(sizes.word_bits)
        m.d.comb += words.eq(
            Mux(
                self._source[1],
                sides["smaller"].read_data,
                Mux(self._source[0], sides["larger"].read_data, self.read_data),
            )
        )
        word = Signal()
        there = present(self.left, sizes.width)
        scores = [words.word_select(lane, sizes.bits) for lane in range(sizes.width)]
        masks = {
            "larger": Cat(a & (score > self._pivot) for a, score in zip(there, scores)),
            "smaller": Cat(a & (score < self._pivot) for a, score in zip(there, scores)),
        }
        equal = Cat(a & (score == self._pivot) for a, score in zip(there, scores))
        counts = [Signal(range(sizes.width + 1), name=f"count_{name}") for name in ("larger", "equal")]
        m.d.sync += [
            register.eq(Mux(word, tree_sum(list(mask)), 0)) for register, mask in zip(counts, (masks["larger"], equal))
        ]
        larger, same = self._larger + counts[0], self._equal + counts[1]
        m.d.sync += [self._larger.eq(larger), self._equal.eq(same)]
        for name, side in sides.items():
            side.write(m, word, masks[name], scores, self.last_word)
        self._control(m, words, word)
        return m

    def _control(self, m: Module, words: Value, word: Value) -> None:
        sizes, lane_bits = self.sizes, self.sizes.width.bit_length() - 1
        decided = delay(m, word & self.last_word, 2, "decided", reset=True)
        middle = (self._count - 1)[1:]
        lane = Signal(max(1, lane_bits))
        with m.FSM():
            with m.State("COMMAND"):
                self.take_command(m, "ARRIVE", "FOUND")
                m.d.sync += [self._source.eq(0), self._count.eq(self.command.payload.length)]
            with m.State("ARRIVE"):
                self.take_scores(m, "MIDDLE")
            with m.State("MIDDLE"):
                m.d.comb += self.read_address.eq(middle >> lane_bits)
                m.d.sync += lane.eq(middle[:lane_bits])
                self.begin_pass(m, self._count)
                m.next = "PIVOT"
            with m.State("PIVOT"):
                m.d.sync += [self._pivot.eq(select_part(m, words, lane, sizes.bits)), self._larger.eq(0)]
                m.d.sync += self._equal.eq(0)
                m.next = "PASS"
            with m.State("PASS"):
                self.read_pass(m, word, "DECIDE")
            with m.State("DECIDE"), m.If(decided):
                self._decide(m)
            if partition_gap(sizes.width):
                self._wait(m, partition_gap(sizes.width))
            with m.State("FOUND"):
                self.give_found(m, self._pivot, self._ties, "COMMAND")

    def _wait(self, m: Module, gap: int) -> None:
        waited = Signal(range(gap + 1))
        with m.State("WAIT"):
            m.d.sync += waited.eq(waited + 1)
            with m.If(waited + 1 == gap):
                m.d.sync += waited.eq(0)
                m.next = "MIDDLE"

    def _decide(self, m: Module) -> None:
        """Go on among the larger, among the smaller, or end with the pivot."""
        following = "WAIT" if partition_gap(self.sizes.width) else "MIDDLE"
        up_to_pivot = self._larger + self._equal
        m.d.sync += self._ties.eq(self.need - self._larger)
        with m.If(self.need == 0):
            m.d.sync += [self._pivot.eq(-1), self._ties.eq(0)]
            m.next = "FOUND"
        with m.Elif(self.need <= self._larger):
            m.d.sync += [self._source.eq(1), self._count.eq(self._larger)]
            m.next = following
        with m.Elif(self.need <= up_to_pivot):
            m.next = "FOUND"
        with m.Else():
            m.d.sync += self._source.eq(2)
            m.d.sync += [self._count.eq(self._count - up_to_pivot), self.need.eq(self.need - up_to_pivot)]
            m.next = following


class _Side:
    """The memory of one side of the partition; a pass writes it in place, behind what it reads."""

    def __init__(self, m: Module, select: QuickSelect, name: str) -> None:
        sizes = select.sizes
        self._ram = ram = Ram(width=sizes.word_bits, depth=sizes.depth)
        self._eliminator = ZeroEliminator(shape=sizes.bits, width=sizes.width)
        m.submodules[f"{name}_memory"], m.submodules[f"{name}_eliminator"] = ram, self._eliminator
        m.d.comb += ram.read_address.eq(select.read_address)
        self.read_data = ram.read_data

    def write(self, m: Module, valid: Value, mask: Value, scores: list[Value], last: Value) -> None:
        """Pack the scores of `mask`."""
        items, packed = self._eliminator.i.payload, self._eliminator.o
        place = Signal.like(self._ram.write_address)
        m.d.comb += [
            self._eliminator.i.valid.eq(valid),
            *(items.mask.eq(mask), items.last.eq(last)),
            *(item.eq(score) for item, score in zip(items.items, scores)),
            packed.ready.eq(1),
            self._ram.write_enable.eq(packed.valid),
            self._ram.write_address.eq(place),
            self._ram.write_data.eq(Value.cast(packed.payload.items)),
        ]
        with m.If(packed.valid):
            m.d.sync += place.eq(Mux(packed.payload.last, 0, place + 1))

"""Radix selection: digit by digit from the top, the first one counted while the scores arrive."""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value

from hwgen.lib.pipeline import delay, select_part
from hwgen.lib.ram import Ram
from hwgen.pruning.count import DigitCounter
from hwgen.pruning.eliminate import ZeroEliminator, eliminator_latency
from hwgen.pruning.selector import Selector
from hwgen.pruning.words import TopKSizes, present

DECIDE = DigitCounter.LATENCY + 2
"""Cycles from the last word of a pass to its decision: a register before the counter, one behind the comparisons."""
DIGIT = 4
"""Bits of a digit, unless said otherwise."""


def candidate_gap(width: int) -> int:
    """Cycles that a pass of packed candidates waits for the eliminator after its decision.

    A word is written `eliminator_latency` + 1 cycles after the last of its pass; only one that is not the first can
    come a cycle later.
    """
    return max(0, eliminator_latency(width) + 2 - DECIDE)


def check_digit(sizes: TopKSizes, digit: int) -> None:
    """Raise ValueError unless scores of these sizes can be counted by digits of `digit` bits."""
    limit = min(8, sizes.bits - 1)
    if not 1 <= digit <= limit:
        raise ValueError(f"RadixSelect digit must be between 1 and {limit}, not {digit!r}")


class RadixSelect(Selector):
    """Finds the k-th largest score by its digits, the highest first.

    A pass counts one digit of the *candidates*, the elements that agree with the k-th largest in all higher digits. The
    first pass is the arrival of the scores, the second reads the buffer, later ones a memory into which each
    pass packs its candidates. Digits in which no two candidates differ are passed over. The search ends when all
    candidates with the digit found are to be kept, or when no lower digit differs, so it always ends.

    Timing
    ------
    A pass of w words takes w cycles, its decision comes `DECIDE` cycles after the last word. The next pass begins in
    the cycle after; one that is not the second waits for `candidate_gap` more. `found` is offered in the cycle after
    the last decision. `hwgen/pruning/cycles.py` has the law.

    Parameters
    ----------
    sizes : TopKSizes
    digit : int   Bits of a digit; a pass has 2**digit counters. With two digits there is no memory of candidates.

    Members
    -------
    Those of `Selector`.
    """

    def __init__(self, *, sizes: TopKSizes, digit: int = DIGIT) -> None:
        check_digit(sizes, digit)
        super().__init__(sizes=sizes)
        self._digit, self._digits = digit, -(-sizes.bits // digit)
        self._tail = digit * (self._digits - 1)
        self._position = Signal(range(self._digits))
        self._matching, self._wanted = Signal(range(self._digits)), Signal(digit)
        self._threshold = Signal(digit * self._digits)
        self._ties = Signal(sizes.count_bits)
        self._arrival, self._packed = Signal(), Signal()

    def elaborate(self, platform: object) -> Module:
        """The pass that is under way: its words, its counter, its decision."""
        m = Module()
        sizes, digit = self.sizes, self._digit
        self.connect_buffer(m)
        m.submodules.counter = counter = DigitCounter(
            width=sizes.width, digit=digit, tail=self._tail, count_bits=sizes.count_bits
        )
        if self._digits > 2:
            m.submodules.candidates = self._candidates = Ram(width=sizes.width * self._tail, depth=sizes.depth)

        word, arriving, first = Signal(), Signal(), Signal()
        keys = self._keys(m, arriving)
        matches = [arriving | (select_part(m, key, self._matching, digit) == self._wanted) for key in keys]
        m.d.sync += [
            counter.valid.eq(word),
            counter.first.eq(first),
            counter.mask.eq(Cat(present(self.left, sizes.width)) & Cat(matches)),
            *(counter.tails[lane].eq(key[: self._tail]) for lane, key in enumerate(keys)),
            *(counter.digits[lane].eq(select_part(m, key, self._position, digit)) for lane, key in enumerate(keys)),
        ]
        with m.If(word):
            m.d.sync += first.eq(0)
        if self._digits > 2:
            self._pack(m, counter)
        decision = _Decision(self, m, counter)
        decided = delay(m, word & self.last_word, DECIDE, "decided", reset=True)
        self._control(m, decision, decided, word, arriving, first)
        return m

    def _keys(self, m: Module, arriving: Value) -> list[Signal]:
        """The scores of this word, filled up with zeros below to whole digits."""
        sizes, key_bits = self.sizes, self._digit * self._digits
        words = Signal(sizes.word_bits, name="words")
        m.d.comb += words.eq(Mux(arriving, self.scores.payload, self.read_data))
        keys = [Signal(key_bits, name=f"key_{lane}") for lane in range(sizes.width)]
        for lane, key in enumerate(keys):
            m.d.comb += key.eq(Cat(Const(0, key_bits - sizes.bits), words.word_select(lane, sizes.bits)))
        if self._digits > 2:
            with m.If(self._packed):
                packed = self._candidates.read_data
                m.d.comb += [key.eq(packed.word_select(lane, self._tail)) for lane, key in enumerate(keys)]
        return keys

    def _pack(self, m: Module, counter: DigitCounter) -> None:
        """Candidates go to their memory, in place: a word is written after all it is made of has been read."""
        m.submodules.eliminator = eliminator = ZeroEliminator(shape=self._tail, width=self.sizes.width)
        place, items = Signal(self.sizes.address_bits), eliminator.i.payload
        m.d.comb += [
            eliminator.i.valid.eq(counter.valid & ~self._arrival),
            items.mask.eq(counter.mask),
            items.last.eq(delay(m, self.last_word, 1, "last_word")),
            *(items.items[lane].eq(counter.tails[lane]) for lane in range(self.sizes.width)),
            eliminator.o.ready.eq(1),
            self._candidates.write_enable.eq(eliminator.o.valid),
            self._candidates.write_address.eq(place),
            self._candidates.write_data.eq(Value.cast(eliminator.o.payload.items)),
            self._candidates.read_address.eq(self.read_address),
        ]
        with m.If(eliminator.o.valid):
            m.d.sync += place.eq(Mux(eliminator.o.payload.last, 0, place + 1))

    def _control(self, m, decision: "_Decision", decided: Value, word: Value, arriving: Value, first: Value) -> None:
        gap = candidate_gap(self.sizes.width)
        waited = delay(m, decided, gap, "waited", reset=True)
        with m.FSM():
            with m.State("COMMAND"):
                self.take_command(m, "ARRIVE", "FOUND")
                m.d.sync += [first.eq(1), self._arrival.eq(1), self._packed.eq(0), self._position.eq(self._digits - 1)]
            with m.State("ARRIVE"):
                m.d.comb += [arriving.eq(1), word.eq(self.scores.valid)]
                self.take_scores(m, "DECIDE")
            with m.State("DECIDE"), m.If(decided):
                decision.take(m)
                self.begin_pass(m, decision.candidates)
                m.d.sync += [first.eq(1), self._arrival.eq(0), self._packed.eq(~self._arrival)]
                with m.If(decision.ends):
                    m.next = "FOUND"
                with m.Else():
                    m.next = "WAIT" if gap else "PASS"
                with m.If(~decision.ends & self._arrival):
                    m.next = "PASS"
            with m.State("WAIT"), m.If(waited):
                m.next = "PASS"
            with m.State("PASS"):
                self.read_pass(m, word, "DECIDE")
            with m.State("FOUND"):
                self.give_found(m, self._threshold[-self.sizes.bits :], self._ties, "COMMAND")


class _Decision:
    """What the counts of a pass mean; valid `DECIDE` cycles after its last word."""

    def __init__(self, select: RadixSelect, m: Module, counter: DigitCounter) -> None:
        self._select, self._counter = select, counter
        values, digit = range(1 << select._digit), select._digit
        reached, exact, differs = Signal(len(values)), Signal(), Signal(select._digits)
        m.d.sync += [
            reached.eq(Cat(counter.at_least[value] >= select.need for value in values)),
            exact.eq(reduce(or_, (counter.at_least[value] == select.need for value in values))),
            differs.eq(
                Cat((counter.ones ^ counter.some).word_select(i, digit).any() for i in range(select._digits - 1))
            ),
        ]
        self.candidates = counter.at_least[0]
        chosen = [reached[value] & ~(reached[value + 1] if value + 1 < len(values) else 0) for value in values]
        self.bin = Signal(digit, name="bin")
        self.above = Signal(select.sizes.count_bits, name="above")
        m.d.comb += self.bin.eq(reduce(or_, (Mux(bit, value, 0) for value, bit in enumerate(chosen))))
        m.d.comb += self.above.eq(
            reduce(or_, (Mux(bit, counter.at_least[value + 1], 0) for value, bit in enumerate(chosen[:-1])))
        )
        lower = [differs[place] & (select._position > place) for place in range(select._digits - 1)]
        self.next_position = Signal.like(select._position, name="next_position")
        for place, bit in enumerate(lower):
            with m.If(bit):
                m.d.comb += self.next_position.eq(place)
        self.nothing = select.need == 0
        self.ends = exact | self.nothing | ~reduce(or_, lower)

    def take(self, m: Module) -> None:
        """Fix the digit found; the lower ones become what all candidates have in common, which none is below."""
        select, digit = self._select, self._select._digit
        for place in range(select._digits):
            part = select._threshold.word_select(place, digit)
            with m.If(select._position == place):
                m.d.sync += part.eq(self.bin)
            if place < select._digits - 1:
                with m.Elif(select._position > place):
                    m.d.sync += part.eq(self._counter.ones.word_select(place, digit))
        with m.If(self.nothing):
            m.d.sync += select._threshold.eq(-1)
        m.d.sync += [
            select._ties.eq(select.need - self.above),
            select.need.eq(select.need - self.above),
            select._matching.eq(select._position),
            select._wanted.eq(self.bin),
            select._position.eq(self.next_position),
        ]

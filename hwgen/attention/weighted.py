"""Weighted sums of values: multipliers, rows of a word added, accumulators, and their way out."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import CHUNK, EXP_BITS, OUTPUT_BITS, AttentionSizes
from hwgen.attention.multiply import HALF_SHIFT, LARGEST_HEAD, ChunkScale, operands
from hwgen.attention.words import ElementWord, WeightedCommand
from hwgen.lib.shared import Shared

SPLIT = 24
"""Bits of the lower half of a sum that is multiplied by a factor."""


class WeightedSums(data.StructLayout):
    """`output_lanes` sums of a row, in the order of its elements; `last` ends the row."""

    def __init__(self, sizes: AttentionSizes) -> None:
        super().__init__({"sums": data.ArrayLayout(signed(OUTPUT_BITS), sizes.output_lanes), "last": 1})


class WeightedSum(wiring.Component):
    """Sums of e x value over the values of a row, in one pass or several.

    A pass is a command and the words up to the one with `last`. Its sums start at 0 (`first`), go on, or go on from
    (sum x factor + 2^15) >> 16 (`rescale`). They leave behind the pass with `last`, while the next row is added up.

    Timing
    ------
    A word a cycle, passes back to back. The first sums of a row are offered `latency` cycles after its last word was
    taken, then `output_lanes` a cycle. A row ends when the one before it has left: rows shorter than head size /
    `output_lanes` words wait. A factor takes `rescale_cycles` more.

    Parameters
    ----------
    sizes : AttentionSizes   R = `multipliers` / 16.

    Members
    -------
    command : In(stream of WeightedCommand)
    i : In(stream of ElementWord)
    weights : In(stream of R x e)    Of the rows of a word in their order, taken with the last word of the rows.
    o : Out(stream of WeightedSums)
    busy : Out(1)
    """

    def __init__(self, sizes: AttentionSizes) -> None:
        self._sizes, self._count, self._rows = sizes, sizes.multipliers, sizes.multipliers // CHUNK
        self._wide, self._lanes = min(self._count, LARGEST_HEAD), sizes.output_lanes
        self._parts = LARGEST_HEAD // self._wide
        self._fold_levels = self._rows.bit_length() - 1
        super().__init__(
            {
                "command": In(stream.Signature(WeightedCommand())),
                "i": In(stream.Signature(ElementWord(sizes))),
                "weights": In(stream.Signature(data.ArrayLayout(unsigned(EXP_BITS), self._rows))),
                "o": Out(stream.Signature(WeightedSums(sizes))),
                "busy": Out(1),
            }
        )

    @property
    def latency(self) -> int:
        """Cycles from the last word of a row to its first sums: products, rows added, weight of the pass, sums."""
        return self._addend_latency + 1

    @property
    def rescale_cycles(self) -> int:
        """Cycles that the words of a pass with `rescale` wait: all sums go through `output_lanes` multipliers."""
        return LARGEST_HEAD // self._lanes + 2

    @property
    def _addend_latency(self) -> int:
        return ChunkScale.LATENCY + (self._fold_levels + 1) // 2 + 1

    def elaborate(self, platform: object) -> Module:
        """Multiply | add rows | add to the sums | leave."""
        m = Module()
        self._go = go = Signal()
        word, row = self.i.payload, self.command.payload
        take, whole = Signal(), Signal()
        m.d.comb += [
            take.eq(self.command.valid & self.i.valid & self.weights.valid & go),
            whole.eq(word.part == (row.head_size - 1) // self._count),
            self.i.ready.eq(self.command.valid & self.weights.valid & go),
            self.weights.ready.eq(take & whole),
            self.command.ready.eq(take & word.last),
        ]
        tags = [self._tag(m, take, whole)]
        for number in range(self._addend_latency):
            tags.append(self._later(m, tags[-1], f"tag_{number}"))
        addends = self._addends(m, self._products(m), tags[-2])
        self._sums(m, addends, tags[-1])
        m.d.comb += self.busy.eq(Cat(*(tag.valid for tag in tags[1:])).any() | self.o.valid)
        return m

    def _later(self, m: Module, value: Value | data.View, name: str) -> Signal | data.View:
        """`value` of the cycle before, unless the pipeline waits."""
        tag = isinstance(value, data.View)
        later = Signal(value.shape(), name=name, reset_less=not tag)
        with m.If(self._go):
            m.d.sync += later.eq(value)
        return later

    def _tag(self, m: Module, take: Value, whole: Value) -> data.View:
        """What goes along with a word. begins : first row of a pass; ends : the sums of a row are complete."""
        names = ("begins", "whole", "ends", "half", "first", "rescale", "valid")
        layout = data.StructLayout(
            {
                "part": range(max(2, self._parts)),
                "level": range(max(2, len(self._levels()))),
                "head_size": 8,
                "factor": EXP_BITS,
                **dict.fromkeys(names, 1),
            }
        )
        tag, word, row, begins = Signal(layout), self.i.payload, self.command.payload, Signal(init=1)
        with m.If(take & whole):
            m.d.sync += begins.eq(word.last)
        m.d.comb += [
            tag.valid.eq(take),
            tag.part.eq(word.part),
            tag.begins.eq(begins),
            tag.whole.eq(whole),
            tag.ends.eq(word.last & row.last),
            tag.level.eq(sum(row.head_size > head for head in self._levels()[:-1])),
            *(tag[name].eq(row[name]) for name in ("head_size", "factor", "half", "first", "rescale")),
        ]
        return tag

    def _levels(self) -> list[int]:
        """Columns of the sums: heads up to so many elements use them."""
        return [size for size in (16, 32, 64, 128) if size <= self._wide]

    def _products(self, m: Module) -> list[Value]:
        """A product for each element, 0 for rows that a word does not have."""
        word, row = self.i.payload, self.command.payload
        values, products = operands(word, row.half), []
        for number in range(self._rows):
            m.submodules[f"chunk_{number}"] = chunk = Shared(ChunkScale)
            weight = Signal(EXP_BITS, name=f"weight_{number}")
            for size in reversed(self._levels()):
                own = number // (size // CHUNK)
                with m.If(row.head_size <= size) if size < self._wide else m.If(1):
                    m.d.comb += weight.eq(Mux(own < word.rows, self.weights.payload[own], 0))
            m.d.comb += [chunk.enable.eq(self._go), chunk.weight.eq(weight)]
            m.d.comb += [chunk.i[lane].eq(values[number * CHUNK + lane]) for lane in range(CHUNK)]
            products.extend(Value.cast(chunk.o[lane]) for lane in range(CHUNK))
        return products

    def _addends(self, m: Module, values: list[Value], tag: data.View) -> list[Value]:
        """What a word adds to each column: its rows added, as often as the pass counts."""
        folds = {self._count: values}
        for level in range(1, self._fold_levels + 1):
            size = self._count >> level
            above = folds[2 * size]
            folds[size] = [above[column] + above[column + size] for column in range(size)]
            if level % 2 == 0 or level == self._fold_levels:
                folds = {
                    key: [self._later(m, value, f"fold_{key}") for value in fold]
                    for key, fold in folds.items()
                    if key <= LARGEST_HEAD or key == size
                }
        addends = []
        for column in range(self._wide):
            own = Signal(signed(OUTPUT_BITS), name=f"own_{column}")
            with m.Switch(tag.level):
                for number, size in enumerate(self._levels()):
                    if column < size:
                        with m.Case(number):
                            m.d.comb += own.eq(folds[size][column])
            addends.append(self._later(m, Mux(tag.half, own << HALF_SHIFT, own)[:OUTPUT_BITS].as_signed(), "addend"))
        return addends

    def _sums(self, m: Module, addends: list[Value], tag: data.View) -> None:
        """Accumulators, and the sums that leave, which also take the accumulators through the multipliers."""
        width = OUTPUT_BITS * self._wide
        held = [Signal(width, name=f"held_{part}", reset_less=True) for part in range(self._parts)]
        leaving = Signal(width * self._parts, reset_less=True)
        left, scaled = Signal(range(LARGEST_HEAD // self._lanes + 1)), Signal()
        scaling = self._rescale(m, tag, held, leaving, left, scaled)
        base, bits = self._base(m, tag, held, leaving), OUTPUT_BITS
        columns = (base.word_select(at, bits).as_signed() + addend for at, addend in enumerate(addends))
        sums = Cat(column[:bits] for column in columns)
        free = (left == 0) | ((left == 1) & self.o.ready)
        waits = tag.begins & tag.rescale & ~tag.first & ~scaled
        m.d.comb += self._go.eq(~(tag.valid & (waits | (tag.ends & ~free))))
        with m.If(tag.valid & self._go):
            for part, own in enumerate(held):
                m.d.sync += own.eq(Mux(tag.part == part, sums, own))
        self._leave(m, leaving, left, scaling)
        with m.If(tag.valid & self._go & tag.ends):
            complete = (Mux(tag.part == part, sums, own) for part, own in enumerate(held))
            m.d.sync += [leaving.eq(Cat(*complete)), left.eq(tag.head_size // self._lanes)]

    def _base(self, m: Module, tag: data.View, held: list[Signal], leaving: Signal) -> Signal:
        """What the word at hand is added to: nothing, the sums so far, or those that were multiplied."""
        own, scaled, base = (Signal(OUTPUT_BITS * self._wide, name=name) for name in ("own", "scaled", "base"))
        with m.Switch(tag.part):
            for part, value in enumerate(held):
                with m.Case(part):
                    m.d.comb += [own.eq(value), scaled.eq(leaving.word_select(part, len(scaled)))]
        m.d.comb += base.eq(Mux(tag.begins, Mux(tag.first, 0, Mux(tag.rescale, scaled, own)), own))
        return base

    def _leave(self, m: Module, leaving: Signal, left: Signal, scaling: Value) -> None:
        """Sums leave `output_lanes` at a time; scaled ones come in behind them."""
        size = OUTPUT_BITS * self._lanes
        m.d.comb += [
            self.o.valid.eq(left != 0),
            Value.cast(self.o.payload.sums).eq(leaving[:size]),
            self.o.payload.last.eq(left == 1),
        ]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += left.eq(left - 1)
        with m.If((self.o.valid & self.o.ready) | scaling):
            m.d.sync += leaving.eq(Cat(leaving[size:], self._scaled))

    def _rescale(
        self, m: Module, tag: data.View, held: list[Signal], leaving: Signal, left: Signal, scaled: Signal
    ) -> Value:
        """Take the accumulators once through the multipliers. Gives whether that is under way."""
        turns = LARGEST_HEAD // self._lanes + 1
        turn = Signal(range(turns + 1))
        wanted = tag.valid & tag.begins & tag.rescale & ~tag.first
        factor = Cat(tag.factor, C(0, 1)).as_signed()
        parts = []
        for lane in range(self._lanes):
            value = leaving.word_select(lane, OUTPUT_BITS)
            low = Signal(signed(SPLIT + EXP_BITS + 1), name=f"scaled_low_{lane}", reset_less=True)
            high = Signal(signed(OUTPUT_BITS - SPLIT + EXP_BITS + 1), name=f"scaled_high_{lane}", reset_less=True)
            m.d.sync += [low.eq(value[:SPLIT] * factor), high.eq(value[SPLIT:].as_signed() * factor)]
            product = (high << SPLIT) + low + (1 << EXP_BITS - 1)
            parts.append((product >> EXP_BITS)[:OUTPUT_BITS])
        self._scaled = Cat(*parts)
        with m.If(turn != 0):
            m.d.sync += [turn.eq(turn - 1), scaled.eq(turn == 1)]
        with m.Elif(wanted & ~scaled & (left == 0)):
            m.d.sync += [turn.eq(turns), leaving.eq(Cat(*held))]
        with m.If(wanted & self._go & tag.whole):
            m.d.sync += scaled.eq(0)
        return turn != 0

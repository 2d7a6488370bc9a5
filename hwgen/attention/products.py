"""Products of a query with keys: multipliers, an adder tree that head sizes share, scores and the maximum of a row."""

from amaranth.hdl import Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import CHUNK, SCORE_BITS, AttentionSizes
from hwgen.attention.maximum import larger, largest, levels
from hwgen.attention.multiply import HALF_SHIFT, LARGEST_HEAD, ChunkProduct, operands, register
from hwgen.attention.refine import MAGNITUDE_BITS
from hwgen.attention.scores import StoredScores
from hwgen.attention.words import ELEMENT_BITS, INDEX_BITS, ElementWord, ProductCommand, ScoreWord
from hwgen.lib.pipeline import delay
from hwgen.lib.shared import Shared


class ProductResult(data.StructLayout):
    """One pass. maximum : of its seen scores; meaningless without. seen : there is one. magnitude : sum of |q|."""

    def __init__(self, sizes: AttentionSizes) -> None:
        buffer = (sizes.rows_in_flight - 1).bit_length()
        super().__init__(
            {"maximum": signed(SCORE_BITS), "seen": 1, "magnitude": MAGNITUDE_BITS, "buffer": buffer},
        )


class ScoreTag(data.StructLayout):
    """What goes along with a word. write, seen : places of its scores. level : sums of the tree that its rows are.

    single : it has one row, which may belong into any place. begins, ends : first and last word of its rows.
    """

    def __init__(self, sizes: AttentionSizes, levels: int) -> None:
        rows = sizes.multipliers // CHUNK
        super().__init__(
            {
                "index": INDEX_BITS,
                "write": rows,
                "seen": rows,
                "level": range(max(2, levels)),
                "buffer": (sizes.rows_in_flight - 1).bit_length(),
                **dict.fromkeys(("single", "begins", "ends", "half", "low", "last", "valid"), 1),
            }
        )


class Products(wiring.Component):
    """Scores of the keys of a row, their maximum, and the sum of magnitudes of the query.

    A pass is a command and the words up to the one with `last`. Keys from `keys` of the command on get no score. The
    query of every score buffer is kept until another one is written, so LSB passes find theirs.

    Timing
    ------
    A word a cycle, passes back to back. A score leaves `latency` cycles after its word (the last one of its key) was
    taken, the result of a pass `result_latency` cycles after its last word. The query of a pass is there if its last
    word came before the first word of the pass.

    Parameters
    ----------
    sizes : AttentionSizes   R = `multipliers` / 16.

    Members
    -------
    command : In(stream of ProductCommand)
    query : In(stream of ElementWord), query_buffer : In   Always taken.
    i : In(stream of ElementWord), mask : In(R)    Rows are in their order from a multiple of their number in a full
        word on, or single; bit r of the mask says that row r of the word may be seen.
    old_index, old_buffer, old_valid : Out, old : In(StoredScores(R))    `ScoreBuffers` answers a cycle later.
    o : Out(ScoreWord), o_buffer : Out, o_low : Out(1), o_valid : Out(1)    low : of an LSB pass.
    result : Out(ProductResult), result_valid : Out(1)
    """

    def __init__(self, sizes: AttentionSizes) -> None:
        self._sizes, self._count, self._rows = sizes, sizes.multipliers, sizes.multipliers // CHUNK
        self._wide = min(self._count, LARGEST_HEAD)
        self._parts = LARGEST_HEAD // self._wide
        buffer = (sizes.rows_in_flight - 1).bit_length()
        super().__init__(
            {
                "command": In(stream.Signature(ProductCommand(sizes))),
                "query": In(stream.Signature(ElementWord(sizes), always_ready=True)),
                "query_buffer": In(buffer),
                "i": In(stream.Signature(ElementWord(sizes))),
                "mask": In(self._rows),
                "old_index": Out(INDEX_BITS),
                "old_buffer": Out(buffer),
                "old_valid": Out(1),
                "old": In(StoredScores(self._rows)),
                "o": Out(ScoreWord(sizes)),
                "o_buffer": Out(buffer),
                "o_low": Out(1),
                "o_valid": Out(1),
                "result": Out(ProductResult(sizes)),
                "result_valid": Out(1),
            }
        )

    @property
    def _sum_latency(self) -> int:
        """Cycles from a word to the sums of its rows."""
        levels = (self._wide // CHUNK).bit_length() - 1
        return ChunkProduct.LATENCY + (levels + 1) // 2

    @property
    def latency(self) -> int:
        """Cycles from a word to its scores: sums, words of a row added, old scores added."""
        return self._sum_latency + 2

    @property
    def result_latency(self) -> int:
        """Cycles from the last word of a pass to its result: a register for each level of the maximum, one more."""
        return self.latency + levels(self._rows) + 1

    def elaborate(self, platform: object) -> Module:
        """Multiply and add | words of a row | old scores | maximum."""
        m = Module()
        m.d.comb += [
            self.i.ready.eq(self.command.valid),
            self.command.ready.eq(self.i.valid & self.i.payload.last),
        ]
        sums = self._sums(m, self._query(m))
        tag = delay(m, self._tag(m), self._sum_latency, "tag", reset=True)
        m.d.comb += [
            self.old_valid.eq(tag.valid & tag.ends & tag.low),
            self.old_index.eq(tag.index),
            self.old_buffer.eq(tag.buffer),
        ]
        totals = self._totals(m, sums, tag)
        self._scores(m, totals, delay(m, tag, 1, "tag_total", reset=True))
        self._result(m, self._magnitudes(m))
        return m

    def _tag(self, m: Module) -> data.View:
        """What goes along with a word: where its scores belong, and which of them are seen."""
        tag, word, row = Signal(ScoreTag(self._sizes, len(self._levels()))), self.i.payload, self.command.payload
        offset = word.index % self._rows
        present, masked = Signal(self._rows), Signal(self._rows)
        for place in range(self._rows):
            m.d.comb += present[place].eq((place < word.rows) & (word.index + place < row.keys))
        m.d.comb += [
            masked.eq(present & self.mask),
            tag.index.eq(word.index - offset),
            tag.write.eq(present << offset),
            tag.seen.eq(masked << offset),
            tag.single.eq(word.rows == 1),
            tag.begins.eq(word.part == 0),
            tag.ends.eq(word.part == (row.head_size - 1) // self._count),
            tag.level.eq(sum(row.head_size > head for head in self._levels()[:-1])),
            tag.valid.eq(self.i.valid & self.i.ready),
            tag.last.eq(word.last),
            *(tag[name].eq(row[name]) for name in ("half", "low", "buffer")),
        ]
        return tag

    def _levels(self) -> list[int]:
        """Sizes of the sums of the tree: 16, 32, ..."""
        return [size for size in (16, 32, 64, 128) if size <= self._wide]

    def _query(self, m: Module) -> Value:
        """Elements of the query for the word that is offered."""
        width, depth = ELEMENT_BITS * self._wide, self._parts * self._sizes.rows_in_flight
        m.submodules.queries = queries = Memory(shape=width, depth=depth, init=[])
        write, read = queries.write_port(), queries.read_port(domain="comb")
        word = self.query.payload
        m.d.comb += [
            write.en.eq(self.query.valid),
            write.addr.eq(self.query_buffer * self._parts + word.part),
            write.data.eq(Value.cast(word.elements)[:width]),
            read.addr.eq(self.command.payload.buffer * self._parts + self.i.payload.part),
        ]
        return read.data

    def _magnitudes(self, m: Module) -> list[Signal]:
        """Sums of |q| of the queries of all buffers."""
        word, magnitudes = self.query.payload, []
        values, cycles = [abs(word.elements[place]) for place in range(self._wide)], 0
        while len(values) > 1:
            values = [register(m, sum(values[at : at + 4]), "magnitude") for at in range(0, len(values), 4)]
            cycles += 1
        valid = delay(m, self.query.valid, cycles, "query_valid", reset=True)
        begins, buffer = delay(m, word.part == 0, cycles, "begins"), delay(m, self.query_buffer, cycles, "query_buffer")
        for number in range(self._sizes.rows_in_flight):
            total = Signal(MAGNITUDE_BITS, name=f"magnitude_{number}", reset_less=True)
            with m.If(valid & (buffer == number)):
                m.d.sync += total.eq(Mux(begins, 0, total) + values[0])
            magnitudes.append(total)
        return magnitudes

    def _sums(self, m: Module, query: Value) -> list[list[Value]]:
        """Sums of 16, 32, ... neighbouring products, in the same cycle."""
        chunk_bits, head = ELEMENT_BITS * CHUNK, self.command.payload.head_size
        values, sums = operands(self.i.payload, self.command.payload.half), []
        for number in range(self._rows):
            m.submodules[f"chunk_{number}"] = chunk = Shared(ChunkProduct)
            own = Signal(chunk_bits, name=f"query_{number}")
            # Every row of a word meets the same query.
            for size in reversed(self._levels()):
                with m.If(head <= size) if size < self._wide else m.If(1):
                    m.d.comb += own.eq(query.word_select(number % (size // CHUNK), chunk_bits))
            m.d.comb += [chunk.a.eq(own)]
            m.d.comb += [chunk.b[place].eq(values[number * CHUNK + place]) for place in range(CHUNK)]
            sums.append(chunk.o)
        levels = [sums]
        for number in range(1, len(self._levels())):
            below = levels[-1]
            levels.append([left + right for left, right in zip(below[::2], below[1::2])])
            if number % 2 == 0 or number == len(self._levels()) - 1:
                levels = [[register(m, value, "level") for value in level] for level in levels]
        return levels

    def _totals(self, m: Module, sums: list[list[Value]], tag: data.View) -> list[Signal]:
        """One sum for each place of a score word, words of large heads added."""
        bits = ChunkProduct.SUM_BITS + (LARGEST_HEAD // CHUNK).bit_length() - 1
        totals = []
        for place in range(self._rows):
            own = Signal(signed(bits), name=f"own_{place}")
            total = Signal(signed(bits), name=f"total_{place}", reset_less=True)
            with m.Switch(tag.level):
                for level, values in enumerate(sums):
                    with m.Case(level):
                        m.d.comb += own.eq(Mux(tag.single, values[0], values[place % len(values)]))
            kept = Mux(tag.begins, 0, total) if self._parts > 1 else 0
            with m.If(tag.valid):
                m.d.sync += total.eq(own + kept)
            totals.append(total)
        return totals

    def _scores(self, m: Module, totals: list[Signal], tag: data.View) -> None:
        """Weight of the pass and old scores."""
        for place, total in enumerate(totals):
            old = Mux(tag.low, self.old.scores[place], 0)
            m.d.sync += self.o.scores[place].eq(Mux(tag.half, total << HALF_SHIFT, total) + old)
        m.d.sync += [
            self.o_valid.eq(tag.valid & tag.ends),
            *(self.o_buffer.eq(tag.buffer), self.o_low.eq(tag.low)),
            *(self.o[name].eq(tag[name]) for name in ("write", "seen", "index", "last")),
        ]

    def _result(self, m: Module, magnitudes: list[Signal]) -> None:
        """The largest seen score of a word, a register for each level, and of a pass."""
        values = [(self.o.seen[place], Value.cast(self.o.scores[place]).as_signed()) for place in range(self._rows)]
        best, cycles = largest(m, values, "best"), levels(self._rows)
        valid = delay(m, self.o_valid, cycles, "best_valid", reset=True)
        last, buffer = delay(m, self.o.last, cycles, "best_last"), delay(m, self.o_buffer, cycles, "best_buffer")
        first, result = Signal(init=1), self.result
        before = (result.seen & ~first, Value.cast(result.maximum).as_signed())
        seen, maximum = larger(before, best)
        m.d.sync += self.result_valid.eq(valid & last)
        with m.If(valid):
            m.d.sync += [result.seen.eq(seen), result.maximum.eq(maximum), first.eq(last), result.buffer.eq(buffer)]
        with m.Switch(result.buffer):
            for number, magnitude in enumerate(magnitudes):
                with m.Case(number):
                    m.d.comb += result.magnitude.eq(magnitude)

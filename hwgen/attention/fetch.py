"""The row fetcher: rows of planes out of memory as words of sign-extended elements."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import ADDRESS_ALIGN, CHUNK, PLANE_BITS, QUERY_BITS, AttentionSizes
from hwgen.attention.funnel import UNIT_BITS, Funnel
from hwgen.attention.spans import Span, Spans
from hwgen.attention.words import ELEMENT_BITS, INDEX_BITS, ElementWord, FetchCommand, ReadRequest, RowIndex
from hwgen.lib.streams import Queue

LARGEST_HEAD = 128
HEADS = range(CHUNK, LARGEST_HEAD + 1, CHUNK)
CHUNK_BITS = CHUNK * ELEMENT_BITS
SPANS_AHEAD = 32
"""Spans whose beats may be under way; rows of eight bytes share beats."""


def piece_units(sizes: AttentionSizes) -> int:
    """Units of the longest word: `multipliers` elements of a plane, or a query."""
    longest = max(sizes.multipliers * max(PLANE_BITS), min(sizes.multipliers, LARGEST_HEAD) * max(QUERY_BITS))
    return longest // UNIT_BITS


class WordTag(data.StructLayout):
    """What becomes of a piece. rows : in it. slot : of a gathered row in its word, which it opens or closes."""

    def __init__(self, sizes: AttentionSizes) -> None:
        rows = sizes.multipliers // CHUNK
        super().__init__(
            {
                "index": INDEX_BITS,
                "rows": range(rows + 1),
                "part": 3,
                "head_size": 8,
                "bits": 5,
                "slot": range(max(2, rows)),
                **dict.fromkeys(("gather", "opens", "closes", "query", "last"), 1),
            }
        )


class RowFetch(wiring.Component):
    """Fetches rows of planes: a range, or those that the index stream names.

    Elements of more than 12 bits only with `query`, whose rows are one. A gather of no rows gives a word without rows.

    Timing
    ------
    A request is offered `REQUEST_LATENCY` cycles after its command or index, a word `WORD_LATENCY` cycles after the
    last of its beats. A word a cycle, gathered rows one a cycle, or a beat a cycle, ranges back to back.

    Parameters
    ----------
    sizes : AttentionSizes

    Members
    -------
    command : In(stream of FetchCommand)    Taken with its last index if it gathers.
    indices : In(stream of RowIndex)        Ascending, each once.
    request : Out(stream of ReadRequest)
    data : In(stream of 8 x beat_bytes)     In the order of the requests, always taken.
    o : Out(stream of ElementWord)
    busy : Out(1)
    """

    REQUEST_LATENCY = Spans.LATENCY
    WORD_LATENCY = 4

    def __init__(self, sizes: AttentionSizes) -> None:
        self._sizes, self._count, self._rows = sizes, sizes.multipliers, sizes.multipliers // CHUNK
        super().__init__(
            {
                "command": In(stream.Signature(FetchCommand())),
                "indices": In(stream.Signature(RowIndex())),
                "request": Out(stream.Signature(ReadRequest())),
                "data": In(stream.Signature(8 * sizes.beat_bytes)),
                "o": Out(stream.Signature(ElementWord(sizes))),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Spans and requests; beats | pieces | words."""
        m = Module()
        sizes = self._sizes
        m.submodules.spans = spans = Spans(sizes)
        m.submodules.waiting = waiting = Queue(shape=Span(sizes), depth=SPANS_AHEAD)
        m.submodules.beats = beats = Queue(shape=8 * sizes.beat_bytes, depth=sizes.reads_in_flight)
        m.submodules.funnel = funnel = Funnel(
            beat_units=sizes.beat_bytes // ADDRESS_ALIGN, width=piece_units(sizes), tag=WordTag(sizes)
        )
        wiring.connect(m, wiring.flipped(self.command), spans.command)
        wiring.connect(m, wiring.flipped(self.indices), spans.indices)
        wiring.connect(m, spans.request, wiring.flipped(self.request))
        wiring.connect(m, spans.o, waiting.i)
        wiring.connect(m, wiring.flipped(self.data), beats.i)
        wiring.connect(m, beats.o, funnel.beats)
        m.d.comb += spans.freed.eq(beats.o.valid & beats.o.ready)
        stepping = self._step(m, waiting.o, funnel.step)
        self._word(m, funnel.o)
        m.d.comb += self.busy.eq(spans.busy | waiting.o.valid | stepping | funnel.o.valid | self.o.valid)
        return m

    def _step(self, m: Module, following: stream.Interface, step: stream.Interface) -> Value:
        """The pieces of the span at hand. Gives whether there is one.

        Its last piece waits for the next span of its command, which says whether they share a beat.
        """
        span, full, fresh, part = Signal(Span(self._sizes), reset_less=True), Signal(), Signal(), Signal(3)
        group, parts = self._groups(m, span.head_size)
        ends, taken, one = Signal(), Signal(), span.gather | span.single
        rows = Mux(one, ~span.none, Mux(span.rows < group, span.rows, group))
        short = Mux(parts != 0, part == parts, ~one & (span.rows < group))
        m.d.comb += [
            ends.eq((part == parts) & (span.rows == rows)),
            step.valid.eq(full & (~ends | span.last | following.valid)),
            *(step.payload.start.eq(span.start), step.payload.move.eq(fresh), step.payload.tag.part.eq(part)),
            step.payload.units.eq(Mux(span.none, 0, Mux(short, span.tail, span.full))),
            step.payload.release.eq(ends & (span.last | ~following.payload.shared)),
            taken.eq(step.valid & step.ready),
            following.ready.eq(~full | (taken & ends)),
        ]
        self._tag(m, step.payload.tag, span, rows, group, ends, taken & (part == parts))
        with m.If(taken):
            m.d.sync += [fresh.eq(0), part.eq(Mux(part == parts, 0, part + 1))]
            with m.If(part == parts):
                m.d.sync += [span.rows.eq(span.rows - rows), span.index.eq(span.index + rows)]
        with m.If(following.ready):
            m.d.sync += [full.eq(following.valid), fresh.eq(1), span.eq(following.payload)]
        return full

    def _groups(self, m: Module, head_size: Value) -> tuple[Signal, Signal]:
        """Rows of a whole word, and the last word of a row."""
        group, parts = Signal(range(self._rows + 1)), Signal(3)
        with m.Switch(head_size):
            for head in HEADS:
                with m.Case(head):
                    m.d.comb += [
                        group.eq(self._sizes.rows_per_word(head)),
                        parts.eq(self._sizes.words_per_row(head) - 1),
                    ]
        return group, parts

    def _tag(
        self, m: Module, tag: data.View, span: data.View, rows: Value, group: Value, ends: Value, done: Value
    ) -> None:
        """What goes along with a piece; `done`: rows are complete with it."""
        slot, closes = Signal(range(max(2, self._rows))), Signal()
        last = ends & span.last
        m.d.comb += [
            closes.eq(~span.gather | span.single | (slot + 1 == group) | last),
            tag.rows.eq(slot + rows),
            tag.slot.eq(slot),
            tag.opens.eq(slot == 0),
            tag.closes.eq(closes),
            tag.last.eq(last),
            *(tag[name].eq(span[name]) for name in ("index", "head_size", "bits", "gather", "query")),
        ]
        with m.If(done):
            m.d.sync += slot.eq(Mux(closes, 0, slot + 1))

    def _word(self, m: Module, piece: stream.Interface) -> None:
        """Pieces become words; gathered rows come together in one."""
        tag, word, room = piece.payload.tag, self.o.payload, ~self.o.valid | self.o.ready
        m.d.comb += piece.ready.eq(room)
        with m.If(room):
            m.d.sync += self.o.valid.eq(piece.valid & tag.closes)
        elements = self._elements(m, piece.payload)
        with m.If(room & piece.valid):
            with m.If(tag.opens):
                m.d.sync += word.index.eq(tag.index)
            m.d.sync += [word[name].eq(tag[name]) for name in ("rows", "part", "query", "last")]
            for number in range(self._rows):
                value, own = self._place(m, number, elements, tag)
                target = Value.cast(word.elements)[CHUNK_BITS * number :][:CHUNK_BITS]
                with m.If(tag.opens | own):
                    m.d.sync += target.eq(Mux(own, value, 0))

    def _elements(self, m: Module, piece: data.View) -> list[Signal]:
        """Chunks of 16 sign-extended elements, as they follow one another in a piece."""
        chunks = [Signal(CHUNK_BITS, name=f"chunk_{number}") for number in range(self._rows)]
        with m.Switch(piece.tag.bits):
            for bits in QUERY_BITS:
                with m.Case(bits):
                    for number, chunk in enumerate(chunks):
                        raw = piece.data[CHUNK * bits * number :][: CHUNK * bits]
                        if len(raw) == CHUNK * bits:
                            fields = (raw.word_select(at, bits) for at in range(CHUNK))
                            m.d.comb += chunk.eq(Cat(_extended(field) for field in fields))
        return chunks

    def _place(self, m: Module, number: int, elements: list[Signal], tag: data.View) -> tuple[Signal, Signal]:
        """What a piece has for a chunk of the word, and whether it has anything; a case for each head size."""
        value, own = Signal(CHUNK_BITS, name=f"value_{number}"), Signal(name=f"own_{number}")
        with m.Switch(tag.head_size):
            for head in HEADS:
                chunks = head // CHUNK
                slot, place = divmod(number, self._sizes.slots(head) // CHUNK)
                with m.Case(head):
                    if head > self._count:
                        m.d.comb += [
                            value.eq(elements[number]),
                            own.eq(tag.part * self._rows + number < chunks),
                        ]
                    elif place < chunks:
                        gathered, ranged = elements[place], elements[slot * chunks + place]
                        m.d.comb += [
                            value.eq(Mux(tag.gather, gathered, ranged)),
                            own.eq(Mux(tag.gather, tag.slot == slot, slot < tag.rows)),
                        ]
        return value, own


def _extended(field: Value) -> Value:
    """An element with its sign up to the top."""
    return Cat(field, field[-1].replicate(ELEMENT_BITS - len(field)))

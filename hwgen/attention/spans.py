"""Rows of planes as spans of memory, and the beats that are asked for."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import ADDRESS_ALIGN, CHUNK, AttentionSizes
from hwgen.attention.words import ADDRESS_BITS, INDEX_BITS, FetchCommand, ReadRequest, RowIndex

PAGE_BYTES = 4096
UNIT_ADDRESS_BITS = ADDRESS_BITS - 2
ROW_UNIT_BITS = 7
"""A row of 128 elements of 16 bits has 64 units of 4 bytes."""
LENGTH_BITS = INDEX_BITS + ROW_UNIT_BITS


class Span(data.StructLayout):
    """Rows that follow one another in memory, from unit `start` of a beat on.

    shared : that beat is the last one of the span before. full : units of a word; of the first words of a row that
    takes several. tail : of the last one. last : ends the command. none : there are no rows, and no beats.
    """

    def __init__(self, sizes: AttentionSizes) -> None:
        units = range(sizes.multipliers // 2 + 1)
        super().__init__(
            {
                "start": range(sizes.beat_bytes // ADDRESS_ALIGN),
                "index": INDEX_BITS,
                "rows": INDEX_BITS,
                "head_size": 8,
                "bits": 5,
                "full": units,
                "tail": units,
                **dict.fromkeys(("shared", "gather", "single", "query", "none", "last"), 1),
            }
        )


class Spans(wiring.Component):
    """Turns a command into spans, one or (`gather`) one for every index, and asks for their beats, each once.

    Bursts have up to a quarter of `reads_in_flight` beats and don't cross 4 KiB. As many beats are asked for as are
    free; `freed` gives one back.

    Timing
    ------
    A span a cycle, a burst a cycle; a request is offered `LATENCY` cycles after its command or index was taken.

    Parameters
    ----------
    sizes : AttentionSizes

    Members
    -------
    command : In(stream of FetchCommand), indices : In(stream of RowIndex)
    o : Out(stream of Span)      Offered whether or not its beats have been asked for.
    request : Out(stream of ReadRequest)
    freed : In(1)
    busy : Out(1)
    """

    LATENCY = 4

    def __init__(self, sizes: AttentionSizes) -> None:
        self._sizes, self._beat_units = sizes, sizes.beat_bytes // ADDRESS_ALIGN
        super().__init__(
            {
                "command": In(stream.Signature(FetchCommand())),
                "indices": In(stream.Signature(RowIndex())),
                "o": Out(stream.Signature(Span(sizes))),
                "request": Out(stream.Signature(ReadRequest())),
                "freed": In(1),
                "busy": Out(1),
            }
        )

    @property
    def burst_beats(self) -> int:
        """Beats of the longest burst."""
        return min(max(1, self._sizes.reads_in_flight // 4), PAGE_BYTES // self._sizes.beat_bytes)

    def elaborate(self, platform: object) -> Module:
        """Rows | products | places | beats."""
        m = Module()
        command, index = self.command.payload, self.indices.payload
        layout = data.StructLayout(
            {"span": Span(self._sizes), "address": UNIT_ADDRESS_BITS, "row_units": ROW_UNIT_BITS}
        )
        stages = [Signal(layout, name=f"stage_{number}", reset_less=True) for number in range(3)]
        full = [Signal(name=f"full_{number}") for number in range(3)]
        go, offer, ends = Signal(), Signal(), Signal()
        m.d.comb += [
            offer.eq(self.command.valid & (self.indices.valid | ~command.gather)),
            ends.eq(index.last | ~command.gather),
            self.command.ready.eq(go & offer & ends),
            self.indices.ready.eq(go & self.command.valid & command.gather),
        ]
        offset, length = (Signal(LENGTH_BITS, name=name, reset_less=True) for name in ("offset", "length"))
        begin, last = (Signal(UNIT_ADDRESS_BITS, name=name, reset_less=True) for name in ("begin", "last"))
        with m.If(go):
            m.d.sync += [full[0].eq(offer), full[1].eq(full[0]), full[2].eq(full[1])]
            m.d.sync += [stages[1].eq(stages[0]), stages[2].eq(stages[1])]
            self._first(m, stages[0], ends)
            rows = stages[0].span
            m.d.sync += [
                offset.eq(rows.index * stages[0].row_units),
                length.eq(rows.rows * stages[0].row_units),
                begin.eq(stages[1].address + offset),
                last.eq(stages[1].address + offset + length - 1),
            ]
            self._steps(m, stages[0], stages[1].span)
        idle = self._beats(m, full[2], go, stages[2].span, begin, last)
        m.d.comb += self.busy.eq(Cat(*full).any() | ~idle)
        return m

    def _first(self, m: Module, stage: data.View, ends: Value) -> None:
        """The rows of a command, or of an index."""
        command, index, span = self.command.payload, self.indices.payload, stage.span
        m.d.sync += [
            span.index.eq(Mux(command.gather, index.index, command.first)),
            span.rows.eq(Mux(command.gather, ~index.none, command.rows)),
            span.last.eq(ends),
            stage.address.eq(command.address // ADDRESS_ALIGN),
            stage.row_units.eq((command.head_size // CHUNK) * (command.bits // 2)),
            span.none.eq(command.gather & index.none),
            *(span[name].eq(command[name]) for name in ("head_size", "bits", "gather", "single", "query")),
        ]

    def _steps(self, m: Module, stage: data.View, span: data.View) -> None:
        """Units of the words of a span: a case for each head size."""
        count, half_bits = self._sizes.multipliers, stage.span.bits // 2
        with m.Switch(stage.span.head_size):
            for head in range(CHUNK, 129, CHUNK):
                rows = self._sizes.rows_per_word(head)
                with m.Case(head):
                    if head > count:
                        tail = (head - 1) % count + 1
                        m.d.sync += [
                            span.full.eq(half_bits * (count // CHUNK)),
                            span.tail.eq(half_bits * (tail // CHUNK)),
                        ]
                    else:
                        one = stage.span.gather | stage.span.single
                        m.d.sync += [
                            span.full.eq(stage.row_units * Mux(one, 1, rows)),
                            span.tail.eq(stage.row_units * (stage.span.rows % rows)),
                        ]

    def _beats(self, m: Module, full: Value, go: Value, span: data.View, begin: Value, last: Value) -> Value:
        """Offer a span and ask for those of its beats that its forerunner did not ask for. Gives whether idle."""
        beat = (self._beat_units - 1).bit_length()
        previous, follows = Signal(UNIT_ADDRESS_BITS - beat, reset_less=True), Signal()
        next_beat, left = Signal.like(previous), Signal(LENGTH_BITS)
        shared, free, done = Signal(), Signal(), Signal()
        accept = full & free & self.o.ready
        m.d.comb += [
            go.eq(~full | (free & self.o.ready)),
            shared.eq(follows & (begin[beat:] == previous)),
            self.o.valid.eq(full & free),
            self.o.payload.eq(span),
            self.o.payload.start.eq(Mux(span.none, 0, begin[:beat])),
            self.o.payload.shared.eq(shared),
            free.eq((left == 0) | done),
        ]
        fired = self._request(m, next_beat, left, done)
        with m.If(fired):
            m.d.sync += [next_beat.eq(next_beat + self.request.payload.beats + 1)]
            m.d.sync += left.eq(left - self.request.payload.beats - 1)
        with m.If(accept):
            m.d.sync += [
                previous.eq(last[beat:]),
                follows.eq(~span.last),
                next_beat.eq(begin[beat:] + shared),
                left.eq(Mux(span.none, 0, last[beat:] - begin[beat:] + 1 - shared)),
            ]
        return left == 0

    def _request(self, m: Module, next_beat: Signal, left: Signal, done: Signal) -> Value:
        """The next burst, when all of its beats are free. Gives whether it is taken; `done`: nothing is left then."""
        page = PAGE_BYTES // self._sizes.beat_bytes
        free = Signal(range(self._sizes.reads_in_flight + 1), init=self._sizes.reads_in_flight)
        beats, to_page = Signal(range(max(2, self.burst_beats + 1))), Signal(range(page + 1))
        fired = self.request.valid & self.request.ready
        m.d.comb += to_page.eq(page - next_beat % page)
        least = Mux(left < self.burst_beats, left, self.burst_beats)
        m.d.comb += [
            beats.eq(Mux(least < to_page, least, to_page)),
            self.request.valid.eq((left != 0) & (beats <= free)),
            self.request.payload.address.eq(next_beat << (self._sizes.beat_bytes - 1).bit_length()),
            self.request.payload.beats.eq(beats - 1),
            done.eq(fired & (left == beats)),
        ]
        m.d.sync += free.eq(free - Mux(fired, beats, 0) + self.freed)
        return fired

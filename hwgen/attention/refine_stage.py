"""Rows whose LSBs are fetched key by key: their scores are read once more, and the keys that may matter picked."""

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import SCORE_BITS, AttentionSizes
from hwgen.attention.job import JobFields, RecordFields
from hwgen.attention.refine import MAGNITUDE_BITS, KeySelection
from hwgen.attention.rows import RowPlace, RowReader, row_words, slot_bits
from hwgen.attention.scores import StoredScores
from hwgen.attention.words import FLOOR_BITS, RowIndex
from hwgen.lib.pipeline import delay
from hwgen.lib.streams import Queue

_INDICES = 4


class PassFacts(data.StructLayout):
    """What a pass of products says. maximum : of the scores of its row. magnitude : sum of |q|."""

    def __init__(self) -> None:
        super().__init__({"maximum": signed(SCORE_BITS), "magnitude": MAGNITUDE_BITS})


class UnsureRow(data.StructLayout):
    """A row that is not confident. n : floor(log2 S)."""

    def __init__(self, sizes: AttentionSizes) -> None:
        super().__init__({"slot": slot_bits(sizes), "n": FLOOR_BITS})


class Rest(data.StructLayout):
    """The largest score of the keys of a row that are not picked; seen : there are some."""

    def __init__(self) -> None:
        super().__init__({"maximum": signed(SCORE_BITS), "seen": 1})


class RefineStage(wiring.Component):
    """Picks keys of rows, one row after the other.

    Timing
    ------
    A word of scores a cycle, or a key that is picked a cycle; the first word is asked for a cycle after its row came.
    The rest of a row is known `KeySelection.rest_latency` cycles behind its last word, before the products of its last
    key.

    Parameters
    ----------
    sizes : AttentionSizes

    Members
    -------
    job : In(JobFields)
    rows : In(stream of UnsureRow), always taken
    slot : Out, place : In(RowPlace), facts : In(PassFacts)
    record_head : Out, record : In(RecordFields)
    blocked : In(1), asks : Out(1), address : Out, buffer : Out, scores : In(StoredScores(lanes))    A word of scores,
        a cycle later; none may be asked for while `blocked`.
    low, none : Out(stream of slot), always taken    Rows of which keys are picked, with the first of them; or none.
    indices : Out(stream of RowIndex)                Those keys, rows in the order of `low`.
    rest_write : Out(1), rest_slot : Out, rest : Out(Rest)
    """

    def __init__(self, sizes: AttentionSizes) -> None:
        self._sizes = sizes
        slot = slot_bits(sizes)
        given = stream.Signature(slot, always_ready=True)
        super().__init__(
            {
                "job": In(JobFields()),
                "rows": In(stream.Signature(UnsureRow(sizes), always_ready=True)),
                "slot": Out(slot),
                "place": In(RowPlace()),
                "facts": In(PassFacts()),
                "record_head": Out(range(max(2, sizes.max_heads))),
                "record": In(RecordFields()),
                "blocked": In(1),
                "asks": Out(1),
                "address": Out(range(row_words(sizes))),
                "buffer": Out(slot),
                "scores": In(StoredScores(sizes.softmax_lanes)),
                **dict.fromkeys(("low", "none"), Out(given)),
                "indices": Out(stream.Signature(RowIndex())),
                "rest_write": Out(1),
                "rest_slot": Out(slot),
                "rest": Out(Rest()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Rows that wait | command, words of scores | keys."""
        m = Module()
        slots, scores = self._sizes.rows_in_flight, StoredScores(self._sizes.softmax_lanes)
        m.submodules.waiting = waiting = Queue(shape=UnsureRow(self._sizes), depth=slots)
        m.submodules.reader = reader = RowReader(self._sizes, width=scores.size)
        m.submodules.selection = selection = KeySelection(self._sizes)
        m.submodules.begun = begun = Queue(shape=slot_bits(self._sizes), depth=slots)
        row, told, command, word = waiting.o, Signal(), selection.command, reader.o.payload
        m.d.comb += [
            *(waiting.i.valid.eq(self.rows.valid), waiting.i.payload.eq(self.rows.payload)),
            *(self.slot.eq(row.payload.slot), self.record_head.eq(self.place.head)),
            command.valid.eq(row.valid & ~told),
            *(begun.i.valid.eq(command.valid & command.ready), begun.i.payload.eq(row.payload.slot)),
            *(command.payload.maximum.eq(self.facts.maximum), command.payload.magnitude.eq(self.facts.magnitude)),
            *(command.payload.gap.eq(self.record.key_gap), command.payload.octave.eq(self.record.key_octave)),
            *(command.payload.n.eq(row.payload.n), command.payload.margin.eq(self.job.key_margin)),
            *(reader.command.valid.eq(row.valid & told), row.ready.eq(reader.command.valid & reader.command.ready)),
            *(reader.command.payload.slot.eq(row.payload.slot), reader.command.payload.keys.eq(self.place.keys)),
            *(reader.blocked.eq(self.blocked), self.asks.eq(reader.asks), reader.bits.eq(self.scores)),
            *(self.buffer.eq(row.payload.slot), self.address.eq(reader.address)),
            *(selection.i.valid.eq(reader.o.valid), reader.o.ready.eq(selection.i.ready)),
            selection.i.payload.last.eq(word.last),
            selection.i.payload.scores.eq(scores(word.bits).scores),
            selection.i.payload.seen.eq(
                scores(word.bits).seen & Cat(lane < word.count for lane in range(self._sizes.softmax_lanes))
            ),
            self.rest_write.eq(selection.rest_valid),
            self.rest_slot.eq(delay(m, word.slot, selection.rest_latency, "rest_slot")),
            *(self.rest.maximum.eq(selection.rest), self.rest.seen.eq(selection.rest_seen)),
        ]
        with m.If(row.ready):
            m.d.sync += told.eq(0)
        with m.Elif(begun.i.valid):
            m.d.sync += told.eq(1)
        self._keys(m, selection.o, begun.o)
        return m

    def _keys(self, m: Module, key: stream.Interface, row: stream.Interface) -> None:
        """Keys go to the index stream; the first of a row announces it."""
        m.submodules.indices = indices = Queue(shape=RowIndex(), depth=_INDICES)
        wiring.connect(m, indices.o, wiring.flipped(self.indices))
        first, taken, picked = Signal(init=1), Signal(), key.payload
        m.d.comb += [
            key.ready.eq(indices.i.ready),
            taken.eq(key.valid & key.ready),
            indices.i.valid.eq(key.valid & ~picked.none),
            *(indices.i.payload.index.eq(picked.item), indices.i.payload.last.eq(picked.last)),
            *(self.low.payload.eq(row.payload), self.none.payload.eq(row.payload)),
            *(self.low.valid.eq(taken & first & ~picked.none), self.none.valid.eq(taken & picked.none)),
            row.ready.eq(taken & picked.last),
        ]
        with m.If(taken):
            m.d.sync += first.eq(picked.last)

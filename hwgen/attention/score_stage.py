"""From scores to final values of e: softmax of the passes of rows, and who needs LSBs."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import EXP_BITS, RECIPROCAL_BITS, AttentionSizes, KeyMode
from hwgen.attention.job import JobFields, RecordFields
from hwgen.attention.maximum import larger
from hwgen.attention.products import ProductResult
from hwgen.attention.refine_stage import PassFacts, RefineStage, Rest
from hwgen.attention.rows import RowPlace, RowTable, row_words, slot_bits
from hwgen.attention.scores import StoredScores
from hwgen.attention.softmax import Softmax
from hwgen.attention.tiles import Growth, RunningRow
from hwgen.attention.words import FLOOR_BITS, RowIndex
from hwgen.lib.pipeline import delay
from hwgen.lib.streams import Queue


class Inverse(data.StructLayout):
    """r and n of a row: 1 over its sum of e."""

    def __init__(self) -> None:
        super().__init__({"r": RECIPROCAL_BITS + 1, "n": FLOOR_BITS})


class ScoreStage(wiring.Component):
    """Softmax of a row after its last pass, or after its MSB pass to see whether it is confident.

    Rows without seen keys and rows that need LSBs before any softmax leave at once.

    Timing
    ------
    `max_length` / `softmax_lanes` cycles a pass; its result comes `Softmax.result_latency` + 1 cycles behind its last
    word.

    Parameters
    ----------
    sizes : AttentionSizes

    Members
    -------
    job : In(JobFields)
    taken : In(1), taken_slot : In              A row begins: it has had no LSB pass.
    result : In(ProductResult), result_valid : In(1)
    slot : Out, place : In(RowPlace)            Row whose scores are read.
    record_head : Out, record : In(RecordFields)
    address : Out, buffer : Out, scores : In(StoredScores(lanes))    A cycle later.
    old_valid : In(1), old_buffer : In          Products read scores of this buffer.
    e_write : Out(1), e_address : Out, e_data : Out(16 x lanes)
    inverse_write : Out(1), inverse_slot : Out, inverse : Out(Inverse)
    low, final, empty, certain : Out(stream of slot)    Rows that need LSBs; whose e is final; without seen keys; whose
        e will be final, in the order of `final`. Always taken.
    growth_slot : In, growth : Out(Growth)      What the sums of earlier tiles of a row are multiplied by.
    indices : Out(stream of RowIndex)           KEY: keys that need LSBs, rows in the order of `low`.
    refine_slot : Out, refine_place : In(RowPlace), refine_head : Out, refine_record : In(RecordFields)
    refined : Out(rows_in_flight)               Rows whose LSBs were asked for.
    """

    def __init__(self, sizes: AttentionSizes) -> None:
        self._sizes = sizes
        slot, lanes = slot_bits(sizes), sizes.softmax_lanes
        given = stream.Signature(slot, always_ready=True)
        super().__init__(
            {
                "job": In(JobFields()),
                "taken": In(1),
                "taken_slot": In(slot),
                "result": In(ProductResult(sizes)),
                "result_valid": In(1),
                "slot": Out(slot),
                "place": In(RowPlace()),
                "record_head": Out(range(max(2, sizes.max_heads))),
                "record": In(RecordFields()),
                "address": Out(range(row_words(sizes))),
                "buffer": Out(slot),
                "scores": In(StoredScores(lanes)),
                "old_valid": In(1),
                "old_buffer": In(slot),
                "e_write": Out(1),
                "e_address": Out(range(sizes.rows_in_flight * row_words(sizes))),
                "e_data": Out(EXP_BITS * lanes),
                "inverse_write": Out(1),
                "inverse_slot": Out(slot),
                "inverse": Out(Inverse()),
                **dict.fromkeys(("low", "final", "empty", "certain"), Out(given)),
                "growth_slot": In(slot),
                "growth": Out(Growth()),
                "indices": Out(stream.Signature(RowIndex())),
                "refine_slot": Out(slot),
                "refine_place": In(RowPlace()),
                "refine_head": Out(range(max(2, sizes.max_heads))),
                "refine_record": In(RecordFields()),
                "refined": Out(sizes.rows_in_flight),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """What products say | words of scores | softmax | what its result says."""
        m = Module()
        slots, slot = self._sizes.rows_in_flight, slot_bits(self._sizes)
        m.submodules.waiting = waiting = Queue(shape=slot, depth=slots)
        m.submodules.facts = facts = RowTable(PassFacts(), slots=slots, ports=2)
        m.submodules.softmax = softmax = Softmax(self._sizes)
        m.submodules.refine = refine = RefineStage(self._sizes)
        m.submodules.settled = settled = Queue(shape=slot, depth=slots)
        here, job, always, undecided = self.result.buffer, self.job, Signal(), Signal()
        second, picks = self.refined.bit_select(here, 1), job.key_low & (job.key_mode == KeyMode.KEY)
        m.d.comb += [
            always.eq(job.key_low & (job.key_mode == KeyMode.ALWAYS) & ~second),
            undecided.eq(job.key_low & (job.key_mode == KeyMode.ROW) | picks),
            facts.write_slot.eq(here),
            facts.write_data.magnitude.eq(self.result.magnitude),
            facts.write_data.maximum.eq(self._maximum(m, refine, second & picks)),
            facts.write_enable.eq(self.result_valid),
            facts.slot_0.eq(waiting.o.payload),
            waiting.i.payload.eq(here),
            waiting.i.valid.eq(self.result_valid & self.result.seen & ~always),
            self.empty.payload.eq(here),
            self.empty.valid.eq(self.result_valid & ~self.result.seen),
            *(facts.slot_1.eq(refine.slot), refine.facts.eq(facts.entry_1)),
            *(settled.i.payload.eq(refine.none.payload), settled.i.valid.eq(refine.none.valid)),
        ]
        ended, judged = self._words(m, waiting.o, ~refine.asks, facts.entry_0.maximum, softmax)
        needs = undecided & ~self.refined.bit_select(judged, 1) & ~softmax.result.confident
        asks_early, ends = Signal(), ended & ~needs
        m.d.comb += [
            asks_early.eq(self.result_valid & self.result.seen & always),
            settled.o.ready.eq(~ends),
            self.final.payload.eq(Mux(ends, judged, settled.o.payload)),
            self.final.valid.eq(ends | settled.o.valid),
            self.certain.payload.eq(Mux(undecided, self.final.payload, here)),
            self.certain.valid.eq(Mux(undecided, self.final.valid, waiting.i.valid)),
            self.low.payload.eq(Mux(picks, refine.low.payload, Mux(undecided, judged, here))),
            self.low.valid.eq(Mux(picks, refine.low.valid, Mux(undecided, ended & needs, asks_early))),
            refine.rows.valid.eq(picks & ended & needs),
            *(refine.rows.payload.slot.eq(judged), refine.rows.payload.n.eq(softmax.result.n)),
            *(self.inverse_write.eq(ended), self.inverse_slot.eq(judged)),
            *(self.inverse.r.eq(softmax.result.r), self.inverse.n.eq(softmax.result.n)),
        ]
        with m.If(self.low.valid):
            m.d.sync += self.refined.bit_select(self.low.payload, 1).eq(1)
        with m.If(self.taken):
            m.d.sync += self.refined.bit_select(self.taken_slot, 1).eq(0)
        self._refine(m, refine)
        return m

    def _maximum(self, m: Module, refine: RefineStage, partial: Value) -> Value:
        """Of a row: what its pass says, and of the keys that a pass of picked keys did not see."""
        m.submodules.rests = rests = RowTable(Rest(), slots=self._sizes.rows_in_flight, ports=1)
        rest = rests.entry_0
        m.d.comb += [
            *(rests.write_slot.eq(refine.rest_slot), rests.write_data.eq(refine.rest)),
            *(rests.write_enable.eq(refine.rest_write), rests.slot_0.eq(self.result.buffer)),
        ]
        return larger((partial & rest.seen, rest.maximum), (self.result.seen, self.result.maximum))[1]

    def _refine(self, m: Module, refine: RefineStage) -> None:
        """The stage that picks keys reads scores before the softmax does, but not beside products."""
        wiring.connect(m, refine.indices, wiring.flipped(self.indices))
        m.d.comb += [
            *(refine.job.eq(self.job), refine.scores.eq(self.scores)),
            *(self.refine_slot.eq(refine.slot), refine.place.eq(self.refine_place)),
            *(self.refine_head.eq(refine.record_head), refine.record.eq(self.refine_record)),
            refine.blocked.eq(self.old_valid & (self.old_buffer == refine.buffer)),
        ]
        with m.If(refine.asks):
            m.d.comb += [self.address.eq(refine.address), self.buffer.eq(refine.buffer)]

    def _words(
        self, m: Module, row: stream.Interface, free: Value, maximum: Value, softmax: Softmax
    ) -> tuple[Value, Value]:
        """Send the scores of a row, or tile, while they are `free`, and store its e.

        Gives whether a result is there, and its slot.
        """
        lanes, number, last = self._sizes.softmax_lanes, Signal(range(row_words(self._sizes))), Signal()
        target, goes, running = Signal.like(self.e_address), Signal(), RunningRow()
        m.submodules.running = running
        m.d.comb += [
            *(self.slot.eq(row.payload), self.record_head.eq(self.place.head)),
            *(self.address.eq(number), self.buffer.eq(row.payload)),
            last.eq((number + 1) * lanes >= self.place.keys),
            *(goes.eq(row.valid & free & running.ready), row.ready.eq(last & free & running.ready)),
        ]
        self._tiles(m, running, row, maximum, goes & last, softmax)
        m.d.comb += [
            target.eq(row.payload * row_words(self._sizes) + number),
            self.e_write.eq(softmax.o_valid),
            self.e_address.eq(delay(m, target, 1 + softmax.LATENCY, "e_address")),
            self.e_data.eq(Value.cast(softmax.o.e)),
        ]
        with m.If(goes):
            m.d.sync += number.eq(Mux(last, 0, number + 1))
        present = Cat(number * lanes + lane < self.place.keys for lane in range(lanes))
        self._feed(m, softmax, running, (goes, last, present))
        return softmax.result_valid, delay(m, row.payload, 1 + softmax.result_latency, "judged")

    def _tiles(
        self, m: Module, running: RunningRow, row: stream.Interface, maximum: Value, taken: Value, softmax: Softmax
    ) -> None:
        """What is known of the tiles of a row, and what it means for their sums, by slot."""
        m.submodules.growths = growths = RowTable(Growth(), slots=self._sizes.rows_in_flight, ports=1)
        m.d.comb += [
            *(running.tile_valid.eq(row.valid), running.first.eq(self.place.first)),
            *(running.tile_maximum.eq(maximum), running.taken.eq(taken)),
            *(running.total.eq(softmax.result.total), running.total_valid.eq(softmax.result_valid)),
            *(growths.write_slot.eq(row.payload), growths.write_data.eq(running.growth)),
            *(growths.write_enable.eq(running.taken), growths.slot_0.eq(self.growth_slot)),
            self.growth.eq(growths.entry_0),
        ]

    def _feed(self, m: Module, softmax: Softmax, running: RunningRow, word: tuple[Value, Value, Value]) -> None:
        """What is known of a word goes along with it, a cycle later; lanes behind the end of the row are not seen."""
        command, record, (valid, last, present) = Signal(softmax.command.shape()), self.record, word
        m.d.comb += [running.mantissa.eq(record.scale_mantissa), running.exponent.eq(record.scale_exponent)]
        m.d.sync += [
            *(command.maximum.eq(running.maximum), command.limit.eq(record.sum_limit)),
            command.before.eq(running.before),
            *(command.mantissa.eq(record.scale_mantissa), command.exponent.eq(record.scale_exponent)),
        ]
        m.d.comb += [
            softmax.command.eq(command),
            softmax.i_valid.eq(delay(m, valid, 1, "valid", reset=True)),
            softmax.i.last.eq(delay(m, last, 1, "last")),
            softmax.i.scores.eq(self.scores.scores),
            softmax.i.seen.eq(self.scores.seen & delay(m, present, 1, "present")),
        ]

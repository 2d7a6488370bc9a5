"""Behind the last softmax of a row: importance of its keys, and which of its values are kept."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import EXP_BITS, AttentionSizes
from hwgen.attention.importance import Importance, token_ports
from hwgen.attention.job import JobFields, job_prunes
from hwgen.attention.rows import RowPlace, RowReader, row_words, slot_bits
from hwgen.attention.score_stage import Inverse
from hwgen.attention.select import KeptRow, SelectCommand, ValueSelection
from hwgen.attention.words import INDEX_BITS, LaneExponentials
from hwgen.lib.streams import Queue


class FinishStage(wiring.Component):
    """Reads e of a row once, for importance and for the value selection.

    Timing
    ------
    A word a cycle, unless the selection waits; rows follow one another. The sweep over importance at the start of a job
    takes a cycle a word.

    Parameters
    ----------
    sizes : AttentionSizes

    Members
    -------
    job : In(JobFields)
    start : In(1)      Multiply the importance of all keys of the job by `forget` / 256.
    rows : In(stream of slot), always taken      In the order of their last softmax.
    slot : Out, place : In(RowPlace), seen : In(16)     Row that is read next.
    word_slot : Out, inverse : In(Inverse)              Row whose word is there.
    e_address : Out, e_bits : In                        A cycle later.
    kept : Out(stream of KeptRow), marked : Out(stream of LaneExponentials)    Of `ValueSelection`, for values that are
        fetched and for those that are held.
    read : Out(1)      All words of row `word_slot` have been read.
    busy : Out(1)
    token_address, token_data, token_write_address, token_write_data, token_write_enable : as `read_address` etc. of
        `Importance`.
    """

    def __init__(self, sizes: AttentionSizes) -> None:
        self._sizes = sizes
        slot = slot_bits(sizes)
        super().__init__(
            {
                "job": In(JobFields()),
                "start": In(1),
                "rows": In(stream.Signature(slot, always_ready=True)),
                "slot": Out(slot),
                "place": In(RowPlace()),
                "seen": In(INDEX_BITS),
                "word_slot": Out(slot),
                "inverse": In(Inverse()),
                "e_address": Out(range(sizes.rows_in_flight * row_words(sizes))),
                "e_bits": In(EXP_BITS * sizes.softmax_lanes),
                "kept": Out(stream.Signature(KeptRow())),
                "marked": Out(stream.Signature(LaneExponentials(sizes))),
                "read": Out(1),
                "busy": Out(1),
                **token_ports(sizes).flip(),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Rows that wait | words of a row, to the selection and to importance."""
        m = Module()
        job, lanes = self.job, self._sizes.softmax_lanes
        m.submodules.waiting = waiting = Queue(shape=slot_bits(self._sizes), depth=self._sizes.rows_in_flight)
        m.submodules.reader = reader = RowReader(self._sizes, width=EXP_BITS * lanes)
        m.submodules.selection = selection = ValueSelection(self._sizes)
        m.submodules.commands = commands = Queue(shape=SelectCommand(), depth=2)
        wiring.connect(m, commands.o, selection.command)
        wiring.connect(m, selection.kept, wiring.flipped(self.kept))
        wiring.connect(m, selection.marked, wiring.flipped(self.marked))
        pruned, told, sweeping = job_prunes(job), Signal(), Signal()
        row, word = waiting.o, reader.o
        m.d.comb += [
            waiting.i.valid.eq(self.rows.valid),
            waiting.i.payload.eq(self.rows.payload),
            self.slot.eq(row.payload),
            commands.i.valid.eq(row.valid & pruned & ~told),
            commands.i.payload.keys.eq(self.place.keys),
            commands.i.payload.seen.eq(self.seen),
            *(commands.i.payload.share.eq(job.value_keep), commands.i.payload.marks.eq(job.hold)),
            reader.command.valid.eq(row.valid & (told | ~pruned) & ~sweeping),
            reader.command.payload.slot.eq(row.payload),
            reader.command.payload.keys.eq(self.place.keys),
            row.ready.eq(reader.command.valid & reader.command.ready),
            self.e_address.eq(reader.address),
            reader.bits.eq(self.e_bits),
            selection.i.payload.eq(word.payload.bits),
            selection.i.valid.eq(word.valid & pruned),
            word.ready.eq(selection.i.ready | ~pruned),
            self.word_slot.eq(word.payload.slot),
            self.read.eq(word.valid & word.ready & word.payload.last),
        ]
        with m.If(row.ready):
            m.d.sync += told.eq(0)
        with m.Elif(commands.i.valid & commands.i.ready):
            m.d.sync += told.eq(1)
        adding = self._importance(m, word.valid & word.ready & job.importance, word.payload, sweeping)
        m.d.comb += self.busy.eq(row.valid | word.valid | selection.busy | sweeping | adding)
        return m

    def _importance(self, m: Module, adds: Value, word: data.View, sweeping: Signal) -> Value:
        """Words of rows, or of the sweep; gives whether one is under way."""
        job, lanes = self.job, self._sizes.softmax_lanes
        m.submodules.importance = importance = Importance(self._sizes)
        number, left = Signal(range(row_words(self._sizes))), Signal(INDEX_BITS)
        with m.If(self.start):
            m.d.sync += [sweeping.eq(1), number.eq(0), left.eq(job.keys)]
        with m.If(sweeping):
            m.d.sync += [number.eq(number + 1), left.eq(left - lanes), sweeping.eq(left > lanes)]
        m.d.comb += [
            importance.i_valid.eq(adds | sweeping),
            importance.address.eq(Mux(sweeping, number, word.number)),
            *(importance.r.eq(self.inverse.r), importance.n.eq(self.inverse.n)),
            importance.decay.eq(Mux(sweeping, Cat(left > lane for lane in range(lanes)), 0)),
            importance.forget.eq(job.forget),
            *(importance.read_address.eq(self.token_address), self.token_data.eq(importance.read_data)),
            importance.write_address.eq(self.token_write_address),
            *(importance.write_data.eq(self.token_write_data), importance.write_enable.eq(self.token_write_enable)),
        ]
        for lane in range(lanes):
            e = word.bits.word_select(lane, EXP_BITS)
            m.d.comb += importance.i.e[lane].eq(Mux(sweeping, 0, e))
        under_way = Signal(Importance.LATENCY + 1)
        m.d.sync += under_way.eq((under_way << 1) | importance.i_valid)
        return under_way != 0

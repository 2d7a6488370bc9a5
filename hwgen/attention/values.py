"""Values of rows: what is fetched for them, passes of weighted sums, and weights."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import EXP_BITS, LOW_BITS, AttentionSizes, ValueMode
from hwgen.attention.buffer import BufferRead
from hwgen.attention.job import JobFields, job_prunes
from hwgen.attention.rows import RowPlace, RowReader, row_words, slot_bits
from hwgen.attention.select import KeptRow
from hwgen.attention.tiles import Growth
from hwgen.attention.weights import GroupWeights, KeptList, KeptWeights, WordWeights, weight_layout
from hwgen.attention.words import FetchCommand, LaneExponentials, RowIndex, WeightedCommand
from hwgen.lib.streams import Queue

_COMMANDS = 4
_INDICES = 4
_MARKED = 8
"""Words of e of rows with kept keys: the selection goes on meanwhile."""


class ValueStage(wiring.Component):
    """Sends the commands of value fetch and weighted sums, and the weights of the values.

    Timing
    ------
    Values are asked for when a row is `certain`. A pass begins when the weights of the one before and the values of its
    row have been asked for.

    Parameters
    ----------
    sizes : AttentionSizes

    Members
    -------
    job : In(JobFields)
    certain, rows : In(stream of slot), always taken    Rows in the order of their last softmax, when that order is
        known, and when their e is.
    refined : In(rows_in_flight)                        Rows whose keys had LSBs.
    fetch_slot : Out, fetch_place : In(RowPlace)
    slot : Out, place : In(RowPlace)
    e_address : Out, e_bits : In                        A cycle later.
    kept : In(stream of KeptRow), marked : In(stream of LaneExponentials)    What is kept of rows whose values are not
        held, and of others.
    growth : In(Growth)      What the sums of earlier tiles of row `slot` are multiplied by.
    fetch : Out(stream of FetchCommand), held : Out(stream of BufferRead), indices : Out(stream of RowIndex)
    command : Out(stream of WeightedCommand), weights : Out(stream of weights)
    begins : Out(1), may_begin : In(1)     The first pass of row `slot`, of its last tile, begins; it may.
    leaves : Out(1)     All e of row `slot` have been read.
    """

    def __init__(self, sizes: AttentionSizes) -> None:
        self._sizes = sizes
        slot = slot_bits(sizes)
        rows = stream.Signature(slot, always_ready=True)
        super().__init__(
            {
                "job": In(JobFields()),
                "certain": In(rows),
                "rows": In(rows),
                "refined": In(sizes.rows_in_flight),
                "fetch_slot": Out(slot),
                "fetch_place": In(RowPlace()),
                "slot": Out(slot),
                "place": In(RowPlace()),
                "e_address": Out(range(sizes.rows_in_flight * row_words(sizes))),
                "e_bits": In(EXP_BITS * sizes.softmax_lanes),
                "kept": In(stream.Signature(KeptRow())),
                "marked": In(stream.Signature(LaneExponentials(sizes))),
                "growth": In(Growth()),
                "fetch": Out(stream.Signature(FetchCommand())),
                "held": Out(stream.Signature(BufferRead(sizes))),
                "indices": Out(stream.Signature(RowIndex())),
                "command": Out(stream.Signature(WeightedCommand())),
                "weights": Out(stream.Signature(weight_layout(sizes))),
                "begins": Out(1),
                "may_begin": In(1),
                "leaves": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Fetches on one side, passes on the other."""
        m = Module()
        self._fires = Signal()
        self._passes(m, self._fetches(m))
        return m

    def _exact(self, slot: Value) -> Value:
        """Whether the LSBs of the values of a row are used."""
        job = self.job
        with_keys = (job.value_mode == ValueMode.WITH_KEYS) & self.refined.bit_select(slot, 1)
        return job.value_low & ((job.value_mode == ValueMode.ALWAYS) | with_keys)

    def _fetches(self, m: Module) -> Value:
        """MSBs, then LSBs. Gives whether the row whose passes come next has its fetches."""
        job, place, low = self.job, self.fetch_place, Signal()
        m.submodules.certain = waiting = Queue(shape=slot_bits(self._sizes), depth=self._sizes.rows_in_flight)
        m.submodules.fetches = fetches = Queue(shape=FetchCommand(), depth=_COMMANDS)
        wiring.connect(m, fetches.o, wiring.flipped(self.fetch))
        command, exact = fetches.i.payload, self._exact(waiting.o.payload)
        m.d.comb += [
            waiting.i.valid.eq(self.certain.valid),
            waiting.i.payload.eq(self.certain.payload),
            self.fetch_slot.eq(waiting.o.payload),
            fetches.i.valid.eq(waiting.o.valid & ~job.hold),
            waiting.o.ready.eq(job.hold | (fetches.i.ready & (low | ~exact))),
            command.address.eq(Mux(low, place.value_low, place.value)),
            command.bits.eq(Mux(low, LOW_BITS, job.value_bits)),
            command.head_size.eq(job.head_size),
            command.rows.eq(place.keys),
            command.gather.eq(job_prunes(job)),
        ]
        with m.If(fetches.i.valid & fetches.i.ready):
            m.d.sync += low.eq(exact & ~low)
        ahead, done = Signal(range(self._sizes.rows_in_flight + 1)), waiting.o.valid & waiting.o.ready
        m.d.sync += ahead.eq(ahead + done - self._fires)
        return (ahead != 0) | done

    def _passes(self, m: Module, fetched: Value) -> None:
        """Commands, and weights from words of e or from kept keys."""
        job, sizes, low, told = self.job, self._sizes, Signal(), Signal()
        m.submodules.waiting = waiting = Queue(shape=slot_bits(sizes), depth=sizes.rows_in_flight)
        m.submodules.commands = commands = Queue(shape=WeightedCommand(), depth=_COMMANDS)
        m.submodules.reads = reads = Queue(shape=BufferRead(sizes), depth=_COMMANDS)
        m.submodules.reader = reader = RowReader(sizes, width=EXP_BITS * sizes.softmax_lanes)
        wiring.connect(m, commands.o, wiring.flipped(self.command))
        wiring.connect(m, reads.o, wiring.flipped(self.held))
        kept, marks = self._lists(m)
        row, ends, exact, lists, fires, may = waiting.o, Signal(), Signal(), job_prunes(job), Signal(), Signal()
        m.d.comb += [
            *(waiting.i.valid.eq(self.rows.valid), waiting.i.payload.eq(self.rows.payload)),
            *(self.slot.eq(row.payload), exact.eq(self._exact(row.payload))),
            may.eq(low | (fetched & (self.may_begin | ~self.place.last))),
            fires.eq(row.valid & ~told & may & commands.i.ready & reads.i.ready),
            *(commands.i.valid.eq(fires), reads.i.valid.eq(fires & job.hold), self._fires.eq(fires & ~low)),
            self.begins.eq(self._fires & self.place.last),
            *(reader.command.valid.eq(row.valid & told & ~lists), reader.bits.eq(self.e_bits)),
            *(reader.command.payload.slot.eq(row.payload), reader.command.payload.keys.eq(self.place.keys)),
            self.e_address.eq(reader.address),
            *(part.enable.eq(row.valid & told & lists) for part in (kept, marks)),
            *(part.again.eq(exact) for part in (kept, marks)),
            ends.eq(Mux(lists, _ends(kept.o) | _ends(marks.o), reader.command.ready)),
            *(row.ready.eq(told & ends & (low | ~exact)), self.leaves.eq(row.valid & row.ready)),
        ]
        with m.If(fires):
            m.d.sync += told.eq(1)
        with m.If(told & row.valid & ends):
            m.d.sync += [told.eq(0), low.eq(exact & ~low)]
        self._pass(m, commands.i.payload, reads.i.payload, low, exact)
        self._weights(m, reader.o, kept.o, marks.o)

    def _lists(self, m: Module) -> tuple[KeptList, KeptList]:
        """Lists of kept keys, and of words of e, for rows that need two passes."""
        m.submodules.list = kept = KeptList(shape=KeptRow(), depth=self._sizes.max_length)
        m.submodules.marks = marks = KeptList(shape=LaneExponentials(self._sizes), depth=row_words(self._sizes))
        wiring.connect(m, wiring.flipped(self.kept), kept.i)
        wiring.connect(m, wiring.flipped(self.marked), marks.i)
        return kept, marks

    def _pass(self, m: Module, command: data.View, read: data.View, low: Value, exact: Value) -> None:
        """What weighted sums and the value buffer do in a pass."""
        job, place = self.job, self.place
        m.d.comb += [
            *(command.head_size.eq(job.head_size), command.half.eq(job.value_low & ~low), command.low.eq(low)),
            *(command.first.eq(~low & place.first), command.last.eq((low | ~exact) & place.last)),
            *(command.rescale.eq(self.growth.grown & ~low), command.factor.eq(self.growth.factor)),
            *(read.head_size.eq(job.head_size), read.rows.eq(place.keys), read.low.eq(low)),
            *(read.gather.eq(job_prunes(job)), read.base.eq(place.base)),
        ]

    def _weights(self, m: Module, words: stream.Interface, kept: stream.Interface, marked: stream.Interface) -> None:
        """Weights from one of three sources into a queue, indices from two of them into another."""
        # The weight of every value that is under way.
        m.submodules.weights = weights = Queue(shape=weight_layout(self._sizes), depth=self._sizes.reads_in_flight)
        m.submodules.indices = indices = Queue(shape=RowIndex(), depth=_INDICES)
        m.submodules.marked = waiting = Queue(shape=LaneExponentials(self._sizes), depth=_MARKED)
        m.submodules.cut = cut = WordWeights(self._sizes)
        m.submodules.gather = gather = KeptWeights(self._sizes)
        m.submodules.groups = groups = GroupWeights(self._sizes)
        wiring.connect(m, weights.o, wiring.flipped(self.weights))
        wiring.connect(m, indices.o, wiring.flipped(self.indices))
        for source, target in ((words, cut.i), (kept, gather.i), (marked, waiting.i), (waiting.o, groups.i)):
            wiring.connect(m, source, target)
        lists, hold = job_prunes(self.job), self.job.hold
        for part, own in ((cut, ~lists), (gather, lists & ~hold), (groups, lists & hold)):
            m.d.comb += [part.head_size.eq(self.job.head_size), part.o.ready.eq(weights.i.ready & own)]
            with m.If(own):
                m.d.comb += [weights.i.valid.eq(part.o.valid), weights.i.payload.eq(part.o.payload)]
        for part, own in ((gather, ~hold), (groups, hold)):
            m.d.comb += part.indices.ready.eq(indices.i.ready & own)
            with m.If(own):
                m.d.comb += [indices.i.valid.eq(part.indices.valid), indices.i.payload.eq(part.indices.payload)]


def _ends(items: stream.Interface) -> Value:
    """The last item of a row is taken."""
    return items.valid & items.ready & items.payload.last

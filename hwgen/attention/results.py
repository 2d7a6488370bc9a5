"""Weighted sums to outputs in memory, and the importance of heads."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import SCORE_MAX, AttentionSizes
from hwgen.attention.importance import IMPORTANCE_BITS
from hwgen.attention.job import LARGEST_HEAD, JobFields, RecordFields
from hwgen.attention.output import Output
from hwgen.attention.rows import HEAD_BITS, RowPlace, slot_bits
from hwgen.attention.score_stage import Inverse
from hwgen.attention.weighted import WeightedSums
from hwgen.attention.words import ADDRESS_BITS, ReadRequest
from hwgen.attention.writer import WriteBeat, WriteCommand, Writer
from hwgen.lib.pipeline import delay
from hwgen.lib.streams import Queue

_COMMANDS = 8


class ResultStage(wiring.Component):
    """Scales the sums of rows and writes them; writes rows of zeros for heads that are gone and rows that see no key.

    Timing
    ------
    `output_lanes` sums a cycle as long as the queue in front of the writer has room for them.

    Parameters
    ----------
    sizes : AttentionSizes
    operand : str, mul_latency : int    Of `Output`.

    Members
    -------
    job : In(JobFields)
    zeros : In(stream of 48)                       Addresses of rows of +0.
    empty : In(stream of slot), always taken; empty_slot : Out, empty_place : In(RowPlace), empty_done : Out(1)
        Rows in slots that see no key, and the one that is given to the writer.
    begins : In(1), begin_place : In(RowPlace), begin_inverse : In(Inverse), may_begin : Out(1)    Rows in the order of
        their sums.
    sums : In(stream of WeightedSums)
    used : Out(2)                                  Halves of the buffers that rows without their sums use.
    record_head : Out, record : In(RecordFields)
    request : Out(stream of ReadRequest), data : Out(stream of WriteBeat)
    heads : Out(32 x max_heads), heads_clear : In(1)
    busy : Out(1)
    """

    def __init__(self, sizes: AttentionSizes, *, operand: str, mul_latency: int) -> None:
        self._sizes, self._operand, self._mul_latency = sizes, operand, mul_latency
        slot = slot_bits(sizes)
        super().__init__(
            {
                "job": In(JobFields()),
                "zeros": In(stream.Signature(ADDRESS_BITS)),
                "empty": In(stream.Signature(slot, always_ready=True)),
                "empty_slot": Out(slot),
                "empty_place": In(RowPlace()),
                "empty_done": Out(1),
                "begins": In(1),
                "begin_place": In(RowPlace()),
                "begin_inverse": In(Inverse()),
                "may_begin": Out(1),
                "sums": In(stream.Signature(WeightedSums(sizes))),
                "used": Out(2),
                "record_head": Out(range(max(2, sizes.max_heads))),
                "record": In(RecordFields()),
                "request": Out(stream.Signature(ReadRequest())),
                "data": Out(stream.Signature(WriteBeat(sizes.beat_bytes))),
                "heads": Out(IMPORTANCE_BITS * sizes.max_heads),
                "heads_clear": In(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Rows that are written | sums, scaled, into the queue of the writer."""
        m = Module()
        m.submodules.writer = writer = Writer(self._sizes)
        wiring.connect(m, writer.request, wiring.flipped(self.request))
        wiring.connect(m, writer.data, wiring.flipped(self.data))
        row = data.StructLayout({"head": HEAD_BITS, "side": 1, "inverse": Inverse()})
        m.submodules.rows = rows = Queue(shape=row, depth=_COMMANDS)
        waiting = self._commands(m, writer, rows.i)
        inside = self._outputs(m, writer, rows.o)
        m.d.comb += self.busy.eq(waiting | inside | writer.busy)
        return m

    def _commands(self, m: Module, writer: Writer, row: stream.Interface) -> Value:
        """Rows with sums first, so that they never wait for others; gives whether rows wait."""
        m.submodules.commands = commands = Queue(shape=WriteCommand(), depth=_COMMANDS)
        m.submodules.empties = empties = Queue(shape=slot_bits(self._sizes), depth=self._sizes.rows_in_flight)
        wiring.connect(m, commands.o, writer.command)
        command, begins, first, place = commands.i.payload, self.begins, empties.o.valid, self.begin_place
        zero = Mux(first, self.empty_place.output, self.zeros.payload)
        m.d.comb += [
            *(empties.i.valid.eq(self.empty.valid), empties.i.payload.eq(self.empty.payload)),
            *(self.empty_slot.eq(empties.o.payload), self.may_begin.eq(commands.i.ready & row.ready)),
            *(row.valid.eq(begins), row.payload.inverse.eq(self.begin_inverse)),
            *(row.payload.head.eq(place.head), row.payload.side.eq(place.side)),
            *(command.head_size.eq(self.job.head_size), command.zero.eq(~begins)),
            command.address.eq(Mux(begins, place.output, zero)),
            commands.i.valid.eq(begins | first | self.zeros.valid),
            empties.o.ready.eq(commands.i.ready & ~begins),
            self.empty_done.eq(first & empties.o.ready),
            self.zeros.ready.eq(commands.i.ready & ~begins & ~first),
        ]
        return empties.o.valid | commands.o.valid

    def _outputs(self, m: Module, writer: Writer, row: stream.Interface) -> Value:
        """Sums are taken while there is room for what becomes of them; gives whether some are inside or to come."""
        sizes, depth = self._sizes, max(32, 2 * LARGEST_HEAD // self._sizes.output_lanes)
        m.submodules.output = output = Output(sizes, operand=self._operand, mul_latency=self._mul_latency)
        m.submodules.outputs = outputs = Queue(shape=16 * sizes.output_lanes, depth=depth)
        wiring.connect(m, outputs.o, writer.i)
        inside, front, sums = Signal(range(depth + 1)), row.payload, self.sums
        takes, gives = sums.valid & sums.ready, outputs.o.valid & outputs.o.ready
        m.d.sync += inside.eq(inside + takes - gives)
        m.d.comb += [
            *(self.record_head.eq(front.head), row.ready.eq(takes & sums.payload.last)),
            sums.ready.eq(inside != depth),
            *(output.i_valid.eq(takes), outputs.i.valid.eq(output.o_valid), outputs.i.payload.eq(output.o)),
            *(output.i.sums.eq(sums.payload.sums), output.i.last.eq(sums.payload.last)),
            *(output.i.r.eq(front.inverse.r), output.i.n.eq(front.inverse.n)),
            output.i.value_scale.eq(self.record.value_scale),
        ]
        ends = output.o_valid & output.o_last & self.job.importance
        self._heads(m, ends, delay(m, front.head, output.latency, "head"), output.magnitude)
        self._halves(m, row)
        return row.valid | (inside != 0)

    def _halves(self, m: Module, row: stream.Interface) -> None:
        """Rows that use each half of the buffers until their sums are there."""
        for side in range(2):
            rows = Signal(range(_COMMANDS + 1), name=f"rows_{side}")
            begins = self.begins & (self.begin_place.side == side)
            ends = row.valid & row.ready & (row.payload.side == side)
            m.d.sync += rows.eq(rows + begins - ends)
            m.d.comb += self.used[side].eq(rows != 0)

    def _heads(self, m: Module, adds: Signal, head: Signal, magnitude: Signal) -> None:
        """Importance of heads, saturated."""
        for number in range(self._sizes.max_heads):
            own = Signal(IMPORTANCE_BITS, name=f"head_{number}")
            total = own + magnitude
            with m.If(self.heads_clear):
                m.d.sync += own.eq(0)
            with m.Elif(adds & (head == number)):
                m.d.sync += own.eq(Mux(total > SCORE_MAX, SCORE_MAX, total))
            m.d.comb += self.heads.word_select(number, IMPORTANCE_BITS).eq(own)

"""QUANTIZE: rows of operands become planes of integers, head by head."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import ADDRESS_ALIGN, CHUNK, LOW_BITS, AttentionSizes
from hwgen.arch.services import Job
from hwgen.attention.services.align import OPERAND_BYTES, Aligner, Piece
from hwgen.attention.services.table import beat_table
from hwgen.attention.services.words import BEATS_BITS, BeatSpan, ServiceFields, job_ports, quantizer_lanes
from hwgen.attention.words import ADDRESS_BITS
from hwgen.fp.convert import FpWiden
from hwgen.fp.formats import OPERAND_FORMATS
from hwgen.lib.shared import Shared
from hwgen.lib.streams import Queue
from hwgen.quantization.quantizer import Quantizer

STEP_BYTES = 4
_SIZE_BITS = 25
"""Bytes of the rows of a head in a plane."""


class QuantizeIssue(wiring.Component):
    """What a job reads and writes: steps, then heads that somebody needs, the rows of each one behind the other.

    Timing
    ------
    A row a cycle, a cycle more for every head.

    Parameters
    ----------
    sizes : AttentionSizes

    Members
    -------
    fields : In(ServiceFields), start : In(1), alive : In(max_heads)
    span : Out(stream of BeatSpan)        Steps, then rows.
    pieces : Out(stream of Piece)         One for each row, not later than its span.
    msb, low : Out(stream of BeatSpan)    Of each head and plane.
    busy : Out(1)
    """

    def __init__(self, sizes: AttentionSizes) -> None:
        self._sizes, self._beat = sizes, sizes.beat_bytes
        span = Out(stream.Signature(BeatSpan()))
        super().__init__(
            {
                "fields": In(ServiceFields(Job.QUANTIZE)),
                "start": In(1),
                "alive": In(sizes.max_heads),
                "span": span,
                "pieces": Out(stream.Signature(Piece(sizes))),
                "msb": span,
                "low": span,
                "busy": Out(1),
            }
        )
        address = Signal(ADDRESS_BITS)
        self._head_source, self._row_source = Signal.like(address), Signal.like(address)
        self._msb, self._low = Signal.like(address), Signal.like(address)
        self._head, self._row = Signal(range(sizes.max_heads + 1)), Signal(16)
        self._queries = Signal(sizes.max_heads)

    def elaborate(self, platform: object) -> Module:
        """Steps | head after head: its planes, its rows."""
        m = Module()
        fields, beats = self.fields, self._count_beats
        row_bytes = fields.head_size * OPERAND_BYTES
        chunks, msb_size, low_size = (Signal(_SIZE_BITS, name=name) for name in ("chunks", "msb_size", "low_size"))
        # They are asked for two cycles after `start` at the earliest.
        m.d.sync += [
            chunks.eq((fields.head_size // CHUNK) * fields.rows),
            msb_size.eq(chunks * fields.bits * (CHUNK // 8)),
            low_size.eq(chunks * (LOW_BITS * CHUNK // 8)),
        ]
        m.d.comb += [
            self.msb.payload.address.eq(self._whole(self._msb)),
            self.msb.payload.beats.eq(beats(self._msb, msb_size)),
            self.low.payload.address.eq(self._whole(self._low)),
            self.low.payload.beats.eq(beats(self._low, low_size)),
            self.span.payload.address.eq(self._whole(self._row_source)),
            self.span.payload.beats.eq(beats(self._row_source, row_bytes)),
            self.pieces.payload.offset.eq(self._unit(self._row_source)),
            self.pieces.payload.head.eq(self._head),
            self.pieces.payload.place.eq(self._unit(self._msb)),
            self.pieces.payload.low_place.eq(self._unit(self._low)),
            self.pieces.payload.last.eq(self._row == fields.rows),
        ]
        with m.FSM():
            with m.State("idle"):
                self._begin(m)
                with m.If(self.start):
                    m.next = "steps"
            with m.State("steps"):
                m.d.comb += self.busy.eq(1)
                self._steps(m)
                with m.If(self.span.ready):
                    m.next = "head"
            with m.State("head"):
                m.d.comb += self.busy.eq(1)
                with m.If(self._head == fields.heads):
                    m.next = "idle"
                with m.Elif(~(self._queries & ((1 << fields.group) - 1)).any()):
                    self._next_head(m)
                with m.Else(), m.If(self._planes(m)):
                    m.d.sync += [self._row.eq(1), self._row_source.eq(self._head_source)]
                    m.next = "rows"
            with m.State("rows"):
                m.d.comb += self.busy.eq(1)
                with m.If(self._rows(m)):
                    m.d.sync += [self._row.eq(self._row + 1)]
                    m.d.sync += self._row_source.eq(self._row_source + fields.src_stride)
                    with m.If(self.pieces.payload.last):
                        self._next_head(m)
                        m.next = "head"
        return m

    def _whole(self, address: Value) -> Value:
        """Address of the beat."""
        shift = self._beat.bit_length() - 1
        return address[shift:] << shift

    def _unit(self, address: Value) -> Value:
        """Unit of 4 bytes within the beat."""
        return address[: self._beat.bit_length() - 1] // ADDRESS_ALIGN

    def _count_beats(self, address: Value, size: Value) -> Value:
        """Beats of `size` bytes from an address on."""
        shift = self._beat.bit_length() - 1
        return (address[:shift] + size + self._beat - 1)[shift:][:BEATS_BITS]

    def _begin(self, m: Module) -> None:
        fields = self.fields
        m.d.sync += [
            self._head.eq(0),
            self._queries.eq(self.alive),
            self._head_source.eq(fields.src_addr),
            self._msb.eq(fields.msb_addr),
            self._low.eq(fields.low_addr),
        ]

    def _steps(self, m: Module) -> None:
        """Ask for the steps of all heads."""
        m.d.comb += [
            self.span.valid.eq(1),
            self.span.payload.address.eq(self.fields.steps_addr),
            self.span.payload.beats.eq(self._count_beats(self.fields.steps_addr, self.fields.heads * STEP_BYTES)),
            self.span.payload.table.eq(1),
        ]

    def _next_head(self, m: Module) -> None:
        fields = self.fields
        m.d.sync += [
            self._head.eq(self._head + 1),
            self._queries.eq(self._queries >> fields.group),
            self._head_source.eq(self._head_source + fields.head_size * OPERAND_BYTES),
            self._msb.eq(self._msb + fields.msb_stride),
            self._low.eq(self._low + fields.low_stride),
        ]

    def _planes(self, m: Module) -> Value:
        """Announce the planes of a head together; gives whether they are taken."""
        split = self.fields.split
        m.d.comb += [self.msb.valid.eq(self.low.ready | ~split), self.low.valid.eq(self.msb.ready & split)]
        return self.msb.ready & (self.low.ready | ~split)

    def _rows(self, m: Module) -> Value:
        """Ask for a row, with its piece; gives whether it is taken."""
        m.d.comb += [self.span.valid.eq(self.pieces.ready), self.pieces.valid.eq(self.span.ready)]
        return self.span.ready & self.pieces.ready


class QuantizeJob(wiring.Component):
    """Rows through the quantiser.

    Timing
    ------
    A word of `quantizer_lanes` operands a cycle, or the beats that the rows take. From the beat that ends a word to its
    beat of a plane `latency` cycles.

    Parameters
    ----------
    sizes : AttentionSizes
    operand : str       Format of operands, "fp16" or "bf16".
    mul_latency : int   Registers of the multipliers.

    Members
    -------
    fields : In(ServiceFields), start : In(1), alive : In(max_heads)
    span : Out(stream of BeatSpan), data : In(stream of ReadBeat)
    span_N : Out(stream of BeatSpan), o_N : Out(stream of StoreBeat)    MSB plane (0), LSB plane (1).
    busy : Out(1)
    """

    def __init__(self, sizes: AttentionSizes, *, operand: str, mul_latency: int) -> None:
        self._sizes, self._operand, self._mul_latency = sizes, operand, mul_latency
        super().__init__(
            {
                "fields": In(ServiceFields(Job.QUANTIZE)),
                "start": In(1),
                "alive": In(sizes.max_heads),
                **job_ports(sizes, channels=2),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Issue | pieces under way | words | quantiser."""
        m = Module()
        sizes = self._sizes
        m.submodules.issue = issue = QuantizeIssue(sizes)
        m.submodules.pieces = pieces = Queue(shape=Piece(sizes), depth=sizes.reads_in_flight)
        m.submodules.aligner = aligner = Aligner(sizes)
        lanes = quantizer_lanes(sizes)
        quantizer = Quantizer(lanes=lanes, beat_bytes=sizes.beat_bytes, mul_latency=self._mul_latency)
        m.submodules.quantizer = quantizer
        for source, target in (
            (issue.span, wiring.flipped(self.span)),
            (issue.msb, wiring.flipped(self.span_0)),
            (issue.low, wiring.flipped(self.span_1)),
            (issue.pieces, pieces.i),
            (pieces.o, aligner.pieces),
        ):
            wiring.connect(m, source, target)
        m.d.comb += [
            *(issue.fields.eq(self.fields), issue.start.eq(self.start), issue.alive.eq(self.alive)),
            aligner.chunks.eq(self.fields.head_size // CHUNK),
            aligner.beats.payload.eq(self.data.payload.data),
            aligner.beats.valid.eq(self.data.valid & ~self.data.payload.table),
            self.data.ready.eq(self.data.payload.table | aligner.beats.ready),
            self.busy.eq(issue.busy | pieces.o.valid | aligner.busy | quantizer.busy),
        ]
        inverse = self._inverses(m, aligner.o.payload.piece.head)
        self._quantize(m, aligner.o, quantizer, inverse)
        for source, target in ((quantizer.msb, self.o_0), (quantizer.low, self.o_1)):
            m.d.comb += [
                target.valid.eq(source.valid),
                target.payload.data.eq(source.payload.data),
                target.payload.strobes.eq(source.payload.strobes),
                source.ready.eq(target.ready),
            ]
        return m

    def _inverses(self, m: Module, head: Value) -> Value:
        """Inverse step of a head; whole beats of them are kept."""
        per_beat, table = self._sizes.beat_bytes // STEP_BYTES, self.data.payload
        beats, valid = -(-self._sizes.max_heads // per_beat), self.data.valid & table.table
        read = beat_table(m, "inverses", beats=beats, clear=self.start, beat=table.data, valid=valid)
        inverse = Signal(8 * STEP_BYTES)
        m.d.comb += [
            read.addr.eq(head // per_beat),
            inverse.eq(read.data.word_select(head % per_beat, 8 * STEP_BYTES)),
        ]
        return inverse

    def _quantize(self, m: Module, words: stream.Interface, quantizer: Quantizer, inverse: Value) -> None:
        """Operands to FP32, with the settings of their head."""
        settings, word, fmt = quantizer.settings, words.payload, OPERAND_FORMATS[self._operand]
        for lane in range(quantizer_lanes(self._sizes)):
            m.submodules[f"widen_{lane}"] = widen = Shared(FpWiden, fmt=fmt)
            m.d.comb += [widen.i.eq(word.operands[lane]), quantizer.i.payload.values[lane].eq(widen.o)]
        zero = Const(0, ADDRESS_ALIGN.bit_length() - 1)
        m.d.comb += [
            settings.inverse.eq(inverse),
            settings.bits.eq(self.fields.bits + Mux(self.fields.split, LOW_BITS, 0)),
            settings.low.eq(self.fields.split),
            settings.offset.eq(Cat(zero, word.piece.place)),
            settings.low_offset.eq(Cat(zero, word.piece.low_place)),
            quantizer.i.payload.half.eq(word.half),
            quantizer.i.payload.last.eq(word.last),
            quantizer.i.valid.eq(words.valid),
            words.ready.eq(quantizer.i.ready),
        ]

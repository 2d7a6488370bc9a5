"""The descriptor of a job: fields, head records and mask, read from memory and checked."""

from collections.abc import Iterable

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import (
    ADDRESS_ALIGN,
    CHUNK,
    JOB,
    JOB_BYTES,
    KEEP_FRACTION,
    PLANE_BITS,
    QUERY_BITS,
    RECORD,
    RECORD_BYTES,
    AttentionSizes,
)
from hwgen.attention.buffer import address_bits
from hwgen.attention.words import ADDRESS_BITS, INDEX_BITS, ReadRequest

RECORD_PORTS = 3
"""Softmax, scaling and key selection look up records, of different heads."""
LARGEST_HEAD = 128


class JobFields(data.StructLayout):
    """Fields of `JOB`."""

    def __init__(self) -> None:
        super().__init__({item.name: item.width for item in JOB})


class RecordFields(data.StructLayout):
    """Fields of `RECORD`."""

    def __init__(self) -> None:
        super().__init__({item.name: item.width for item in RECORD})


def buffer_words(sizes: AttentionSizes, head_size: Value, rows: Value) -> Value:
    """Words of `multipliers` elements that `rows` rows take."""
    result = (rows * ((head_size + sizes.multipliers - 1) // sizes.multipliers))[: INDEX_BITS + 3]
    size = sizes.multipliers // 2
    while size >= CHUNK:
        per_word = sizes.rows_per_word(size)
        result = Mux(head_size <= size, (rows + per_word - 1) // per_word, result)
        size //= 2
    return result


def refused(job: data.View, words: Value, sizes: AttentionSizes) -> Value:
    """Whether the core can't run a job: a field out of its range or its place, or too large for the sizes."""

    def among(value: Value, choices: Iterable[int]) -> Value:
        return Cat(value == choice for choice in choices).any()

    groups = range(1, sizes.max_heads + 1)
    sound = [
        *_in_range(job),
        *_aligned(job, sizes),
        Cat((job.group == size) & among(job.heads, range(size, sizes.max_heads + 1, size)) for size in groups).any(),
        job.head_size % CHUNK == 0,
        job.keys <= sizes.max_length,
        among(job.query_bits, QUERY_BITS),
        among(job.key_bits, PLANE_BITS),
        among(job.value_bits, PLANE_BITS),
        ~job.hold | (words <= sizes.buffer_words),
    ]
    return ~Cat(sound).all()


def _in_range(job: data.View) -> list[Value]:
    """Ranges that are less than what a field can hold."""
    low = [job[item.name] >= item.low for item in JOB if item.low]
    return low + [job[item.name] <= item.limit for item in JOB if item.limit < (1 << item.width) - 1]


def _aligned(job: data.View, sizes: AttentionSizes) -> list[Value]:
    """Every address and stride is a multiple of what it must be."""
    aligns = {item.name: ADDRESS_ALIGN for item in JOB if item.name.endswith(("_addr", "_stride"))}
    aligns |= dict.fromkeys(("mask_addr", "heads_addr"), sizes.beat_bytes)
    return [job[name] % align == 0 for name, align in aligns.items()]


class JobReader(wiring.Component):
    """Reads a descriptor, then the records of its heads and its mask.

    Timing
    ------
    A beat asked for every cycle. `start` comes in the cycle after the last beat was asked for: what is asked for later
    arrives later than records and mask.

    Parameters
    ----------
    sizes : AttentionSizes

    Members
    -------
    command : In(stream of 48)    Byte address of a descriptor, a multiple of the beat size.
    request : Out(stream of ReadRequest), data : In(stream of beat)
    job : Out(JobFields)          From `start` until the next command is taken.
    start, error : Out(1)         One of them, for a cycle, for every command; error: the job is refused.
    finished : In(1)              The job that was started has ended.
    busy : Out(1)                 A job is read or has not ended.
    record_head_N : In, record_N : Out(RecordFields)   At once.
    words : Out, halves : Out(1)    Words that a head of keys takes in the row buffer; two heads fit.
    index : In(16), mask : Out(R)   Whether keys from `index` on are seen, `index` a multiple of the rows in a word.
    """

    def __init__(self, sizes: AttentionSizes) -> None:
        self._sizes, self._beat, self._rows = sizes, sizes.beat_bytes, sizes.multipliers // CHUNK
        beat = stream.Signature(8 * self._beat)
        head = range(max(2, sizes.max_heads))
        super().__init__(
            {
                "command": In(stream.Signature(ADDRESS_BITS)),
                "request": Out(stream.Signature(ReadRequest())),
                "data": In(beat),
                "job": Out(JobFields()),
                "start": Out(1),
                "error": Out(1),
                "finished": In(1),
                "busy": Out(1),
                **{f"record_head_{number}": In(head) for number in range(RECORD_PORTS)},
                **{f"record_{number}": Out(RecordFields()) for number in range(RECORD_PORTS)},
                "words": Out(address_bits(sizes) + 1),
                "halves": Out(1),
                "index": In(INDEX_BITS),
                "mask": Out(self._rows),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Descriptor | check | records and mask."""
        m = Module()
        beat_log2, first = self._beat.bit_length() - 1, max(1, JOB_BYTES // self._beat)
        address, image = Signal(ADDRESS_BITS), Signal(max(8 * JOB_BYTES, 8 * self._beat))
        asked, arrived, total, records = Signal(9), Signal(9), Signal(9), Signal(9)
        tables, words, crooked = Signal(), Signal(INDEX_BITS + 3), Signal()
        m.d.comb += [
            Value.cast(self.job).eq(image),
            records.eq((self.job.heads * RECORD_BYTES + self._beat - 1) >> beat_log2),
            self.data.ready.eq(1),
            words.eq(buffer_words(self._sizes, self.job.head_size, self.job.keys)),
            self.words.eq(words),
            self.halves.eq(2 * words <= self._sizes.buffer_words),
            self.busy.eq(~self.command.ready),
            self.request.payload.address.eq(address),
        ]
        arrives = self.data.valid
        with m.If(arrives):
            m.d.sync += arrived.eq(arrived + 1)
        with m.If(self.request.valid & self.request.ready):
            m.d.sync += [asked.eq(asked + 1), address.eq(address + self._beat)]
            with m.If(tables & (asked + 1 == records)):
                m.d.sync += address.eq(self.job.mask_addr)
        with m.FSM():
            with m.State("idle"):
                m.d.comb += self.command.ready.eq(1)
                m.d.sync += [
                    address.eq(self.command.payload[beat_log2:] << beat_log2),
                    asked.eq(0),
                    arrived.eq(0),
                    tables.eq(0),
                ]
                m.d.sync += crooked.eq(self.command.payload[:beat_log2].any())
                with m.If(self.command.valid):
                    m.next = "descriptor"
            with m.State("descriptor"):
                m.d.comb += self.request.valid.eq(asked != first)
                with m.If(arrives):
                    m.d.sync += image.eq(Cat(image, self.data.payload)[len(self.data.payload) :])
                with m.If(arrived == first):
                    m.next = "check"
            with m.State("check"):
                m.d.sync += [
                    *(asked.eq(0), arrived.eq(0), tables.eq(1), address.eq(self.job.heads_addr)),
                    total.eq(records + Mux(self.job.masked, (self.job.keys + 8 * self._beat - 1) >> beat_log2 + 3, 0)),
                ]
                m.next = "tables"
                with m.If(crooked | refused(self.job, words, self._sizes)):
                    m.d.comb += self.error.eq(1)
                    m.next = "idle"
            with m.State("tables"):
                m.d.comb += self.request.valid.eq(asked != total)
                with m.If(asked == total):
                    m.d.comb += self.start.eq(1)
                    m.next = "running"
            with m.State("running"), m.If(self.finished):
                m.next = "idle"
        self._records(m, tables & arrives & (arrived < records), arrived)
        self._mask(m, tables & arrives & (arrived >= records), arrived - records)
        return m

    def _records(self, m: Module, write: Value, number: Value) -> None:
        """Records of all heads, whole words of memory."""
        word = max(self._beat, RECORD_BYTES)
        per_word, parts = word // RECORD_BYTES, word // self._beat
        depth = max(2, -(-self._sizes.max_heads // per_word))
        m.submodules.records = memory = Memory(shape=8 * word, depth=depth, init=[])
        port = memory.write_port(granularity=8 * self._beat)
        m.d.comb += [
            port.addr.eq(number // parts),
            port.data.eq(self.data.payload.replicate(parts)),
            port.en.eq(Mux(write, 1, 0) << (number % parts)),
        ]
        for place in range(RECORD_PORTS):
            head, read = getattr(self, f"record_head_{place}"), memory.read_port(domain="comb")
            own = Signal(8 * RECORD_BYTES, name=f"record_bits_{place}")
            m.d.comb += [
                read.addr.eq(head // per_word),
                own.eq(read.data.word_select(head % per_word, 8 * RECORD_BYTES)),
                Value.cast(getattr(self, f"record_{place}")).eq(own),
            ]

    def _mask(self, m: Module, write: Value, number: Value) -> None:
        """Bits of the mask; all ones for jobs without."""
        bits = 8 * self._beat
        m.submodules.mask = memory = Memory(shape=bits, depth=max(2, -(-self._sizes.max_length // bits)), init=[])
        port, read, part = memory.write_port(), memory.read_port(domain="comb"), Signal(self._rows)
        m.d.comb += [
            port.addr.eq(number),
            port.data.eq(self.data.payload),
            port.en.eq(write),
            read.addr.eq(self.index // bits),
            part.eq(read.data.word_select((self.index % bits) // self._rows, self._rows)),
            self.mask.eq(Mux(self.job.masked, part >> (self.index % self._rows), (1 << self._rows) - 1)),
        ]


def job_prunes(job: data.View) -> Value:
    """Whether values are pruned: `value_keep` is less than all of them."""
    return ~job.value_keep[KEEP_FRACTION]

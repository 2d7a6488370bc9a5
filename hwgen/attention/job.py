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
    KeyMode,
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
        (job.keys <= sizes.max_length) | ~_needs_whole_rows(job),
        among(job.query_bits, QUERY_BITS),
        among(job.key_bits, PLANE_BITS),
        among(job.value_bits, PLANE_BITS),
        ~job.hold | (words <= sizes.buffer_words),
    ]
    return ~Cat(sound).all()


def _needs_whole_rows(job: data.View) -> Value:
    """Whether rows can't be taken in tiles."""
    return job.masked | job.importance | (job.key_mode == KeyMode.ROW) | (job.key_mode == KeyMode.KEY)


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
    """Reads a descriptor, then the records of its heads and its mask; those of the next job while one runs.

    Timing
    ------
    A beat asked for every cycle. `start` comes in the cycle after the last beat was asked for, or after `finished`:
    what is asked for later arrives later than records and mask.

    Parameters
    ----------
    sizes : AttentionSizes

    Members
    -------
    command : In(stream of 48)    Byte address of a descriptor, a multiple of the beat size.
    request : Out(stream of ReadRequest), data : In(stream of beat)
    job : Out(JobFields)          From `start` until `finished` at least.
    start, error : Out(1)         One of them, for a cycle, for every command; error: the job is refused.
    finished : In(1)              The job that was started has ended.
    begins : Out(1)               A job is the one at hand: its command was taken while no other ran, or the one before
        has ended in the cycle before.
    busy : Out(1)                 A job is read or has not ended.
    arriving : Out(1)             Records or mask of the job that was started are still to come.
    record_head_N : In, record_N : Out(RecordFields)   At once.
    words : Out, halves : Out(1)    Words that a head of keys takes in the row buffer; two heads fit.
    index : In(16), mask : Out(R)   Whether keys from `index` on are seen, `index` a multiple of the rows in a word.
    """

    def __init__(self, sizes: AttentionSizes) -> None:
        self._sizes, self._beat, self._rows = sizes, sizes.beat_bytes, sizes.multipliers // CHUNK
        self._running, self._side, self._bank = Signal(), Signal(), Signal()
        """A job has been started; half of the tables that is its own, and that of the job that was read last."""
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
                "begins": Out(1),
                "busy": Out(1),
                "arriving": Out(1),
                **{f"record_head_{number}": In(head) for number in range(RECORD_PORTS)},
                **{f"record_{number}": Out(RecordFields()) for number in range(RECORD_PORTS)},
                "words": Out(address_bits(sizes) + 1),
                "halves": Out(1),
                "index": In(INDEX_BITS),
                "mask": Out(self._rows),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Descriptor | check | records and mask | start; what has been read becomes the job at hand."""
        m = Module()
        beat_log2, first = self._beat.bit_length() - 1, max(1, JOB_BYTES // self._beat)
        address, image = Signal(ADDRESS_BITS), Signal(max(8 * JOB_BYTES, 8 * self._beat))
        asked, arrived, total, records = Signal(9), Signal(9), Signal(9), Signal(9)
        tables, words, crooked, idle = Signal(), Signal(INDEX_BITS + 3), Signal(), Signal()
        job, running = JobFields()(image[: JobFields().size]), self._running
        arrives = self.data.valid
        m.d.comb += [
            records.eq((job.heads * RECORD_BYTES + self._beat - 1) >> beat_log2),
            words.eq(buffer_words(self._sizes, job.head_size, job.keys)),
            *(self.data.ready.eq(1), self.request.payload.address.eq(address)),
        ]
        with m.If(arrives):
            m.d.sync += arrived.eq(arrived + 1)
        self._count(m, asked, address, tables & (asked + 1 == records), job.mask_addr)
        with m.FSM():
            with m.State("idle"):
                m.d.comb += [idle.eq(1), self.command.ready.eq(1)]
                m.d.sync += [
                    *(address.eq(self.command.payload[beat_log2:] << beat_log2), asked.eq(0), arrived.eq(0)),
                    *(tables.eq(0), crooked.eq(self.command.payload[:beat_log2].any())),
                ]
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
                    *(asked.eq(0), arrived.eq(0), tables.eq(1), address.eq(job.heads_addr)),
                    self._bank.eq(~self._side),
                    total.eq(records + Mux(job.masked, (job.keys + 8 * self._beat - 1) >> beat_log2 + 3, 0)),
                ]
                m.next = "tables"
                with m.If(crooked | refused(job, words, self._sizes)):
                    m.d.comb += self.error.eq(~running)
                    m.next = "idle"
                    with m.If(running):
                        # It asks for nothing more, and says so when its turn comes.
                        m.d.sync += tables.eq(0)
                        m.next = "check"
            with m.State("tables"):
                m.d.comb += self.request.valid.eq(asked != total)
                with m.If((asked == total) & ~running):
                    m.d.comb += self.start.eq(1)
                    m.d.sync += self._side.eq(self._bank)
                    m.next = "arriving"
            with m.State("arriving"):
                m.d.comb += self.arriving.eq(1)
                with m.If(arrived == total):
                    m.next = "idle"
        self._take(m, job, words, tables, idle)
        self._records(m, tables & arrives & (arrived < records), arrived)
        self._mask(m, tables & arrives & (arrived >= records), arrived - records)
        return m

    def _count(self, m: Module, asked: Signal, address: Signal, jumps: Value, mask: Value) -> None:
        """Beats that are asked for; the mask is where it is, behind the records."""
        with m.If(self.request.valid & self.request.ready):
            m.d.sync += [asked.eq(asked + 1), address.eq(address + self._beat)]
            with m.If(jumps):
                m.d.sync += address.eq(mask)

    def _take(self, m: Module, job: data.View, words: Value, tables: Value, idle: Value) -> None:
        """What was read is the job at hand as soon as no other one is."""
        running, ended = self._running, Signal()
        m.d.sync += ended.eq(self.finished)
        m.d.comb += [
            self.busy.eq(running | ~idle),
            self.begins.eq((self.command.valid & idle & ~running) | (ended & ~idle)),
        ]
        with m.If(tables & (~running | self.finished)):
            m.d.sync += [
                *(self.job.eq(job), self.words.eq(words)),
                self.halves.eq(2 * words <= self._sizes.buffer_words),
            ]
        with m.If(self.finished):
            m.d.sync += running.eq(0)
        with m.If(self.start):
            m.d.sync += running.eq(1)

    def _records(self, m: Module, write: Value, number: Value) -> None:
        """Records of all heads, whole words of memory."""
        word = max(self._beat, RECORD_BYTES)
        per_word, parts = word // RECORD_BYTES, word // self._beat
        bits = (-(-self._sizes.max_heads // per_word) - 1).bit_length()
        m.submodules.records = memory = Memory(shape=8 * word, depth=2 << bits, init=[])
        port = memory.write_port(granularity=8 * self._beat)
        m.d.comb += [
            port.addr.eq((number // parts)[:bits] | self._bank << bits),
            port.data.eq(self.data.payload.replicate(parts)),
            port.en.eq(Mux(write, 1, 0) << (number % parts)),
        ]
        for place in range(RECORD_PORTS):
            head, read = getattr(self, f"record_head_{place}"), memory.read_port(domain="comb")
            own = Signal(8 * RECORD_BYTES, name=f"record_bits_{place}")
            m.d.comb += [
                read.addr.eq((head // per_word)[:bits] | self._side << bits),
                own.eq(read.data.word_select(head % per_word, 8 * RECORD_BYTES)),
                Value.cast(getattr(self, f"record_{place}")).eq(own),
            ]

    def _mask(self, m: Module, write: Value, number: Value) -> None:
        """Bits of the mask; all ones for jobs without."""
        bits = 8 * self._beat
        depth = 1 << (-(-self._sizes.max_length // bits) - 1).bit_length()
        m.submodules.mask = memory = Memory(shape=bits, depth=2 * depth, init=[])
        port, read, part = memory.write_port(), memory.read_port(domain="comb"), Signal(self._rows)
        m.d.comb += [
            port.addr.eq((number % depth) + self._bank * depth),
            port.data.eq(self.data.payload),
            port.en.eq(write),
            read.addr.eq((self.index // bits) % depth + self._side * depth),
            part.eq(read.data.word_select((self.index % bits) // self._rows, self._rows)),
            self.mask.eq(Mux(self.job.masked, part >> (self.index % self._rows), (1 << self._rows) - 1)),
        ]


def job_prunes(job: data.View) -> Value:
    """Whether values are pruned: `value_keep` is less than all of them."""
    return ~job.value_keep[KEEP_FRACTION]

"""Rows of outputs to memory: bytes with strobes at any multiple of 4 bytes; rows of zeros of their own."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import ADDRESS_ALIGN, AttentionSizes
from hwgen.attention.words import ADDRESS_BITS, ReadRequest
from hwgen.lib.streams import Queue

PAGE_BYTES = 4096
"""No burst crosses a multiple of this."""
OUTPUT_BYTES = 2
_REQUESTS = 4


class WriteCommand(data.StructLayout):
    """A row of `head_size` outputs at a byte address; zero : of +0, for which no words come."""

    def __init__(self) -> None:
        super().__init__({"address": ADDRESS_BITS, "head_size": 8, "zero": 1})


class WriteBeat(data.StructLayout):
    """A beat; strobes : a bit for each byte that is written; last : ends the burst."""

    def __init__(self, beat_bytes: int) -> None:
        super().__init__({"data": 8 * beat_bytes, "strobes": beat_bytes, "last": 1})


class Writer(wiring.Component):
    """Writes rows one after the other. A row that crosses a multiple of `PAGE_BYTES` is two bursts.

    Timing
    ------
    A word a cycle; between rows a cycle for each burst of the next row, and one more if a row's last word ends in a
    new beat. A beat is offered in the cycle after the word that fills it, never before its burst.

    Parameters
    ----------
    sizes : AttentionSizes

    Members
    -------
    command : In(stream of WriteCommand)
    i : In(stream of 16 x output_lanes)    Outputs of rows that are not zero, in the order of their commands.
    request : Out(stream of ReadRequest)
    data : Out(stream of WriteBeat)        In the order of the requests.
    busy : Out(1)
    """

    def __init__(self, sizes: AttentionSizes) -> None:
        self._lanes, self._beat = sizes.output_lanes, sizes.beat_bytes
        self._word = OUTPUT_BYTES * self._lanes
        self._unit = min(self._word, ADDRESS_ALIGN)
        units = self._beat // self._unit
        self._place = Signal(range(units))
        """Where the next word goes."""
        self._words = Signal(8)
        """That are to come."""
        self._beats, self._more = Signal(9), Signal(9)
        """Of the burst at hand, and of the one behind it."""
        self._zero, self._packing, self._flush, self._second = Signal(), Signal(), Signal(), Signal()
        """A row of zeros; words are to come; the end of a row is in a beat of its own; a second burst is to come."""
        super().__init__(
            {
                "command": In(stream.Signature(WriteCommand())),
                "i": In(stream.Signature(8 * self._word)),
                "request": Out(stream.Signature(ReadRequest())),
                "data": Out(stream.Signature(WriteBeat(self._beat))),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """One burst or two are asked for, then words are put behind one another."""
        m = Module()
        m.submodules.requests = requests = Queue(shape=ReadRequest(), depth=_REQUESTS)
        wiring.connect(m, requests.o, wiring.flipped(self.request))
        self._take_row(m, requests.i)
        room, units = ~self.data.valid | self.data.ready, self._beat // self._unit
        take, last_word, crossing, full, flushing = Signal(), Signal(), Signal(), Signal(), Signal()
        end = Signal(range(2 * units))
        ready = self._packing & ~self._second & room
        m.d.comb += [
            last_word.eq(self._words == 1),
            end.eq(self._place + self._word // self._unit),
            crossing.eq(end >= units),
            self.i.ready.eq(ready & ~self._zero),
            take.eq(ready & (self._zero | self.i.valid)),
            flushing.eq(self._flush & room),
            full.eq((take & (crossing | last_word)) | flushing),
            self.busy.eq(self._packing | self._flush | self.data.valid | self.request.valid | self.command.valid),
        ]
        with m.If(room):
            m.d.sync += self.data.valid.eq(full)
        with m.If(take):
            m.d.sync += [
                self._words.eq(self._words - 1),
                self._place.eq(Mux(crossing, end - units, end)),
                self._packing.eq(~last_word),
                self._flush.eq(last_word & (end > units)),
            ]
        with m.If(flushing):
            m.d.sync += self._flush.eq(0)
        with m.If(full):
            m.d.sync += [
                self.data.payload.last.eq(self._beats == 1),
                self._beats.eq(Mux(self._beats == 1, self._more, self._beats - 1)),
            ]
        self._pack(m, take, crossing, flushing | (take & last_word & ~crossing))
        return m

    def _take_row(self, m: Module, request: stream.Interface) -> None:
        """Take a row and ask for its bursts."""
        row, shift, page_log2 = self.command.payload, self._beat.bit_length() - 1, PAGE_BYTES.bit_length() - 1
        page, offset, total, left = Signal(ADDRESS_BITS), row.address[:shift], Signal(9), Signal(9)
        first = Mux(total > left, left, total)
        idle = ~self._packing & ~self._flush & ~self._second
        m.d.comb += [
            total.eq((offset + OUTPUT_BYTES * row.head_size + self._beat - 1) >> shift),
            left.eq((PAGE_BYTES >> shift) - row.address[shift:page_log2]),
            request.valid.eq(self._second | (idle & self.command.valid)),
            request.payload.address.eq(Mux(self._second, page, row.address[shift:] << shift)),
            request.payload.beats.eq(Mux(self._second, self._more, first) - 1),
            self.command.ready.eq(idle & request.ready),
        ]
        with m.If(self._second & request.ready):
            m.d.sync += self._second.eq(0)
        with m.If(self.command.valid & self.command.ready):
            m.d.sync += [
                self._second.eq(total > left),
                self._beats.eq(first),
                self._more.eq(total - first),
                page.eq((row.address[page_log2:] + 1) << page_log2),
                self._place.eq(offset // self._unit),
                self._words.eq(row.head_size // self._lanes),
                self._zero.eq(row.zero),
                self._packing.eq(1),
            ]

    def _pack(self, m: Module, take: Value, crossing: Value, clear: Value) -> None:
        """What is there and the word that comes make a beat; what is too much stays."""
        beat_bits, size = 8 * self._beat, self._beat + self._word
        placed, strobes = Signal(8 * size), Signal(size)
        word, marks = Mux(self._zero, 0, self.i.payload), (1 << self._word) - 1
        with m.Switch(self._place):
            for number in range(self._beat // self._unit):
                with m.Case(number):
                    m.d.comb += [
                        placed.eq(word << 8 * number * self._unit),
                        strobes.eq(marks << number * self._unit),
                    ]
        held, held_strobes = Signal(beat_bits), Signal(self._beat)
        whole, all_strobes = Mux(take, placed, 0) | held, Mux(take, strobes, 0) | held_strobes
        with m.If(~self.data.valid | self.data.ready):
            m.d.sync += [
                self.data.payload.data.eq(whole),
                self.data.payload.strobes.eq(all_strobes),
            ]
        with m.If(take):
            m.d.sync += [
                held.eq(Mux(crossing, whole[beat_bits:], whole)),
                held_strobes.eq(Mux(crossing, all_strobes[self._beat :], all_strobes)),
            ]
        with m.If(clear):
            m.d.sync += [held.eq(0), held_strobes.eq(0)]

"""Elements of a few bits, packed without gaps into memory beats."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import QUERY_BITS
from hwgen.fp.integer import BITS_WIDTH, INTEGER_BITS

LANES = (4, 8, 16, 32)


class PackerWord(data.StructLayout):
    """`lanes` elements of `bits` bits each. offset : byte of the beat in which the first word of a segment starts,
    read with that word. half : of 32 lanes only the lower 16 count. last : ends the segment.
    """

    def __init__(self, lanes: int, beat_bytes: int) -> None:
        elements, byte = data.ArrayLayout(INTEGER_BITS, lanes), (beat_bytes - 1).bit_length()
        super().__init__({"elements": elements, "bits": BITS_WIDTH, "offset": byte, "half": 1, "last": 1})


class PlaneBeat(data.StructLayout):
    """A beat; strobes : a bit for each byte that belongs to the segment; last : ends it."""

    def __init__(self, beat_bytes: int) -> None:
        super().__init__({"data": 8 * beat_bytes, "strobes": beat_bytes, "last": 1})


class PlanePacker(wiring.Component):
    """Packs segments: words of elements become beats in which element follows element, lowest bits first.

    Timing
    ------
    A word a cycle; a segment whose last word ends in a new beat takes one cycle more. A beat is offered 2 cycles after
    the word that fills it.

    Parameters
    ----------
    lanes : int        One of `LANES`.
    beat_bytes : int   At least 2 x lanes.

    Members
    -------
    i : In(stream of PackerWord)    bits : one of `QUERY_BITS`; offset : a multiple of `unit`.
    o : Out(stream of PlaneBeat)
    busy : Out(1)     Something is inside.
    """

    def __init__(self, *, lanes: int, beat_bytes: int) -> None:
        if lanes not in LANES:
            raise ValueError(f"lanes must be one of {', '.join(map(str, LANES))}, not {lanes!r}")
        if beat_bytes < 2 * lanes:
            raise ValueError(f"beat_bytes ({beat_bytes}) must be at least 2 x lanes ({lanes})")
        self._lanes, self._beat_bytes = lanes, beat_bytes
        super().__init__(
            {
                "i": In(stream.Signature(PackerWord(lanes, beat_bytes))),
                "o": Out(stream.Signature(PlaneBeat(beat_bytes))),
                "busy": Out(1),
            }
        )

    @property
    def unit(self) -> int:
        """Bytes; a word of elements of even width, or half of one of 32, is a multiple of it."""
        return min(4, self._lanes // 4)

    def elaborate(self, platform: object) -> Module:
        """Squeeze the elements of a word together | put them behind those that are there."""
        m = Module()
        chunk, units, offset, last, full = self._squeeze(m)
        beat_units = self._beat_bytes // self.unit
        first, flush = Signal(init=1), Signal()
        fill, end = Signal(range(beat_units)), Signal(range(2 * beat_units))
        position = Signal.like(fill)
        m.d.comb += [position.eq(Mux(first, offset, fill)), end.eq(position + units)]
        placed, strobes = self._place(m, chunk, units, position)

        held, held_strobes = Signal(8 * self._beat_bytes), Signal(self._beat_bytes)
        whole = held | placed
        marks = held_strobes | strobes
        room = ~self.o.valid | self.o.ready
        take, crossing = Signal(), end >= beat_units
        spill = last & (end > beat_units)
        m.d.comb += [take.eq(full & room & ~flush), self._taken.eq(take)]
        with m.If(room):
            m.d.sync += self.o.valid.eq(flush | (take & (crossing | last)))
        with m.If(take):
            m.d.sync += [
                first.eq(last),
                fill.eq(end - Mux(crossing, beat_units, 0)),
                self.o.payload.data.eq(whole[: 8 * self._beat_bytes]),
                self.o.payload.strobes.eq(marks[: self._beat_bytes]),
                self.o.payload.last.eq(last & ~spill),
                held.eq(Mux(crossing, whole[8 * self._beat_bytes :], whole)),
                held_strobes.eq(Mux(crossing, marks[self._beat_bytes :], marks)),
                flush.eq(spill),
            ]
            with m.If(last & ~spill):
                m.d.sync += [held.eq(0), held_strobes.eq(0)]
        with m.If(flush & room):
            m.d.sync += [
                self.o.payload.data.eq(held),
                self.o.payload.strobes.eq(held_strobes),
                self.o.payload.last.eq(1),
                held.eq(0),
                held_strobes.eq(0),
                flush.eq(0),
            ]
        m.d.comb += self.busy.eq(full | flush | self.o.valid | ~first)
        return m

    def _squeeze(self, m: Module) -> tuple[Signal, Signal, Signal, Signal, Signal]:
        """A register with the bits of a word, the units that they take, where they start, and whether it is full."""
        word = self.i.payload
        chunk = Signal(INTEGER_BITS * self._lanes, reset_less=True)
        units = Signal(range(2 * self._lanes // self.unit + 1), reset_less=True)
        offset = Signal(range(self._beat_bytes // self.unit), reset_less=True)
        last, full = Signal(reset_less=True), Signal()
        self._taken = Signal(name="taken")
        m.d.comb += self.i.ready.eq(~full | self._taken)
        with m.If(self.i.ready):
            m.d.sync += full.eq(self.i.valid)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [last.eq(word.last), offset.eq(word.offset // self.unit)]
            with m.Switch(word.bits):
                for bits in QUERY_BITS:
                    with m.Case(bits):
                        size = self._lanes * bits // 8 // self.unit
                        fields = Cat(word.elements[lane][:bits] for lane in range(self._lanes))
                        m.d.sync += [chunk.eq(fields), units.eq(size)]
                        if self._lanes == max(LANES):
                            with m.If(word.half):
                                m.d.sync += [chunk.eq(fields[: len(fields) // 2]), units.eq(size // 2)]
        return chunk, units, offset, last, full

    def _place(self, m: Module, chunk: Signal, units: Signal, position: Signal) -> tuple[Signal, Signal]:
        """The chunk moved to its position in two beats, and its strobes; a case for each position."""
        size = self._beat_bytes + 2 * self._lanes
        placed, strobes, own = Signal(8 * size), Signal(size), Signal(2 * self._lanes)
        marks = [unit < units for unit in range(2 * self._lanes // self.unit)]
        m.d.comb += own.eq(Cat(mark.replicate(self.unit) for mark in marks))
        with m.Switch(position):
            for place in range(self._beat_bytes // self.unit):
                with m.Case(place):
                    m.d.comb += [
                        placed.eq(chunk << 8 * place * self.unit),
                        strobes.eq(own << place * self.unit),
                    ]
        return placed, strobes

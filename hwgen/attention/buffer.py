"""The row buffer: keys or values of a head that are loaded once and read for many rows."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import CHUNK, LOW_BITS, PLANE_BITS, AttentionSizes
from hwgen.attention.words import ELEMENT_BITS, INDEX_BITS, ElementWord, RowIndex
from hwgen.lib.ram import Ram

MSB_BITS = max(PLANE_BITS)
HEADS = range(CHUNK, 129, CHUNK)
CHUNK_BITS = CHUNK * ELEMENT_BITS


def address_bits(sizes: AttentionSizes) -> int:
    """Bits of the address of a word."""
    return (sizes.buffer_words - 1).bit_length()


class BufferLoad(data.StructLayout):
    """A plane that arrives. base : address of its first word. low : LSB plane, beside the MSB plane at that address."""

    def __init__(self, sizes: AttentionSizes) -> None:
        super().__init__({"base": address_bits(sizes), "low": 1})


class BufferRead(data.StructLayout):
    """Rows to be read: the first `rows`, or (`gather`) the words with the rows that the index stream names.

    base, low : as for `BufferLoad`. single : of a gathered word only the row that is named.
    """

    def __init__(self, sizes: AttentionSizes) -> None:
        flags = dict.fromkeys(("low", "gather", "single"), 1)
        super().__init__({"base": address_bits(sizes), "head_size": 8, "rows": INDEX_BITS, **flags})


class RowBuffer(wiring.Component):
    """`buffer_words` words with an MSB and an LSB plane each; or a wire.

    Timing
    ------
    A word is written a cycle, and one read, reads back to back. The first word of a read is offered `LATENCY` cycles
    after its command, or its index, was offered. A word is read at the earliest in the cycle after the one in which it
    was written; nothing holds a read back until then.

    Parameters
    ----------
    sizes : AttentionSizes

    Members
    -------
    bypass : In(1)                          `i` goes to `o` at once, nothing is written or read.
    load : In(stream of BufferLoad)         Taken with the last word of its plane.
    i : In(stream of ElementWord)           Elements of at most 12 bits.
    loaded : Out(1)                         That word is being taken.
    read : In(stream of BufferRead)         Taken with its last word or index.
    indices : In(stream of RowIndex)        Ascending; without `single` one a word. `none`: a word without rows.
    o : Out(stream of ElementWord)
    busy : Out(1)                           A word is on its way out.
    """

    LATENCY = 2

    def __init__(self, sizes: AttentionSizes) -> None:
        self._sizes, self._count, self._rows = sizes, sizes.multipliers, sizes.multipliers // CHUNK
        super().__init__(
            {
                "bypass": In(1),
                "load": In(stream.Signature(BufferLoad(sizes))),
                "i": In(stream.Signature(ElementWord(sizes))),
                "loaded": Out(1),
                "read": In(stream.Signature(BufferRead(sizes))),
                "indices": In(stream.Signature(RowIndex())),
                "o": Out(stream.Signature(ElementWord(sizes))),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Place of a word | memory | out."""
        m = Module()
        msb = m.submodules.msb = Ram(width=MSB_BITS * self._count, depth=self._sizes.buffer_words)
        low = m.submodules.low = Ram(width=LOW_BITS * self._count, depth=self._sizes.buffer_words)
        self._write(m, msb, low)
        layout = data.StructLayout(
            {
                "index": INDEX_BITS,
                "rows": range(self._rows + 1),
                "part": 3,
                "slot": range(max(2, self._rows)),
                "head_size": 8,
                **dict.fromkeys(("last", "low", "single"), 1),
            }
        )
        places = [Signal(address_bits(self._sizes), name=f"place_{number}", reset_less=True) for number in range(2)]
        tags = [Signal(layout, name=f"tag_{number}", reset_less=True) for number in range(2)]
        full = [Signal(name=f"full_{number}") for number in range(2)]
        room = ~full[1] | (self.o.ready & ~self.bypass)
        self._next(m, ~full[0] | room, full[0], places[0], tags[0])
        with m.If(room):
            m.d.sync += [full[1].eq(full[0]), places[1].eq(places[0]), tags[1].eq(tags[0])]
        for ram in (msb, low):
            # A word that waits is read again.
            m.d.comb += ram.read_address.eq(Mux(room, places[0], places[1]))
        m.d.comb += [
            self.o.valid.eq(Mux(self.bypass, self.i.valid, full[1])),
            self.busy.eq(Cat(*full).any()),
        ]
        self._out(m, msb.read_data, low.read_data, tags[1])
        return m

    def _write(self, m: Module, msb: Ram, low: Ram) -> None:
        """Words of a plane, one behind the other."""
        number, word, load = Signal(address_bits(self._sizes)), self.i.payload, self.load.payload
        takes = self.load.valid & self.i.valid & ~self.bypass
        m.d.comb += [
            self.i.ready.eq(Mux(self.bypass, self.o.ready, self.load.valid)),
            self.loaded.eq(takes & word.last),
            self.load.ready.eq(self.loaded),
        ]
        for ram, bits, own in ((msb, MSB_BITS, ~load.low), (low, LOW_BITS, load.low)):
            m.d.comb += [
                ram.write_enable.eq(takes & own),
                ram.write_address.eq(load.base + number),
                ram.write_data.eq(Cat(Value.cast(element)[:bits] for element in word.elements)),
            ]
        with m.If(takes):
            m.d.sync += number.eq(Mux(word.last, 0, number + 1))

    def _next(self, m: Module, go: Value, full: Signal, place: Signal, tag: data.View) -> None:
        """The next word of a read, whose first row is `row`."""
        read, index, part, counted = self.read.payload, self.indices.payload, Signal(3), Signal(INDEX_BITS)
        group, parts, row, number = self._group(m, part, counted)
        offered, ends, takes, complete = Signal(), Signal(), Signal(), part == parts
        left = read.rows - row
        m.d.comb += [
            offered.eq(self.read.valid & (self.indices.valid | ~read.gather)),
            ends.eq(complete & Mux(read.gather, index.last, left <= group)),
            takes.eq(go & offered),
            self.read.ready.eq(takes & ends),
            self.indices.ready.eq(takes & read.gather & complete),
        ]
        with m.If(go):
            m.d.sync += [
                *(full.eq(offered), place.eq(read.base + number), tag.slot.eq(index.index - row)),
                tag.index.eq(Mux(read.single, index.index, row)),
                tag.rows.eq(Mux(read.gather & index.none, 0, Mux(read.single, 1, Mux(left < group, left, group)))),
                *(tag.part.eq(part), tag.last.eq(ends)),
                *(tag[name].eq(read[name]) for name in ("head_size", "low", "single")),
            ]
        with m.If(takes):
            m.d.sync += part.eq(Mux(complete, 0, part + 1))
            with m.If(complete):
                m.d.sync += counted.eq(Mux(ends, 0, counted + group))

    def _group(self, m: Module, part: Signal, counted: Signal) -> tuple[Signal, Signal, Signal, Signal]:
        """Rows of a word, last word of a row; first row of the word at hand, its number from the base on."""
        group, parts, row = Signal(range(self._rows + 1)), Signal(3), Signal(INDEX_BITS)
        number, read = Signal(address_bits(self._sizes)), self.read.payload
        with m.Switch(read.head_size):
            for head in HEADS:
                rows, words = self._sizes.rows_per_word(head), self._sizes.words_per_row(head)
                shift = rows.bit_length() - 1
                with m.Case(head):
                    m.d.comb += [
                        *(group.eq(rows), parts.eq(words - 1)),
                        row.eq(Mux(read.gather, self.indices.payload.index >> shift << shift, counted)),
                        number.eq((row >> shift) * words + part),
                    ]
        return group, parts, row, number

    def _out(self, m: Module, msb: Value, low: Value, tag: data.View) -> None:
        """Signs, and a single row in the first place of its word."""
        chunks = []
        for number in range(self._rows):
            parts = []
            for raw, bits in ((msb, MSB_BITS), (low, LOW_BITS)):
                fields = (raw.word_select(number * CHUNK + lane, bits) for lane in range(CHUNK))
                parts.append(Cat(Cat(field, field[-1].replicate(ELEMENT_BITS - bits)) for field in fields))
            chunk = Signal(CHUNK_BITS, name=f"chunk_{number}")
            m.d.comb += chunk.eq(Mux(tag.low, parts[1], parts[0]))
            chunks.append(chunk)
        word = Signal(ElementWord(self._sizes))
        elements = Signal.like(Value.cast(word.elements), name="elements")
        m.d.comb += [
            *(word[name].eq(tag[name]) for name in ("index", "rows", "part", "last")),
            *(elements.eq(Cat(*chunks)), Value.cast(word.elements).eq(elements)),
            self.o.payload.eq(Mux(self.bypass, self.i.payload, word)),
        ]
        with m.If(tag.single):
            for size in (16, 32, 64, 128):
                if size < self._count:
                    with m.If((tag.head_size > size // 2) & (tag.head_size <= size)):
                        rows = Cat(*chunks)
                        for slot in range(self._count // size):
                            with m.If(tag.slot == slot):
                                m.d.comb += elements.eq(rows.word_select(slot, ELEMENT_BITS * size))

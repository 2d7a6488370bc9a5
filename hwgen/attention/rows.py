"""Rows in flight: what is known of them, and the reading of words that are kept for them."""

from amaranth.hdl import Module, Mux, ShapeLike, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import AttentionSizes
from hwgen.attention.words import ADDRESS_BITS, INDEX_BITS
from hwgen.lib.streams import Queue

HEAD_BITS = 4
BASE_BITS = 16
"""Bits of the address of a word of a row buffer, of any size."""


def slot_bits(sizes: AttentionSizes) -> int:
    """Bits of the number of a slot: every row in flight has one, with a score buffer and room for e."""
    return (sizes.rows_in_flight - 1).bit_length()


def row_words(sizes: AttentionSizes) -> int:
    """Words of `softmax_lanes` scores of the longest row."""
    return max(2, sizes.max_length // sizes.softmax_lanes)


class RowPlace(data.StructLayout):
    """A row: its head, keys in its range, byte addresses; zero : the head is gone, outputs are +0.

    kv_head : head of its keys and values. side : half of the row buffers that holds them. base : where they begin
    there. Of a row of several tiles, this is one, `first` and `last` say which.
    """

    def __init__(self) -> None:
        addresses = dict.fromkeys(("query", "key", "key_low", "value", "value_low", "output"), ADDRESS_BITS)
        super().__init__(
            {
                **{"head": HEAD_BITS, "kv_head": HEAD_BITS, "keys": INDEX_BITS, "base": BASE_BITS},
                **dict.fromkeys(("zero", "side", "first", "last"), 1),
                **addresses,
            }
        )


class RowTable(wiring.Component):
    """A small memory with an entry for each slot.

    Timing
    ------
    An entry is read at once, from the cycle after it was written on.

    Parameters
    ----------
    shape : ShapeLike
    slots, ports : int

    Members
    -------
    write_slot : In, write_data : In(shape), write_enable : In(1)
    slot_N : In, entry_N : Out(shape)    For each port.
    """

    def __init__(self, shape: ShapeLike, *, slots: int, ports: int) -> None:
        self._shape, self._slots, self._ports = shape, slots, ports
        slot = range(slots)
        super().__init__(
            {
                "write_slot": In(slot),
                "write_data": In(shape),
                "write_enable": In(1),
                **{f"slot_{number}": In(slot) for number in range(ports)},
                **{f"entry_{number}": Out(shape) for number in range(ports)},
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Distributed memory."""
        m = Module()
        m.submodules.memory = memory = Memory(shape=self._shape, depth=self._slots, init=[])
        write = memory.write_port()
        m.d.comb += [
            write.addr.eq(self.write_slot),
            write.data.eq(self.write_data),
            write.en.eq(self.write_enable),
        ]
        for number in range(self._ports):
            read = memory.read_port(domain="comb")
            m.d.comb += [read.addr.eq(getattr(self, f"slot_{number}")), getattr(self, f"entry_{number}").eq(read.data)]
        return m


class ReadRow(data.StructLayout):
    """Words of a slot to be read: those of `keys` keys."""

    def __init__(self, sizes: AttentionSizes) -> None:
        super().__init__({"slot": slot_bits(sizes), "keys": INDEX_BITS})


class RowWord(data.StructLayout):
    """A word of a slot; number : which; count : lanes that hold keys; last : of its row."""

    def __init__(self, sizes: AttentionSizes, width: int) -> None:
        super().__init__(
            {
                "bits": width,
                "slot": slot_bits(sizes),
                "number": range(row_words(sizes)),
                "count": range(sizes.softmax_lanes + 1),
                "last": 1,
            }
        )


class RowReader(wiring.Component):
    """Reads the words of rows from a memory and gives them as a stream.

    Timing
    ------
    The first word is offered `LATENCY` cycles after its command was offered; then one a cycle, also from row to row.
    Words that are `blocked` come later.

    Parameters
    ----------
    sizes : AttentionSizes
    width : int     Bits of a word.

    Members
    -------
    command : In(stream of ReadRow)
    address : Out, bits : In(width)    A cycle later. Slots have `row_words` words each.
    blocked : In(1), asks : Out(1)     A word must not be asked for; one is.
    o : Out(stream of RowWord)
    """

    LATENCY = 2
    _DEPTH = 4

    def __init__(self, sizes: AttentionSizes, *, width: int) -> None:
        self._sizes, self._width = sizes, width
        super().__init__(
            {
                "command": In(stream.Signature(ReadRow(sizes))),
                "address": Out(range(sizes.rows_in_flight * row_words(sizes))),
                "bits": In(width),
                "blocked": In(1),
                "asks": Out(1),
                "o": Out(stream.Signature(RowWord(sizes, width))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """A word is asked for when the queue has room for it and for the one under way."""
        m = Module()
        m.submodules.queue = queue = Queue(shape=RowWord(self._sizes, self._width), depth=self._DEPTH)
        wiring.connect(m, queue.o, wiring.flipped(self.o))
        row, lanes = self.command.payload, self._sizes.softmax_lanes
        number, asks, last, coming = Signal(range(row_words(self._sizes))), self.asks, Signal(), Signal()
        tag = Signal.like(queue.i.payload)
        m.d.comb += [
            asks.eq(self.command.valid & ~self.blocked & (queue.level + coming < self._DEPTH)),
            last.eq((number + 1) * lanes >= row.keys),
            self.address.eq(row.slot * row_words(self._sizes) + number),
            self.command.ready.eq(asks & last),
            queue.i.valid.eq(coming),
            queue.i.payload.eq(tag),
            queue.i.payload.bits.eq(self.bits),
        ]
        m.d.sync += coming.eq(asks)
        with m.If(asks):
            m.d.sync += [
                number.eq(Mux(last, 0, number + 1)),
                *(tag.slot.eq(row.slot), tag.number.eq(number), tag.last.eq(last)),
                tag.count.eq(Mux(last, row.keys - number * lanes, lanes)),
            ]
        return m


def lowest(m: Module, flags: Value, name: str) -> Signal:
    """Number of the lowest bit that is set; 0 if there is none."""
    result = Signal(range(max(2, len(flags))), name=name)
    for number in reversed(range(len(flags))):
        with m.If(flags[number]):
            m.d.comb += result.eq(number)
    return result

"""GATHER: rows that a list names, copied one behind the other."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In

from hwgen.arch.attention import AttentionSizes
from hwgen.arch.services import INDEX_BYTES, Job
from hwgen.attention.services.words import ServiceFields, job_ports
from hwgen.attention.words import ADDRESS_BITS
from hwgen.lib.streams import Queue

INDEX_BEATS = 4
"""Beats of the list that are read ahead."""
_PRODUCT_BITS = 48


class GatherJob(wiring.Component):
    """Reads the list a few beats ahead, then row after row; what comes is written.

    Timing
    ------
    A row a cycle, or a beat a cycle. A row is asked for `LATENCY` cycles after its index has come.

    Parameters
    ----------
    sizes : AttentionSizes

    Members
    -------
    fields : In(ServiceFields), start : In(1)
    span : Out(stream of BeatSpan), data : In(stream of ReadBeat)
    span_0 : Out(stream of BeatSpan), o_0 : Out(stream of StoreBeat)
    busy : Out(1)
    """

    LATENCY = 4

    def __init__(self, sizes: AttentionSizes) -> None:
        self._beat = sizes.beat_bytes
        super().__init__(
            {
                "fields": In(ServiceFields(Job.GATHER)),
                "start": In(1),
                **job_ports(sizes, channels=1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """List | addresses of rows | beats through; rows of the copy beside them."""
        m = Module()
        m.submodules.lists = lists = Queue(shape=8 * self._beat, depth=INDEX_BEATS)
        beat, store = self.data.payload, self.o_0.payload
        m.d.comb += [
            lists.i.payload.eq(beat.data),
            lists.i.valid.eq(self.data.valid & beat.table),
            store.data.eq(beat.data),
            store.strobes.eq((1 << self._beat) - 1),
            self.o_0.valid.eq(self.data.valid & ~beat.table),
            # The list is asked for when there is room for it.
            self.data.ready.eq(beat.table | self.o_0.ready),
        ]
        asks, taken = self._ask_list(m, lists.o.valid & lists.o.ready)
        rows_left = self._rows(m, lists.o, asks, taken)
        copies_left = self._copies(m)
        m.d.comb += self.busy.eq(rows_left | copies_left)
        return m

    def _ask_list(self, m: Module, freed: Value) -> tuple[Value, Value]:
        """Beats of the list, as long as there is room. Gives whether one is offered, and that it is taken."""
        shift = self._beat.bit_length() - 1
        address, left, room = Signal(ADDRESS_BITS), Signal(16), Signal(range(INDEX_BEATS + 1), init=INDEX_BEATS)
        asks, taken = Signal(), Signal()
        m.d.comb += [
            asks.eq((left != 0) & (room != 0)),
            taken.eq(asks & self.span.ready),
        ]
        with m.If(asks):
            m.d.comb += [
                self.span.payload.address.eq(address),
                self.span.payload.beats.eq(1),
                self.span.payload.table.eq(1),
            ]
        m.d.sync += room.eq(room - taken + freed)
        with m.If(self.start):
            count = (self.fields.rows * INDEX_BYTES + self._beat - 1) >> shift
            m.d.sync += [address.eq(self.fields.index_addr), left.eq(count)]
        with m.Elif(taken):
            m.d.sync += [address.eq(address + self._beat), left.eq(left - 1)]
        return asks, taken

    def _rows(self, m: Module, lists: stream.Interface, asks: Value, taken: Value) -> Value:
        """Index | product | address | row; the list has the port first. Gives whether rows are left."""
        per_beat = self._beat // INDEX_BYTES
        left, place, go = Signal(16), Signal(range(per_beat)), Signal()
        indexed, multiplied, placed = (Signal(name=name) for name in ("indexed", "multiplied", "placed"))
        index, product = Signal(16, reset_less=True), Signal(_PRODUCT_BITS, reset_less=True)
        address = Signal(ADDRESS_BITS, reset_less=True)
        here = lists.valid & (left != 0)
        m.d.comb += [
            self.span.valid.eq(asks | placed),
            go.eq(~placed | (self.span.ready & ~asks)),
            lists.ready.eq(go & here & ((place == per_beat - 1) | (left == 1))),
        ]
        with m.If(~asks):
            m.d.comb += [
                self.span.payload.address.eq(address),
                self.span.payload.beats.eq(self.fields.row_beats),
            ]
        with m.If(go):
            m.d.sync += [indexed.eq(here), multiplied.eq(indexed), placed.eq(multiplied)]
            m.d.sync += [
                index.eq(lists.payload.word_select(place, 8 * INDEX_BYTES)),
                product.eq(index * self.fields.src_stride),
                address.eq(self.fields.src_addr + product),
            ]
            with m.If(here):
                m.d.sync += [left.eq(left - 1), place.eq(Mux(left == 1, 0, place + 1))]
        with m.If(self.start):
            m.d.sync += left.eq(self.fields.rows)
        return (left != 0) | indexed | multiplied | placed

    def _copies(self, m: Module) -> Value:
        """Rows of the copy; gives whether any are left."""
        address, left = Signal(ADDRESS_BITS), Signal(16)
        m.d.comb += [
            self.span_0.valid.eq(left != 0),
            self.span_0.payload.address.eq(address),
            self.span_0.payload.beats.eq(self.fields.row_beats),
        ]
        with m.If(self.start):
            m.d.sync += [address.eq(self.fields.dst_addr), left.eq(self.fields.rows)]
        with m.Elif(self.span_0.valid & self.span_0.ready):
            m.d.sync += [address.eq(address + self.fields.dst_stride), left.eq(left - 1)]
        return left != 0

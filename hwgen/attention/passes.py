"""Passes over keys: which row is multiplied next, what is fetched for it, and in which slot it goes along."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import LOW_BITS, AttentionSizes, KeyMode
from hwgen.attention.buffer import BufferRead
from hwgen.attention.job import JobFields
from hwgen.attention.loader import KV_BITS
from hwgen.attention.rows import RowPlace, lowest, slot_bits
from hwgen.attention.words import FetchCommand, ProductCommand
from hwgen.lib.streams import Queue

_AHEAD = 4
"""Passes whose keys may be asked for before products take them."""


class HeldPass(data.StructLayout):
    """A read of held keys; low : of LSBs, whose query is there."""

    def __init__(self, sizes: AttentionSizes) -> None:
        super().__init__({"read": BufferRead(sizes), "low": 1})


class PassIssue(wiring.Component):
    """Takes rows, or tiles of them, into slots, and sends the commands of their passes. LSB passes go before others.

    Timing
    ------
    Two cycles a row, one a LSB pass.

    Parameters
    ----------
    sizes : AttentionSizes

    Members
    -------
    job : In(JobFields)
    rows : In(stream of RowPlace)     Not of zeros.
    load : In(stream of FetchCommand) Of keys that are held; goes first.
    ready : In(5)                     Heads of keys below this one are there, if they are held.
    low : In(stream of slot)          Rows that need LSBs of their keys, or (KEY) of some; `low_place` : In(RowPlace) is
        that row.
    taken : Out(1), taken_slot : Out, taken_place : Out(RowPlace)   A row has a slot.
    release : In(rows_in_flight)      Slots that are free again.
    free : Out(rows_in_flight), used : Out(2)   Halves of the buffers that rows in slots use.
    fetch : Out(stream of FetchCommand)      Queries, and keys unless they are held.
    held : Out(stream of BufferRead)         Keys that are held, when the query is there.
    products : Out(stream of ProductCommand)
    query_slot : Out, query_next : In(1)     Slot of the query that arrives next; it has arrived.
    """

    def __init__(self, sizes: AttentionSizes) -> None:
        self._sizes = sizes
        slot = slot_bits(sizes)
        super().__init__(
            {
                "job": In(JobFields()),
                "rows": In(stream.Signature(RowPlace())),
                "load": In(stream.Signature(FetchCommand())),
                "ready": In(KV_BITS),
                "low": In(stream.Signature(slot)),
                "low_place": In(RowPlace()),
                "taken": Out(1),
                "taken_slot": Out(slot),
                "taken_place": Out(RowPlace()),
                "release": In(sizes.rows_in_flight),
                "free": Out(sizes.rows_in_flight, init=(1 << sizes.rows_in_flight) - 1),
                "used": Out(2),
                "fetch": Out(stream.Signature(FetchCommand())),
                "held": Out(stream.Signature(BufferRead(sizes))),
                "products": Out(stream.Signature(ProductCommand(sizes))),
                "query_slot": Out(slot),
                "query_next": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Query of a new row, then its keys; or LSBs of the keys of an older one."""
        m = Module()
        m.submodules.fetches = fetches = Queue(shape=FetchCommand(), depth=2 * _AHEAD)
        m.submodules.passes = passes = Queue(shape=ProductCommand(self._sizes), depth=_AHEAD)
        m.submodules.reads = reads = Queue(shape=HeldPass(self._sizes), depth=_AHEAD)
        m.submodules.queries = queries = Queue(shape=slot_bits(self._sizes), depth=2 * _AHEAD)
        wiring.connect(m, fetches.o, wiring.flipped(self.fetch))
        wiring.connect(m, passes.o, wiring.flipped(self.products))
        self._own = own = Signal(data.StructLayout({"slot": slot_bits(self._sizes), "place": RowPlace()}))
        self._picks = self.job.key_mode == KeyMode.KEY
        begun = Signal()
        takes_low, takes_row = Signal(), Signal()
        room = fetches.i.ready & passes.i.ready & queries.i.ready & reads.i.ready & ~self.load.valid
        there = ~self.job.hold | (self.rows.payload.kv_head < self.ready)
        found = lowest(m, self.free, "found")
        m.d.comb += [
            takes_low.eq(self.low.valid & ~begun & room),
            takes_row.eq(self.rows.valid & ~self.low.valid & ~begun & room & (self.free != 0) & there),
            self.low.ready.eq(takes_low),
            self.rows.ready.eq(takes_row),
            self.taken.eq(takes_row),
            self.taken_slot.eq(found),
            self.taken_place.eq(self.rows.payload),
            self.query_slot.eq(queries.o.payload),
            queries.o.ready.eq(self.query_next),
            queries.i.payload.eq(found),
            queries.i.valid.eq(takes_row),
        ]
        m.d.sync += self.free.eq((self.free | self.release) & ~Mux(takes_row, 1 << found, 0))
        with m.If(takes_row):
            m.d.sync += [begun.eq(1), own.slot.eq(found), own.place.eq(self.rows.payload)]
        pushes = begun & room
        with m.If(pushes):
            m.d.sync += begun.eq(0)
        self._product(m, passes.i, takes_low, pushes, own)
        self._fetch(m, fetches.i, takes_row, takes_low, pushes)
        self._held(m, reads, passes.i, Mux(takes_low, self.low_place.base, own.place.base))
        self._halves(m, takes_row, found)
        return m

    def _halves(self, m: Module, takes: Value, slot: Value) -> None:
        """Which half of the buffers the row of each slot uses."""
        sides = Signal(self._sizes.rows_in_flight)
        with m.If(takes):
            m.d.sync += sides.bit_select(slot, 1).eq(self.rows.payload.side)
        m.d.comb += self.used.eq(Cat((~self.free & ~sides).any(), (~self.free & sides).any()))

    def _held(self, m: Module, reads: Queue, command: stream.Interface, base: Value) -> None:
        """Reads of held keys; that of an MSB pass waits for its query."""
        arrived, read = Signal(range(self._sizes.rows_in_flight + 1)), reads.o.payload
        entry = reads.i.payload
        m.d.comb += [
            reads.i.valid.eq(command.valid & self.job.hold),
            entry.low.eq(command.payload.low),
            entry.read.low.eq(command.payload.low),
            entry.read.base.eq(base),
            entry.read.head_size.eq(self.job.head_size),
            entry.read.rows.eq(command.payload.keys),
            entry.read.gather.eq(command.payload.low & self._picks),
            entry.read.single.eq(command.payload.low & self._picks),
            self.held.payload.eq(read.read),
            self.held.valid.eq(reads.o.valid & (read.low | (arrived != 0))),
            reads.o.ready.eq(self.held.valid & self.held.ready),
        ]
        uses = reads.o.ready & ~read.low
        m.d.sync += arrived.eq(Mux(self.job.hold, arrived + self.query_next - uses, 0))

    def _product(self, m: Module, products: stream.Interface, takes_low: Value, pushes: Value, own: data.View) -> None:
        """The command of a pass: of a row with `own` slot and keys, or of LSBs."""
        command = products.payload
        m.d.comb += [
            products.valid.eq(takes_low | pushes),
            command.head_size.eq(self.job.head_size),
            command.low.eq(takes_low),
            command.half.eq(self.job.key_low & ~takes_low),
            command.buffer.eq(Mux(takes_low, self.low.payload, own.slot)),
            command.keys.eq(Mux(takes_low, self.low_place.keys, own.place.keys)),
        ]

    def _fetch(self, m: Module, fetch: stream.Interface, takes_row: Value, takes_low: Value, pushes: Value) -> None:
        """A plane that is held, a query, LSBs of keys, or MSBs."""
        job, command = self.job, fetch.payload
        m.d.comb += [
            fetch.valid.eq(self.load.valid | takes_row | ((takes_low | pushes) & ~job.hold)),
            self.load.ready.eq(fetch.ready),
            command.head_size.eq(job.head_size),
            *(command.address.eq(self._own.place.key), command.bits.eq(job.key_bits)),
            command.rows.eq(self._own.place.keys),
        ]
        with m.If(takes_low):
            m.d.comb += [
                *(command.address.eq(self.low_place.key_low), command.bits.eq(LOW_BITS)),
                *(command.rows.eq(self.low_place.keys), command.gather.eq(self._picks), command.single.eq(self._picks)),
            ]
        with m.If(takes_row):
            m.d.comb += [
                *(command.address.eq(self.rows.payload.query), command.bits.eq(job.query_bits)),
                *(command.rows.eq(1), command.query.eq(1)),
            ]
        with m.If(self.load.valid):
            m.d.comb += command.eq(self.load.payload)

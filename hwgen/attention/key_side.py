"""The side of the keys: fetch, row buffer, products and score buffers."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import CHUNK, AttentionSizes
from hwgen.attention.buffer import BufferLoad, BufferRead, RowBuffer
from hwgen.attention.fetch import RowFetch
from hwgen.attention.products import ProductResult, Products
from hwgen.attention.rows import RowTable, row_words, slot_bits
from hwgen.attention.scores import ScoreBuffers, StoredScores
from hwgen.attention.words import INDEX_BITS, FetchCommand, ProductCommand, ReadRequest, RowIndex
from hwgen.lib.streams import Queue

LOADS = 2
"""Planes of a head."""


class KeySide(wiring.Component):
    """Queries and keys to scores.

    Timing
    ------
    That of `RowFetch`, `RowBuffer`, `Products`, `ScoreBuffers`.

    Parameters
    ----------
    sizes : AttentionSizes

    Members
    -------
    hold : In(1)
    fetch : In(stream of FetchCommand), load : In(stream of BufferLoad), held : In(stream of BufferRead)
    indices : In(stream of RowIndex)           Keys of a gathered fetch or read.
    command : In(stream of ProductCommand)
    query_slot : In, query_next : Out(1)       Slot of the query that arrives; it is complete.
    index : Out(16), mask : In(R)              Whether keys from `index` on are seen.
    request : Out(stream of ReadRequest), data : In(stream of beat)
    loaded : Out(1)                            The last word of a plane is written.
    result : Out(ProductResult), result_valid : Out(1)
    address : In, buffer : In, scores : Out(StoredScores(lanes))    A cycle later.
    old_valid : Out(1), old_buffer : Out       Products read a buffer.
    slot : In, seen : Out(16)                  Seen keys of a row.
    multiplies : Out(1)                        Products take a word.
    """

    def __init__(self, sizes: AttentionSizes) -> None:
        self._sizes = sizes
        slot = slot_bits(sizes)
        super().__init__(
            {
                "hold": In(1),
                "fetch": In(stream.Signature(FetchCommand())),
                "load": In(stream.Signature(BufferLoad(sizes))),
                "held": In(stream.Signature(BufferRead(sizes))),
                "indices": In(stream.Signature(RowIndex())),
                "command": In(stream.Signature(ProductCommand(sizes))),
                "query_slot": In(slot),
                "query_next": Out(1),
                "index": Out(INDEX_BITS),
                "mask": In(sizes.multipliers // CHUNK),
                "request": Out(stream.Signature(ReadRequest())),
                "data": In(stream.Signature(8 * sizes.beat_bytes)),
                "loaded": Out(1),
                "result": Out(ProductResult(sizes)),
                "result_valid": Out(1),
                "address": In(range(row_words(sizes))),
                "buffer": In(slot),
                "scores": Out(StoredScores(sizes.softmax_lanes)),
                "old_valid": Out(1),
                "old_buffer": Out(slot),
                "slot": In(slot),
                "seen": Out(INDEX_BITS),
                "multiplies": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Fetch | buffer, or past it | products | scores."""
        m = Module()
        m.submodules.fetch_rows = fetch = RowFetch(self._sizes)
        m.submodules.rows = rows = RowBuffer(self._sizes)
        m.submodules.loads = loads = Queue(shape=BufferLoad(self._sizes), depth=LOADS)
        m.submodules.products = products = Products(self._sizes)
        m.submodules.score_buffers = scores = ScoreBuffers(self._sizes)
        wiring.connect(m, wiring.flipped(self.fetch), fetch.command)
        wiring.connect(m, fetch.request, wiring.flipped(self.request))
        wiring.connect(m, wiring.flipped(self.data), fetch.data)
        wiring.connect(m, wiring.flipped(self.load), loads.i)
        wiring.connect(m, loads.o, rows.load)
        wiring.connect(m, wiring.flipped(self.held), rows.read)
        wiring.connect(m, rows.o, products.i)
        wiring.connect(m, wiring.flipped(self.command), products.command)
        word = fetch.o
        m.d.comb += [
            *(rows.bypass.eq(~self.hold), self.loaded.eq(rows.loaded)),
            products.query.payload.eq(word.payload),
            products.query.valid.eq(word.valid & word.payload.query),
            products.query_buffer.eq(self.query_slot),
            self.query_next.eq(products.query.valid & word.payload.last),
            rows.i.payload.eq(word.payload),
            rows.i.valid.eq(word.valid & ~word.payload.query),
            word.ready.eq(word.payload.query | rows.i.ready),
            *(self.index.eq(products.i.payload.index), products.mask.eq(self.mask)),
            *(self.result.eq(products.result), self.result_valid.eq(products.result_valid)),
            self.multiplies.eq(products.i.valid & products.i.ready),
            *(scores.address.eq(self.address), scores.buffer.eq(self.buffer), self.scores.eq(scores.o)),
        ]
        indices = self.indices
        m.d.comb += indices.ready.eq(Mux(self.hold, rows.indices.ready, fetch.indices.ready))
        for target, wanted in ((fetch.indices, ~self.hold), (rows.indices, self.hold)):
            m.d.comb += [target.payload.eq(indices.payload), target.valid.eq(indices.valid & wanted)]
        self._store(m, products, scores)
        self._count(m, products)
        return m

    def _store(self, m: Module, products: Products, scores: ScoreBuffers) -> None:
        """Scores to their buffers, old ones back."""
        m.d.comb += [
            *(scores.write.eq(products.o), scores.write_buffer.eq(products.o_buffer)),
            scores.write_valid.eq(products.o_valid),
            *(scores.old_index.eq(products.old_index), scores.old_buffer.eq(products.old_buffer)),
            *(scores.old_valid.eq(products.old_valid), products.old.eq(scores.old)),
            *(self.old_valid.eq(products.old_valid), self.old_buffer.eq(products.old_buffer)),
        ]

    def _count(self, m: Module, products: Products) -> None:
        """How many keys of a row are seen; its MSB pass sees all of them."""
        m.submodules.counts = counts = RowTable(INDEX_BITS, slots=self._sizes.rows_in_flight, ports=1)
        count, total = Signal(INDEX_BITS), Signal(INDEX_BITS)
        seen = products.o.write & products.o.seen
        m.d.comb += [
            total.eq(count + sum(seen[row] for row in range(len(seen)))),
            counts.write_slot.eq(products.o_buffer),
            counts.write_data.eq(total),
            counts.write_enable.eq(products.o_valid & products.o.last & ~products.o_low),
            *(counts.slot_0.eq(self.slot), self.seen.eq(counts.entry_0)),
        ]
        with m.If(products.o_valid):
            m.d.sync += count.eq(Mux(products.o.last, 0, total))

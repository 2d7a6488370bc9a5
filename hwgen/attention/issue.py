"""The rows of a job, one after the other: heads in ascending order, queries in ascending order, tiles of long rows."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import LOW_BITS, AttentionSizes
from hwgen.attention.buffer import address_bits
from hwgen.attention.job import JobFields, buffer_words
from hwgen.attention.rows import BASE_BITS, RowPlace
from hwgen.attention.words import ADDRESS_BITS, INDEX_BITS

_PLANES = {
    "key": ("k_addr", "k_stride", "key_bits"),
    "key_low": ("k_low_addr", "k_low_stride", None),
    "value": ("v_addr", "v_stride", "value_bits"),
    "value_low": ("v_low_addr", "v_low_stride", None),
}


class RowIssue(wiring.Component):
    """Counts through heads, queries and tiles and adds up addresses.

    Timing
    ------
    The first row is offered in the cycle after `start`, then one a cycle.

    Parameters
    ----------
    sizes : AttentionSizes

    Members
    -------
    job : In(JobFields)
    start : In(1)          Begin.
    alive : In(max_heads)  Heads that are not alive have rows with `zero`.
    o : Out(stream of RowPlace)
    halves : In(1)         Heads of keys and values are in the halves of the row buffers by turns, or all in the first.
    words : In             Words of a head, where the second half begins.
    """

    def __init__(self, sizes: AttentionSizes) -> None:
        self._sizes = sizes
        super().__init__(
            {
                "job": In(JobFields()),
                "start": In(1),
                "alive": In(sizes.max_heads),
                "o": Out(stream.Signature(RowPlace())),
                "halves": In(1),
                "words": In(address_bits(sizes) + 1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Registers for what is counted, and their next values."""
        m = Module()
        job, row, running = self.job, Signal(RowPlace()), Signal()
        query, member, before = Signal(INDEX_BITS), Signal(5), Signal(INDEX_BITS)
        head_query, head_output = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        last_query, last_tile = Signal(), self._tile(m, query, before)
        m.d.comb += [
            self.o.valid.eq(running),
            last_query.eq(query + 1 == job.queries),
            *(self.o.payload[name].eq(row[name]) for name in ("head", "kv_head", "side", "base", "query", "output")),
            *(self.o.payload[name].eq(row[name]) for name in _PLANES),
            self.o.payload.zero.eq(~self.alive.bit_select(row.head, 1)),
        ]
        next_head = Signal()
        with m.If(self.o.valid & self.o.ready & last_tile):
            m.d.sync += [
                *(query.eq(query + 1), row.query.eq(row.query + self._bytes("query_bits"))),
                row.output.eq(row.output + job.out_stride),
            ]
            with m.If(last_query):
                next_query, next_output = head_query + job.q_stride, head_output + 2 * job.head_size
                m.d.sync += [
                    *(query.eq(0), row.head.eq(row.head + 1), member.eq(member + 1)),
                    running.eq(row.head + 1 != job.heads),
                    *(row.query.eq(next_query), head_query.eq(next_query)),
                    *(row.output.eq(next_output), head_output.eq(next_output)),
                ]
                with m.If(member + 1 == job.group):
                    m.d.comb += next_head.eq(1)
                    m.d.sync += [member.eq(0), row.kv_head.eq(row.kv_head + 1)]
        self._places(m, row, last_tile, next_head)
        with m.If(self.start):
            m.d.sync += [
                *(running.eq(1), query.eq(0), member.eq(0), row.head.eq(0), row.kv_head.eq(0)),
                *(row.query.eq(job.q_addr), head_query.eq(job.q_addr)),
                *(row.output.eq(job.out_addr), head_output.eq(job.out_addr)),
            ]
        return m

    def _tile(self, m: Module, query: Value, before: Signal) -> Signal:
        """Keys of the tile at hand, `before` keys from the first on; gives whether it is the last of its row."""
        job, tile, most = self.job, self.o.payload, self._sizes.max_length
        seen, keys, left = Signal(INDEX_BITS + 1), Signal(INDEX_BITS), Signal(INDEX_BITS)
        m.d.comb += [
            seen.eq(job.offset + query + 1),
            keys.eq(Mux(job.causal & (seen < job.keys), seen, job.keys)),
            left.eq(keys - before),
            tile.last.eq((left <= most) | tile.zero),
            tile.first.eq(before == 0),
            tile.keys.eq(Mux(left > most, most, left)),
        ]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += before.eq(Mux(tile.last, 0, before + most))
        return tile.last

    def _places(self, m: Module, row: Signal, last_tile: Value, next_head: Value) -> None:
        """Where keys and values of the next tile are: behind this one, from the first key on, or those of a head."""
        job, most, side = self.job, self._sizes.max_length, row.side ^ self.halves
        tile_words = buffer_words(self._sizes, job.head_size, most)
        heads = {name: Signal(ADDRESS_BITS, name=f"{name}_of_head") for name in _PLANES}
        base = Signal(BASE_BITS)
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += row.base.eq(Mux(last_tile, base, row.base + tile_words))
            for name, (_, _, bits) in _PLANES.items():
                m.d.sync += row[name].eq(Mux(last_tile, heads[name], row[name] + self._bytes(bits) * most))
            with m.If(next_head):
                next_base = Mux(side, self.words, 0)
                m.d.sync += [row.side.eq(side), row.base.eq(next_base), base.eq(next_base)]
                for name, (_, stride, _) in _PLANES.items():
                    m.d.sync += [row[name].eq(heads[name] + job[stride]), heads[name].eq(heads[name] + job[stride])]
        with m.If(self.start):
            m.d.sync += [row.side.eq(0), row.base.eq(0), base.eq(0)]
            for name, (address, _, _) in _PLANES.items():
                m.d.sync += [row[name].eq(job[address]), heads[name].eq(job[address])]

    def _bytes(self, bits: str | None) -> Value:
        """Of a row of a plane."""
        return (self.job.head_size * (self.job[bits] if bits else LOW_BITS)) >> 3

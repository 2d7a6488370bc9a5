"""The rows of a job, one after the other: heads in ascending order, queries in ascending order."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import AttentionSizes
from hwgen.attention.job import JobFields
from hwgen.attention.rows import RowPlace
from hwgen.attention.words import ADDRESS_BITS, INDEX_BITS

_STEPS = {
    "key": ("k_addr", "k_stride"),
    "key_low": ("k_low_addr", "k_low_stride"),
    "value": ("v_addr", "v_stride"),
    "value_low": ("v_low_addr", "v_low_stride"),
}


class RowIssue(wiring.Component):
    """Counts through heads and queries and adds up addresses.

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
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Registers for what is counted, and their next values."""
        m = Module()
        job, row, running = self.job, Signal(RowPlace()), Signal()
        query, member = Signal(INDEX_BITS), Signal(5)
        head_query, head_output = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        last_query, last_head = Signal(), Signal()
        seen = Signal(INDEX_BITS + 1)
        m.d.comb += [
            self.o.valid.eq(running),
            last_query.eq(query + 1 == job.queries),
            last_head.eq(row.head + 1 == job.heads),
            seen.eq(job.offset + query + 1),
            self.o.payload.eq(row),
            self.o.payload.keys.eq(Mux(job.causal & (seen < job.keys), seen, job.keys)),
            self.o.payload.zero.eq(~self.alive.bit_select(row.head, 1)),
        ]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += [
                query.eq(query + 1),
                row.query.eq(row.query + self._query_bytes()),
                row.output.eq(row.output + job.out_stride),
            ]
            with m.If(last_query):
                next_query, next_output = head_query + job.q_stride, head_output + 2 * job.head_size
                m.d.sync += [
                    *(query.eq(0), row.head.eq(row.head + 1), member.eq(member + 1), running.eq(~last_head)),
                    *(row.query.eq(next_query), head_query.eq(next_query)),
                    *(row.output.eq(next_output), head_output.eq(next_output)),
                ]
                with m.If(member + 1 == job.group):
                    m.d.sync += [member.eq(0), row.kv_head.eq(row.kv_head + 1), row.side.eq(row.side ^ self.halves)]
                    m.d.sync += [row[name].eq(row[name] + job[stride]) for name, (_, stride) in _STEPS.items()]
        with m.If(self.start):
            m.d.sync += [
                *(running.eq(1), query.eq(0), member.eq(0), row.head.eq(0), row.kv_head.eq(0), row.side.eq(0)),
                *(row.query.eq(job.q_addr), head_query.eq(job.q_addr)),
                *(row.output.eq(job.out_addr), head_output.eq(job.out_addr)),
                *(row[name].eq(job[base]) for name, (base, _) in _STEPS.items()),
            ]
        return m

    def _query_bytes(self) -> Value:
        return (self.job.head_size * self.job.query_bits) >> 3

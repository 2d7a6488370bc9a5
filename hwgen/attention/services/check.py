"""Which descriptors are refused."""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Value
from amaranth.lib import data

from hwgen.arch.attention import ADDRESS_ALIGN, CHUNK, PLANE_BITS, QUERY_BITS, AttentionSizes
from hwgen.arch.services import SERVICES, Job, Score

_LARGEST_HEAD = 128
_PACKED = ("src_addr", "src_stride", "msb_addr", "msb_stride", "low_addr", "low_stride")
"""Fields of QUANTIZE that are multiples of `ADDRESS_ALIGN` only."""


def refused(job: Job, fields: data.View, sizes: AttentionSizes) -> Value:
    """Whether a field is out of its range, contradicts another, asks for too much, or is no multiple."""
    return ~Cat(*_RULES[job](fields, sizes)).all() | _misplaced(job, fields, sizes)


def _misplaced(job: Job, fields: data.View, sizes: AttentionSizes) -> Value:
    """Whether an address or a stride is not the multiple that it must be."""
    low = []
    for item in SERVICES[job]:
        if item.name.endswith(("_addr", "_stride")):
            align = ADDRESS_ALIGN if job is Job.QUANTIZE and item.name in _PACKED else sizes.beat_bytes
            low.append(fields[item.name][: align.bit_length() - 1].any())
    return reduce(or_, low)


def _quantize(fields: data.View, sizes: AttentionSizes) -> list[Value]:
    most = max(PLANE_BITS)
    return [
        fields.rows != 0,
        (fields.heads != 0) & (fields.group != 0) & (fields.heads * fields.group <= sizes.max_heads),
        (fields.head_size != 0) & (fields.head_size % CHUNK == 0) & (fields.head_size <= _LARGEST_HEAD),
        Cat(fields.bits == bits for bits in QUERY_BITS).any(),
        ~fields.split | (fields.bits <= most),
    ]


def _select(fields: data.View, sizes: AttentionSizes) -> list[Value]:
    heads = fields.score == Score.HEADS
    return [
        (fields.length != 0) & (fields.length <= sizes.max_length),
        ~heads | (fields.length <= sizes.max_heads),
        (fields.keep != 0) & (fields.keep <= fields.length),
        ~heads | ((fields.first == 0) & ~fields.protected & ~fields.compact),
        ~(fields.compact & fields.dropped),
    ]


def _gather(fields: data.View, sizes: AttentionSizes) -> list[Value]:
    return [fields.rows != 0, fields.row_beats != 0]


def _top_k(fields: data.View, sizes: AttentionSizes) -> list[Value]:
    return [(fields.length != 0) & (fields.length <= sizes.max_length), fields.k <= fields.length]


def _save(fields: data.View, sizes: AttentionSizes) -> list[Value]:
    return [(fields.length != 0) & (fields.length <= sizes.max_length)]


def _restore(fields: data.View, sizes: AttentionSizes) -> list[Value]:
    return [*_save(fields, sizes), (fields.score != Score.HEADS) | (fields.length <= sizes.max_heads)]


_RULES = {
    Job.QUANTIZE: _quantize,
    Job.SELECT: _select,
    Job.GATHER: _gather,
    Job.TOPK: _top_k,
    Job.SAVE: _save,
    Job.RESTORE: _restore,
}

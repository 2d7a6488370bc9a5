"""Descriptors of what the attention engine does beside attention; prose in hwgen/attention/README.md."""

import enum
from typing import Final

from hwgen.arch.attention import pack
from hwgen.arch.fields import Field

SERVICE_BYTES = 64
"""Bytes of each descriptor here."""
IMPORTANCE_BYTES = 4
"""Of a token, as SAVE writes it."""
INDEX_BYTES = 2
"""An index list is 16-bit numbers, little-endian, one behind the other."""


class Job(enum.IntEnum):
    """What the descriptor of an ATTEND instruction describes."""

    ATTENTION = 0
    QUANTIZE = 1
    SELECT = 2
    GATHER = 3
    TOPK = 4
    RESET = 5
    SAVE = 6
    RESTORE = 7


class Score(enum.IntEnum):
    """By what SELECT selects, and what RESTORE restores."""

    TOKENS = 0
    HEADS = 1


class Key(enum.IntEnum):
    """By what TOPK ranks FP32 values."""

    VALUE = 0
    MAGNITUDE = 1


_BEAT = "byte address, a multiple of the beat size"
QUANTIZE: Final = (
    Field("rows", 16, "rows (tokens)", low=1),
    Field("heads", 5, "heads, side by side in a row of the source", low=1, high=16),
    Field("group", 5, "query heads that share a head; `heads` x `group` is at most `max_heads`", low=1, high=16),
    Field("head_size", 8, "elements, a multiple of 16", low=16, high=128),
    Field("bits", 5, "of an element of the MSB plane, or of the whole integer; even", low=4, high=16),
    Field("split", 1, "1: an LSB plane is written too; `bits` is then 12 at most"),
    Field("src_addr", 48, "operands [row][head][element]: byte address, a multiple of 4"),
    Field("src_stride", 32, "bytes between rows, a multiple of 4"),
    Field("steps_addr", 48, f"inverse step of each head, FP32: {_BEAT}"),
    Field("msb_addr", 48, "plane [head][row]: byte address, a multiple of 4"),
    Field("msb_stride", 32, "bytes between heads, a multiple of 4"),
    Field("low_addr", 48, "LSB plane: byte address, a multiple of 4"),
    Field("low_stride", 32, "bytes between heads, a multiple of 4"),
)
"""Rows of operands become planes of integers. Heads of whose group no query head is alive are skipped: nothing is read
or written."""

SELECT: Final = (
    Field("score", 1, "whose importance", choices=Score),
    Field("length", 16, "candidates: tokens 0 .. length - 1, or heads 0 .. length - 1 that are alive", low=1),
    Field("keep", 16, "survivors, at most `length`", low=1),
    Field("first", 16, "tokens 0 .. first - 1 survive before all others; 0 for HEADS"),
    Field("protected", 1, "1: so do tokens j whose bit j at `protect_addr` is set; 0 for HEADS"),
    Field("compact", 1, "1: importance of the survivors moves to their new places, all the rest is 0; 0 for HEADS"),
    Field("dropped", 1, "1: the list is of those of 0 .. length - 1 that do not survive; not with `compact`"),
    Field("protect_addr", 48, f"bits, token 0 lowest: {_BEAT}"),
    Field("index_addr", 48, f"index list, ascending: {_BEAT}"),
)
"""The most important tokens or heads; ties to the lower index, also among protected tokens.

HEADS: the survivors are alive, and no others. Where fewer than `keep` are alive, all of them survive and the list is
shorter.
"""

GATHER: Final = (
    Field("rows", 16, "rows that are copied", low=1),
    Field("row_beats", 16, "beats of a row", low=1),
    Field("index_addr", 48, f"index list: {_BEAT}"),
    Field("src_addr", 48, f"row 0 of the source: {_BEAT}"),
    Field("src_stride", 32, "bytes between rows of the source, a multiple of the beat size"),
    Field("dst_addr", 48, f"row 0 of the copy: {_BEAT}"),
    Field("dst_stride", 32, "bytes between rows of the copy, a multiple of the beat size"),
)
"""Row index[i] of the source becomes row i of the copy; rows that are not in the list are never read.

List, source and copy don't overlap.
"""

TOPK: Final = (
    Field("key", 1, "by value or by magnitude; NaN is above infinity", choices=Key),
    Field("length", 16, "values, at most `max_length`", low=1),
    Field("k", 16, "how many are kept, at most `length`"),
    Field("src_addr", 48, f"FP32 values: {_BEAT}"),
    Field("index_addr", 48, f"index list of the k largest, ascending: {_BEAT}"),
    Field("value_addr", 48, f"their values, FP32: {_BEAT}"),
)
"""The k largest values of any vector; of equal ones the lower index. With k = 0 nothing is written."""

RESET: Final = ()
"""All heads are alive, and their importance is 0; that of tokens is cleared by `forget` = 0 of a job."""

SAVE: Final = (
    Field("length", 16, "tokens 0 .. length - 1", low=1),
    Field("dst_addr", 48, f"their importance, an unsigned 32-bit number each: {_BEAT}"),
)
"""Importance of tokens goes to memory, for a host that moves tokens to other places or lets sequences take turns."""

RESTORE: Final = (
    Field("score", 1, "TOKENS: importance of tokens; HEADS: which heads are alive", choices=Score),
    Field("length", 16, "tokens or heads 0 .. length - 1", low=1),
    Field("src_addr", 48, f"importance as SAVE writes it, or bits, head 0 lowest: {_BEAT}"),
)
"""TOKENS: the importance of all other tokens becomes 0. HEADS: those are alive whose bit is set, and no others."""

SERVICES: Final = {
    Job.QUANTIZE: QUANTIZE,
    Job.SELECT: SELECT,
    Job.GATHER: GATHER,
    Job.TOPK: TOPK,
    Job.RESET: RESET,
    Job.SAVE: SAVE,
    Job.RESTORE: RESTORE,
}


def pack_service(job: Job, values: dict[str, int]) -> bytes:
    """Bytes of the descriptor of a job beside attention. Raises `UserError` naming a field that is out of range."""
    return pack(SERVICES[job], SERVICE_BYTES, values)

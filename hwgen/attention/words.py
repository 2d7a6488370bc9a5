"""Words that the parts of the attention engine exchange, all derived from `AttentionSizes`."""

from amaranth.hdl import signed, unsigned
from amaranth.lib import data

from hwgen.arch.attention import (
    CHUNK,
    EXP_BITS,
    QUERY_BITS,
    RECIPROCAL_BITS,
    SCALE_BITS,
    SCORE_BITS,
    SUM_BITS,
    AttentionSizes,
)

ELEMENT_BITS = max(QUERY_BITS)
"""Bits of an element where queries, keys and values share a path."""
INDEX_BITS = 16
"""Number of a key, and of a query."""
ADDRESS_BITS = 48
FLOOR_BITS = (SUM_BITS - 1).bit_length()
"""Bits of floor(log2 S)."""


class FetchCommand(data.StructLayout):
    """Rows of a plane: `rows` from `first` on, or (`gather`) those that the index stream names.

    address : of row 0. bits : of an element. head_size : elements of a row. single : one row a word. query : the words
    are for the query register.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "address": ADDRESS_BITS,
                "bits": 5,
                "head_size": 8,
                "first": INDEX_BITS,
                "rows": INDEX_BITS,
                "gather": 1,
                "single": 1,
                "query": 1,
            }
        )


class RowIndex(data.StructLayout):
    """A row to gather; `last` ends the list; none : it has no rows, and this is not one."""

    def __init__(self) -> None:
        super().__init__({"index": INDEX_BITS, "last": 1, "none": 1})


class ReadRequest(data.StructLayout):
    """Beats to read: byte address of the first, a multiple of the beat size; number less one."""

    def __init__(self) -> None:
        super().__init__({"address": ADDRESS_BITS, "beats": 8})


class ElementWord(data.StructLayout):
    """A word of elements. index : its first row. rows : how many. part : which word of a row that takes several."""

    def __init__(self, sizes: AttentionSizes) -> None:
        super().__init__(
            {
                "elements": data.ArrayLayout(signed(ELEMENT_BITS), sizes.multipliers),
                "index": INDEX_BITS,
                "rows": (sizes.multipliers // CHUNK).bit_length(),
                "part": 3,
                "query": 1,
                "last": 1,
            }
        )


class ProductCommand(data.StructLayout):
    """One pass of a row over keys. half : the MSB plane has a partner, so operands end in a 1. low : an LSB pass, added
    to the scores of `buffer`. keys : in the range of the row.
    """

    def __init__(self, sizes: AttentionSizes) -> None:
        buffer = (sizes.rows_in_flight - 1).bit_length()
        super().__init__({"head_size": 8, "keys": INDEX_BITS, "half": 1, "low": 1, "buffer": buffer})


class ScoreWord(data.StructLayout):
    """Scores of the rows of a word, from key `index` on, and which of them are written and seen."""

    def __init__(self, sizes: AttentionSizes) -> None:
        rows = sizes.multipliers // CHUNK
        super().__init__(
            {
                "scores": data.ArrayLayout(signed(SCORE_BITS), rows),
                "write": rows,
                "seen": rows,
                "index": INDEX_BITS,
                "last": 1,
            }
        )


class WeightedCommand(data.StructLayout):
    """One pass of a row over values. half, low : as for `ProductCommand`. first, last : pass of the row; in between the
    sums are kept. factor : they are multiplied first, as a larger maximum asks for.
    """

    def __init__(self) -> None:
        super().__init__({"head_size": 8, "half": 1, "low": 1, "first": 1, "last": 1, "rescale": 1, "factor": EXP_BITS})


class SoftmaxCommand(data.StructLayout):
    """One row or tile. limit : largest sum of a confident row. before : sum of earlier tiles, already rescaled."""

    def __init__(self) -> None:
        super().__init__(
            {
                "maximum": signed(SCORE_BITS),
                "mantissa": SCALE_BITS,
                "exponent": 6,
                "before": SUM_BITS,
                "limit": SUM_BITS,
            }
        )


class LaneScores(data.StructLayout):
    """`softmax_lanes` scores and which of them are seen; `last` ends the row."""

    def __init__(self, sizes: AttentionSizes) -> None:
        lanes = sizes.softmax_lanes
        super().__init__({"scores": data.ArrayLayout(signed(SCORE_BITS), lanes), "seen": lanes, "last": 1})


class LaneExponentials(data.StructLayout):
    """`softmax_lanes` values of e; `last` ends the row."""

    def __init__(self, sizes: AttentionSizes) -> None:
        lanes = sizes.softmax_lanes
        super().__init__({"e": data.ArrayLayout(unsigned(EXP_BITS), lanes), "last": 1})


class RowSum(data.StructLayout):
    """Sum of e of a row, its reciprocal (`r`, `n`; zeros for 0) and whether it is at most the limit."""

    def __init__(self) -> None:
        super().__init__({"total": SUM_BITS, "r": RECIPROCAL_BITS + 1, "n": FLOOR_BITS, "confident": 1})

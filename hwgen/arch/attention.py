"""Sizes, number formats and descriptors of the attention engine; prose in hwgen/attention/README.md.

Everything here is data that hardware and golden model share. What is done with it is written twice.
"""

import enum
import math
from dataclasses import dataclass
from typing import Final

from hwgen.arch.errors import UserError
from hwgen.arch.fields import Field

CHUNK = 16
"""Elements; head sizes are multiples of it."""
PLANE_BITS: Final = (4, 6, 8, 10, 12)
"""Bits of an element of an MSB plane of keys and values."""
QUERY_BITS: Final = (4, 6, 8, 10, 12, 14, 16)
LOW_BITS = 4
"""Bits of an element of an LSB plane."""
OPERAND_BITS = max(PLANE_BITS) + 1
"""Signed multiplier operand for keys and values: an element of an MSB plane and half of its last place."""
ADDRESS_ALIGN = 4
"""Bytes; every row of every plane is a multiple of it, and so are base addresses and strides."""

SCORE_BITS = 40
"""A score is signed; 16 + 16 bits over 128 elements need 39."""
DIFFERENCE_BITS = 39
"""Unsigned: row maximum - score."""
POWER_FRACTION = 16
"""Fraction bits of t, the power of two that a probability is below the largest: e = 2^-t."""
POWER_BITS = 21
"""Bits of t, which saturates; its 5 integer bits reach below the smallest e."""
SCALE_BITS = 16
"""Bits of the mantissa of a softmax scale; its top bit is set."""
NARROW_BITS = 24
"""Bits of a difference where it meets the scale; it saturates."""
NARROW_FRACTION = 18
"""Most bits that are dropped behind the product of difference and mantissa."""
EXP_BITS = 16
"""Bits of e, all of them fraction; 1.0 is EXP_MAX."""
EXP_MAX = (1 << EXP_BITS) - 1
SEGMENTS = 128
"""Straight pieces of the exponential between 1 and 1/2."""
TABLE_FRACTION = 20
EXP_TABLE: Final = tuple(round(2 ** (TABLE_FRACTION - place / SEGMENTS)) for place in range(SEGMENTS + 1))
"""2^-(place / SEGMENTS), TABLE_FRACTION bits of fraction; the last entry ends the last piece."""
SUM_BITS = 32
"""Bits of the sum of e over a row of up to 65,535 keys."""
RECIPROCAL_BITS = 20
"""Bits of the normalised divisor; the reciprocal is 2^(2 x RECIPROCAL_BITS - 1) over it, at most 2^RECIPROCAL_BITS."""
PROBABILITY_FRACTION = 16
"""A probability is unsigned with one integer bit."""
OUTPUT_BITS = 48
"""Signed sum of e x value over a row."""
SCORE_MAX = (1 << 32) - 2
"""Importance of tokens (16 bits of fraction) and heads (8 bits) saturates here; all ones is a protected token."""
HEAD_FRACTION = 8
KEEP_FRACTION = 24
"""Fraction bits of the share of values that are kept."""
FORGET_FRACTION = 8


@dataclass(frozen=True, kw_only=True)
class AttentionSizes:
    """Sizes of one attention engine. Raises `UserError` for a size that is out of range."""

    multipliers: int = 64
    """For queries by keys; as many again for probabilities by values."""
    beat_bytes: int = 64
    softmax_lanes: int = 16
    """Scores a cycle through exponential, importance and the value selection."""
    select_lanes: int = 16
    """Values of e a cycle into a top-k engine; at most `softmax_lanes` of them."""
    output_lanes: int = 4
    """Outputs a cycle that are scaled and rounded."""
    max_length: int = 1024
    """Keys of a row (or of a tile of a longer row) that score buffers, masks and importance have room for."""
    buffer_words: int = 1024
    """Words of `multipliers` elements in the key buffer, and as many in the value buffer, for jobs that hold them."""
    max_heads: int = 16
    rows_in_flight: int = 8
    """Rows between the first product of a query with a key and the last output; each has a score buffer."""
    reads_in_flight: int = 128
    """Beats that each fetch has asked for and not yet got; the memory latency in cycles and half of it fill a port."""

    def __post_init__(self) -> None:
        ranges = {
            "multipliers": (16, 512),
            "beat_bytes": (16, 512),
            "softmax_lanes": (4, 32),
            "select_lanes": (1, 32),
            "output_lanes": (1, 16),
            "max_length": (16, 16384),
            "buffer_words": (16, 65536),
            "max_heads": (1, 16),
            "rows_in_flight": (2, 16),
            "reads_in_flight": (2, 1024),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high or (name != "max_heads" and value & (value - 1)):
                kind = "between" if name == "max_heads" else "a power of two between"
                raise UserError(f"attention.{name} must be {kind} {low} and {high}, not {value}")
        if self.softmax_lanes * CHUNK < self.multipliers:
            least = self.multipliers // CHUNK
            raise UserError(f"attention.softmax_lanes must be at least multipliers / {CHUNK} = {least}")
        if 2 * self.output_lanes > self.beat_bytes:
            most = self.beat_bytes // 2
            raise UserError(f"attention.output_lanes must be at most beat_bytes / 2 = {most}, not {self.output_lanes}")

    @property
    def selection_width(self) -> int:
        """Values of e that the value selection takes in a cycle."""
        return min(self.select_lanes, self.softmax_lanes)

    def slots(self, head_size: int) -> int:
        """Multipliers that a key or value takes: its head size, rounded up to a power of two."""
        return 1 << (head_size - 1).bit_length()

    def rows_per_word(self, head_size: int) -> int:
        """Keys or values that are multiplied in one cycle; 1 for heads as large as `multipliers` or larger."""
        return max(1, self.multipliers // self.slots(head_size))

    def words_per_row(self, head_size: int) -> int:
        """Cycles that one key or value takes; 1 for heads as small as `multipliers` or smaller."""
        return -(-head_size // self.multipliers)

    def words(self, head_size: int, rows: int) -> int:
        """Cycles that `rows` keys or values take, and the buffer words that they fill."""
        return -(-rows // self.rows_per_word(head_size)) * self.words_per_row(head_size)


class KeyMode(enum.IntEnum):
    """When LSBs of keys are fetched."""

    NEVER = 0
    ROW = 1
    KEY = 2
    ALWAYS = 3


class ValueMode(enum.IntEnum):
    """When LSBs of values are fetched. WITH_KEYS: in the rows that fetch those of keys."""

    NEVER = 0
    WITH_KEYS = 1
    ALWAYS = 2


JOB_BYTES = 128
_PLACE = "byte address, a multiple of 4"
_STEP = "bytes between heads"
JOB: Final = (
    Field("heads", 5, "query heads", low=1, high=16),
    Field("group", 5, "query heads that share a head of keys and values; divides `heads`", low=1, high=16),
    Field("head_size", 8, "elements, a multiple of 16", low=16, high=128),
    Field("queries", 16, "rows of each head", low=1),
    Field("keys", 16, "keys of each head", low=1),
    Field("causal", 1, "1: query i sees keys 0 .. offset + i"),
    Field("offset", 16, "causal: keys before that of query 0"),
    Field("hold", 1, "1: keys and values of a head are loaded once; 0: they are fetched for every row"),
    Field("masked", 1, "1: bit j of the bytes at `mask_addr` says whether key j is seen"),
    Field("query_bits", 5, "even", low=4, high=16),
    Field("key_bits", 4, "MSB plane of keys, even", low=4, high=12),
    Field("value_bits", 4, "MSB plane of values, even", low=4, high=12),
    Field("key_low", 1, "1: keys have an LSB plane"),
    Field("value_low", 1, "1: values have an LSB plane"),
    Field("key_mode", 2, "when LSBs of keys are fetched", choices=KeyMode),
    Field("value_mode", 2, "when LSBs of values are fetched", choices=ValueMode),
    Field(
        "key_margin", 5, "KEY: score units per unit of the sum of magnitudes of a query; 16 covers every LSB", high=16
    ),
    Field(
        "value_keep", 25, "share of the seen keys whose values are fetched, in 2^-24, rounded up", low=1, high=1 << 24
    ),
    Field("importance", 1, "1: probabilities are added to the importance of keys"),
    Field("forget", 9, "factor in 1/256 on the importance of all keys before the first row; 0 clears it", high=256),
    Field("q_addr", 48, f"queries [head][query]: {_PLACE}"),
    Field("k_addr", 48, f"keys [head][key], MSB plane: {_PLACE}"),
    Field("k_low_addr", 48, f"LSB plane: {_PLACE}"),
    Field("v_addr", 48, f"values [head][key], MSB plane: {_PLACE}"),
    Field("v_low_addr", 48, f"LSB plane: {_PLACE}"),
    Field("out_addr", 48, f"outputs [query][head]: {_PLACE}"),
    Field("mask_addr", 48, "bits, key 0 lowest: byte address, a multiple of the beat size"),
    Field("heads_addr", 48, "head records: byte address, a multiple of the beat size"),
    Field("q_stride", 32, _STEP),
    Field("k_stride", 32, f"{_STEP} of keys"),
    Field("k_low_stride", 32, f"{_STEP} of keys"),
    Field("v_stride", 32, f"{_STEP} of values"),
    Field("v_low_stride", 32, f"{_STEP} of values"),
    Field("out_stride", 32, "bytes between queries"),
)
"""Operands of one attention layer, lowest bits first, in JOB_BYTES bytes."""

RECORD_BYTES = 32
RECORD: Final = (
    Field("scale_mantissa", SCALE_BITS, "softmax scale x log2(e), top bit set", low=1 << SCALE_BITS - 1),
    Field("scale_exponent", 8, "the scale is mantissa x 2^-exponent", low=16, high=63),
    Field("value_scale", 32, "FP32: step of the values"),
    Field("sum_limit", SUM_BITS, "a row whose sum of e is larger is not confident"),
    Field("key_gap", 40, "KEY: score units to the smallest probability that matters in a row of sum 1"),
    Field("key_octave", 40, "KEY: score units less for every doubling of the sum"),
)
"""Constants of one query head, lowest bits first, in RECORD_BYTES bytes."""


def pack(fields: tuple[Field, ...], size: int, values: dict[str, int]) -> bytes:
    """Little-endian bytes of a descriptor. Raises `UserError` naming a field that is missing or out of range."""
    if unknown := sorted(values.keys() ^ {item.name for item in fields}):
        raise UserError(
            f"descriptor fields are {', '.join(item.name for item in fields)}; {unknown[0]} is not as listed"
        )
    word = place = 0
    for item in fields:
        value = int(values[item.name])
        if not item.low <= value <= item.limit:
            raise UserError(f"{item.name} must be in {item.low}..{item.limit}, not {value}")
        word |= value << place
        place += item.width
    return word.to_bytes(size, "little")


def unpack(fields: tuple[Field, ...], data: bytes) -> dict[str, int]:
    """The values in a descriptor's bytes, ranges unchecked."""
    word, values = int.from_bytes(data, "little"), {}
    for item in fields:
        values[item.name] = word & ((1 << item.width) - 1)
        word >>= item.width
    return values


def softmax_scale(scale: float) -> tuple[int, int]:
    """Mantissa and exponent of a softmax scale per score unit (step of queries x step of keys / sqrt(D)).

    Raises `UserError` unless scale x log2(e) is at least 2^-48 and below 1.
    """
    if not 0 < scale < math.inf or not -48 <= math.log2(scale * math.log2(math.e)) < 0:
        raise UserError(f"a softmax scale times log2(e) must be at least 2^-48 and below 1, not {scale}")
    mantissa, exponent = math.frexp(scale * math.log2(math.e))
    rounded = round(mantissa * 2**SCALE_BITS)
    if rounded == 2**SCALE_BITS:
        rounded, exponent = rounded // 2, exponent + 1
    return rounded, SCALE_BITS - exponent


def sum_limit(threshold: float) -> int:
    """`sum_limit` so that rows are not confident whose largest probability is below `threshold`.

    0 (never): no sum reaches the limit. Above 1 (always): every one does.
    """
    if threshold <= 0:
        return (1 << SUM_BITS) - 1
    return 0 if threshold > 1 else min(math.floor(EXP_MAX / threshold), (1 << SUM_BITS) - 1)


def key_limits(cutoff: float, scale: float) -> tuple[int, int]:
    """`key_gap` and `key_octave`: only keys whose probability may reach `cutoff` matter; `scale` as for the softmax."""
    if not 0 < cutoff < 1:
        raise UserError(f"the probability that still matters must be between 0 and 1, not {cutoff}")
    octave = 1 / (scale * math.log2(math.e))
    return math.ceil(-math.log2(cutoff) * octave), math.floor(octave)


def keep_share(share: float) -> int:
    """`value_keep` of a share in (0, 1]; ceil(share x n) values of n are kept."""
    if not 0 < share <= 1:
        raise UserError(f"the share of values that are kept must be above 0 and at most 1, not {share}")
    return max(1, math.floor(share * (1 << KEEP_FRACTION)))


def keep_count(count: int, keys: int) -> int:
    """`value_keep` that keeps exactly `count` of `keys` values."""
    if not 1 <= count <= keys:
        raise UserError(f"at least 1 and at most {keys} of {keys} values can be kept, not {count}")
    return (count << KEEP_FRACTION) // keys

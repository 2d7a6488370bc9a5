"""Descriptors and host constants of the attention engine."""

import math

import pytest

from hwgen.arch import UserError
from hwgen.arch.attention import (
    EXP_TABLE,
    JOB,
    JOB_BYTES,
    RECORD,
    RECORD_BYTES,
    AttentionSizes,
    keep_count,
    keep_share,
    key_limits,
    pack,
    softmax_scale,
    unpack,
)


def test_a_record_bit_by_bit():
    values = {
        "scale_mantissa": 0x8001,
        "scale_exponent": 0x20,
        "value_scale": 0x3F800000,
        "sum_limit": 0x000A0000,
        "key_gap": 0x1122334455,
        "key_octave": 0x66,
    }
    data = pack(RECORD, RECORD_BYTES, values)
    assert data.hex() == "0180200000803f00000a0055443322116600000000" + "00" * 11
    assert unpack(RECORD, data) == values


@pytest.mark.parametrize(("fields", "size"), [(JOB, JOB_BYTES), (RECORD, RECORD_BYTES)])
def test_descriptors_keep_the_largest_values(fields, size):
    for pick in ("low", "limit"):
        values = {item.name: getattr(item, pick) for item in fields}
        assert unpack(fields, pack(fields, size, values)) == values


def test_descriptor_errors():
    values = {item.name: item.low for item in RECORD}
    with pytest.raises(UserError, match=r"scale_exponent must be in 16..63, not 64"):
        pack(RECORD, RECORD_BYTES, values | {"scale_exponent": 64})
    with pytest.raises(UserError, match="colour is not as listed"):
        pack(RECORD, RECORD_BYTES, values | {"colour": 1})
    del values["sum_limit"]
    with pytest.raises(UserError, match="sum_limit is not as listed"):
        pack(RECORD, RECORD_BYTES, values)


def test_sizes_of_words():
    sizes = AttentionSizes()
    assert [sizes.slots(size) for size in (16, 48, 64, 80, 128)] == [16, 64, 64, 128, 128]
    assert [sizes.rows_per_word(size) for size in (16, 32, 48, 64, 128)] == [4, 2, 1, 1, 1]
    assert [sizes.words_per_row(size) for size in (16, 64, 80, 128)] == [1, 1, 2, 2]
    assert [sizes.words(size, 33) for size in (16, 32, 64, 128)] == [9, 17, 33, 66]
    assert AttentionSizes(multipliers=512, softmax_lanes=32).words(64, 993) == 125


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        ({"multipliers": 48}, "attention.multipliers must be a power of two between 16 and 512, not 48"),
        ({"multipliers": 512}, "attention.softmax_lanes must be at least multipliers / 16 = 32"),
        ({"softmax_lanes": 64}, "attention.softmax_lanes must be a power of two between 4 and 32, not 64"),
        ({"output_lanes": 16, "beat_bytes": 16}, "attention.output_lanes must be at most beat_bytes / 2 = 8, not 16"),
        ({"max_heads": 17}, "attention.max_heads must be between 1 and 16, not 17"),
    ],
)
def test_bad_sizes(choice, text):
    with pytest.raises(UserError, match=text):
        AttentionSizes(**choice)


@pytest.mark.parametrize("scale", [0, -1, math.inf, 1, 1e-15, math.nan])
def test_scales_out_of_range(scale):
    with pytest.raises(UserError, match="a softmax scale times log2"):
        softmax_scale(scale)


def test_table_of_the_exponential():
    assert (EXP_TABLE[0], EXP_TABLE[64], EXP_TABLE[128]) == (1 << 20, 741455, 1 << 19)


@pytest.mark.parametrize("share", [0, -0.1, 1.01])
def test_shares_out_of_range(share):
    with pytest.raises(UserError, match="must be above 0 and at most 1"):
        keep_share(share)


@pytest.mark.parametrize("count", [0, 8])
def test_counts_out_of_range(count):
    with pytest.raises(UserError, match="at least 1 and at most 7 of 7"):
        keep_count(count, 7)


def test_shares_are_rounded_up():
    for tenths in range(1, 11):
        for keys in range(1, 1025):
            assert -(-keys * keep_share(tenths / 10) >> 24) == -(-keys * tenths // 10)


def test_key_limits():
    gap, octave = key_limits(1 / 1024, 0.01 * math.log(2))
    assert (gap, octave) in {(1000, 100), (1000, 99), (1001, 100)}
    with pytest.raises(UserError, match="between 0 and 1"):
        key_limits(1, 0.1)

"""Counts against counting by hand and against the byte floors of the published traces."""

import csv
from pathlib import Path

import pytest
import torch

from models.attention import PruningPolicy, Quantization, Schedule, prune
from models.attention.attention import Attention
from models.attention.decode import KEY_CAPS, VALUE_CAPS, Shape, policies
from models.attention.statistics import Dense, Live, count, row_bytes
from tests.models.attention.support import LAYERS, build, inputs

TRACE = Path(__file__).with_name("spatten_trace.csv")
BEAT = 64
"""Bytes of the published machine's memory in a cycle."""
PRUNED_BEATS, DENSE_BEATS = 43_512, 360_000
"""Bytes floors of the token with iteration_id 5, in beats (its bytes of queries are not in)."""
ROUNDED = 8
"""The published machine fetches keys and values in groups of 8 rows."""


def trace():
    lines = [line for line in TRACE.read_text().splitlines() if not line.startswith("#")]
    return [{name: int(value) for name, value in row.items()} for row in csv.DictReader(lines)]


def up(rows):
    return -(-rows // ROUNDED) * ROUNDED


def decoded(heads, keys, values, lsb, quantization):
    """Counts of one query of each head that sees `keys` keys of 64 elements."""
    visible = torch.ones(1, heads, 1, keys, dtype=torch.bool)
    kept = visible & (torch.arange(keys) < values)
    result = Attention(torch.zeros(1, heads, 1, 64), visible.float(), kept, visible & bool(lsb), visible & False)
    live = torch.ones(1, keys, dtype=torch.bool)
    dense = Dense(1, keys, keys)
    return count(result, visible, Live(live[:, :1], live, visible[:, :, 0, 0]), 1, quantization, dense)


def test_bytes_are_the_floor_of_the_published_trace():
    bits = Quantization(msb=6, lsb=4, threshold=0.05, value_lsb="never")
    rows = trace()
    assert {(row["key_bits"], row["value_bits"]) for row in rows} == {(6, 6)}
    counted = [decoded(row["heads"], up(row["keys"]), up(row["values"]), row["lsb"], bits) for row in rows]
    assert sum(one.bytes - one.query_bytes for one in counted) == PRUNED_BEATS * BEAT
    exact = [decoded(row["heads"], row["keys"], row["values"], row["lsb"], bits) for row in rows]
    assert sum(one.bytes - one.query_bytes for one in exact) == pytest.approx(PRUNED_BEATS * BEAT, rel=0.015)


def test_dense_bytes_are_its_floor_at_ten_bits():
    result = Attention(*(torch.ones(1, 144, 1, n, dtype=torch.bool) for n in (64, *[up(998)] * 4)))
    live = torch.ones(1, up(998), dtype=torch.bool)
    visible = result.values_kept
    counted = count(
        result, visible, Live(live[:, :1], live, visible[:, :, 0, 0]), 1, Quantization(), Dense(1, up(998), up(998))
    )
    assert counted.bytes - counted.query_bytes == DENSE_BEATS * BEAT
    assert counted.bytes_dense == 144 * (1 + 2 * 1000) * 64 * 4


def test_caps_are_those_of_the_trace():
    rows = trace()
    assert [row["keys"] for row in rows] == list(KEY_CAPS)
    assert [row["values"] for row in rows] == list(VALUE_CAPS)
    assert policies(Shape())["as the traces: no heads pruned"].tokens.caps == KEY_CAPS


@pytest.mark.parametrize(
    ("dim", "planes", "expected"), [(32, (6, 4), 40), (64, (32,), 256), (20, (10,), 25), (17, (4, 4), 18)]
)
def test_rows_are_whole_bytes(dim, planes, expected):
    assert row_bytes(dim, *planes) == expected


@pytest.mark.parametrize("threshold", [1, 2])
def test_counts_of_an_encoder_by_hand(threshold):
    model, arguments = build("bert"), inputs("bert", batch=1, length=10)
    policy = PruningPolicy(
        tokens=Schedule(shares=(1.0, 0.8, 0.6, 0.4)),
        heads=Schedule(shares=(1.0, 1.0, 0.5, 0.5)),
        quantization=Quantization(msb=6, lsb=4, threshold=threshold),
    )
    with torch.no_grad(), prune(model, policy) as pruned:
        model(**arguments)
    for layer, (tokens, heads) in enumerate(zip((10, 8, 6, 4), (4, 4, 2, 2))):
        counted = pruned.statistics.layers[layer]
        assert (counted.tokens, counted.keys, counted.heads) == (tokens, tokens, heads)
        assert counted.rows == counted.rows_lsb == tokens * heads
        assert counted.pairs == counted.pairs_lsb == counted.pairs_value == tokens**2 * heads
        assert counted.macs == (2 if threshold > 1 else 3) * tokens**2 * heads * 8
        assert counted.macs_dense == 2 * 10**2 * 4 * 8
        assert counted.query_bytes == tokens * heads * 10
        assert (counted.key_msb_bytes, counted.key_lsb_bytes) == (tokens * heads * 6, tokens * heads * 4)
        assert (counted.value_msb_bytes, counted.value_lsb_bytes) == (tokens * heads * 6, tokens * heads * 4)
        assert counted.bytes_dense == 3 * 10 * 4 * 8 * 4
        projections, inner = 4 * 32 * 32, 2 * 32 * 48
        after = (8, 6, 4, 4)[layer]
        assert counted.linear_macs == tokens * projections + after * inner
        assert counted.linear_macs_dense == 10 * (projections + inner)


def test_grouped_heads_share_keys_and_values():
    model, arguments = build("llama"), inputs("llama", batch=1, length=10)
    heads = PruningPolicy(heads=Schedule(caps=(4, 1, 1, 1)))
    for policy, expected in ((PruningPolicy(), [2] * LAYERS), (heads, [2, 1, 1, 1])):
        with torch.no_grad(), prune(model, policy) as pruned:
            model(**arguments)
        for counted, kv_heads in zip(pruned.statistics.layers, expected):
            assert counted.key_msb_bytes == counted.value_msb_bytes == kv_heads * 10 * 8 * 4
            assert counted.bytes_dense == (4 + 2 * 2) * 10 * 8 * 4
            assert counted.macs_dense == 2 * 55 * 4 * 8


def test_decoding_counts_each_token():
    model, arguments = build("gpt2"), inputs("gpt2", batch=2, length=10)
    with torch.no_grad(), prune(model, PruningPolicy(tokens=Schedule(caps=(8, 6, 4, 2)))) as pruned:
        out = model(**arguments, use_cache=True)
        pruned.statistics.reset()
        for _ in range(3):
            out = model(out.logits[:, -1:].argmax(-1), past_key_values=out.past_key_values, use_cache=True)
    for counted, cap in zip(pruned.statistics.layers, (8, 6, 4, 2)):
        assert (counted.passes, counted.sequences, counted.tokens, counted.keys) == (3, 6, 6, 6 * cap)
        assert counted.bytes == 6 * 4 * 8 * 4 * (1 + 2 * cap)
        assert counted.bytes_dense == 2 * 4 * 8 * 4 * (3 + 2 * (11 + 12 + 13))
    assert pruned.statistics.total.reduction > 2

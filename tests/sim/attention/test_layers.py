"""Random attention layers of many sizes on RTL against the golden model, to the bit: `LAYERS` of them."""

import numpy as np
import pytest

from hwgen.arch.attention import PLANE_BITS, QUERY_BITS, AttentionSizes, KeyMode, ValueMode, keep_share
from models.attention_engine.engine import check_job
from tests.models.attention_engine.support import Layer, random_layer
from tests.sim.attention.support import SIZES, check
from tests.support import at_random, never

pytestmark = pytest.mark.verilator

SIZES["layers"] = AttentionSizes(
    multipliers=32, beat_bytes=32, softmax_lanes=8, output_lanes=4, max_length=512, buffer_words=2048, max_heads=16,
    rows_in_flight=4, reads_in_flight=32,
)  # fmt: skip
LAYERS, PARTS = 208, 8
HEADS = (1, 2, 3, 4, 6, 8, 12, 16)
HEAD_SIZES = range(16, 129, 16)
WORK = 12_000
"""Cycles of products of a layer, about."""
SPLITS = tuple((bits, low) for bits in PLANE_BITS for low in (0, 1))
"""MSB planes of keys and values, without and with LSB plane."""


def length(rng: np.random.Generator) -> int:
    """1 .. 512, half of them short."""
    return int(rng.integers(1, 513)) if rng.random() < 0.5 else int(2 ** rng.uniform(0, 9))


def random_shape(rng: np.random.Generator, number: int) -> dict[str, int]:
    """Heads, their size, keys, queries: an encoder attends to itself, a decoder has a few queries."""
    sizes, keys, size = SIZES["layers"], length(rng), int(rng.choice(HEAD_SIZES))
    encoder, heads = number % 2, HEADS[number // 2 % len(HEADS)]
    queries = keys if encoder else int(rng.integers(1, 4))
    while heads * queries * sizes.words(size, keys) > WORK and (heads > 1 or queries > 1):
        # Heads first for encoders, queries first for decoders.
        if (encoder and heads > 1) or queries == 1:
            heads = max(1, heads // 2)
        else:
            queries = max(1, queries // 2)
    group = int(rng.choice([size for size in range(1, heads + 1) if heads % size == 0]))
    hold = encoder or int(group > 1 and rng.random() < 0.5)
    causal = int(not encoder or rng.random() < 0.3)
    return {
        **{"heads": heads, "group": group, "head_size": size, "keys": keys, "queries": queries, "causal": causal},
        **{"offset": 0 if encoder else max(0, keys - queries), "hold": int(hold)},
    }


def random_attention(rng: np.random.Generator, number: int) -> Layer:
    """A layer; its number chooses kind, heads, planes and modes, so that all of them come."""
    (key_bits, key_low), (value_bits, value_low) = SPLITS[number % len(SPLITS)], SPLITS[number // 3 % len(SPLITS)]
    layer = random_layer(
        rng,
        **random_shape(rng, number),
        **{"key_bits": key_bits, "key_low": key_low, "value_bits": value_bits, "value_low": value_low},
        query_bits=int(rng.choice(QUERY_BITS)),
        key_mode=list(KeyMode)[number % len(KeyMode)],
        value_mode=list(ValueMode)[number % len(ValueMode)],
        value_keep=keep_share(1.0 if number % 4 == 0 else float(rng.uniform(0.1, 1))),
        importance=int(rng.random() < 0.8),
        masked=int(rng.random() < 0.3),
    )
    check_job(layer.job, SIZES["layers"])
    return layer


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_layers(part, seed):
    for number in range(part, LAYERS, PARTS):
        rng = np.random.default_rng([seed, number])
        layer = random_attention(rng, number)
        probability = float(rng.choice([0, 0.1, 0.5]))
        print(f"layer {number} of seed {seed}: {layer.job}")
        tokens = rng.integers(0, 1 << 24, SIZES["layers"].max_length).tolist()
        stalls = at_random(number, probability) if probability else never
        check("layers", layer, 0xFFFF, tokens, latency=int(rng.choice([1, 10, 40])), stalls=stalls)


def test_layers_are_of_all_kinds(seed):
    """The layers above cover what they are meant to cover."""
    jobs = [random_attention(np.random.default_rng([seed, number]), number).job for number in range(LAYERS)]

    def values(name: str) -> set[int]:
        return {job[name] for job in jobs}

    assert values("head_size") == set(HEAD_SIZES)
    assert {1, 2, 3, 4, 6, 8} <= values("heads")
    assert max(values("heads")) == 16
    assert values("key_mode") == set(KeyMode)
    for word in ("key", "value"):
        assert {(job[f"{word}_bits"], job[f"{word}_low"]) for job in jobs} == set(SPLITS)
    lengths = values("keys")
    assert min(lengths) <= 3
    assert max(lengths) > 450
    assert len([keys for keys in lengths if keys & (keys - 1)]) > 50
    assert min(values("value_keep")) < keep_share(0.15)
    assert {(job["hold"], job["causal"], job["masked"]) for job in jobs} >= {(1, 0, 0), (1, 0, 1), (1, 1, 0), (0, 1, 0)}

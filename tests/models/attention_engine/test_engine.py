"""Jobs in memory: addresses, importance, heads that are gone, traffic, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest

from hwgen.arch import UserError
from hwgen.arch.attention import KEEP_FRACTION, SCORE_MAX, AttentionSizes, KeyMode, ValueMode, keep_count
from models.attention_engine.planes import row_bytes
from tests.models.attention_engine.support import SIZES, random_layer
from tests.models.attention_engine.test_attention import rows

WHOLE = 1 << KEEP_FRACTION


def test_outputs_and_importance_of_random_jobs(seed):
    """The engine gives what its rows give, rounded to FP16 as numpy does, and adds what they say."""
    for case in range(80):
        layer = random_layer(np.random.default_rng([seed, case]))
        engine, job = layer.engine(), layer.job
        engine.importance.tokens[:] = 1000
        engine.run(job)
        outputs, tokens, heads = layer.outputs(engine), np.full(SIZES.max_length, 1000), np.zeros(SIZES.max_heads)
        if job["importance"]:
            tokens[: job["keys"]] = 1000 * job["forget"] // 256
        for head, query, seen, row in rows(layer):
            assert outputs[head, query].tobytes() == row.output.astype(np.float16).tobytes(), f"case {case}"
            tokens[: len(seen)] += row.probabilities * job["importance"]
            heads[head] += np.floor(np.abs(row.output).astype(float) * 256 + 0.5).sum() * job["importance"]
        assert engine.importance.tokens.tolist() == tokens.tolist()
        assert engine.importance.heads.tolist() == heads.tolist()


def test_holding_keys_changes_no_bit(seed):
    for case in range(20):
        layer = random_layer(np.random.default_rng([seed, case]), hold=0)
        streamed, held = layer.engine(), layer.engine()
        streamed.run(layer.job)
        held.run(layer.job | {"hold": 1})
        assert layer.outputs(streamed).tobytes() == layer.outputs(held).tobytes()


def test_query_heads_share_keys(seed):
    rng = np.random.default_rng(seed)
    layer = random_layer(rng, heads=4, group=2)
    repeated = replace(layer, key=layer.key.repeat(2, axis=0), value=layer.value.repeat(2, axis=0))
    repeated.job = layer.job | {"group": 1}
    engines = layer.engine(), repeated.engine()
    for one, engine in zip((layer, repeated), engines):
        engine.run(one.job)
    assert layer.outputs(engines[0]).tobytes() == repeated.outputs(engines[1]).tobytes()


def test_a_head_that_is_gone_gives_zeros_and_fetches_nothing(seed):
    layer = random_layer(np.random.default_rng(seed), heads=4, group=1, importance=1)
    engine, full = layer.engine(), layer.engine()
    engine.importance.alive[2] = False
    result, all_rows = engine.run(layer.job), full.run(layer.job)
    assert not layer.outputs(engine)[2].any()
    assert layer.outputs(engine)[[0, 1, 3]].tobytes() == layer.outputs(full)[[0, 1, 3]].tobytes()
    assert {row.head for row in result.rows} == {0, 1, 3}
    assert result.read_beats < all_rows.read_beats
    assert engine.importance.heads[2] == 0


def test_a_mask_that_hides_every_key(seed):
    for mode in range(4):
        layer = random_layer(
            np.random.default_rng(seed), keys=64, masked=1, mask=np.zeros(64), key_mode=mode, importance=1
        )
        engine = layer.engine()
        engine.run(layer.job)
        assert layer.outputs(engine).tobytes() == bytes(layer.query.size * 2)
        assert not engine.importance.tokens.any()


def test_importance_saturates(seed):
    layer = random_layer(np.random.default_rng(seed), keys=1, importance=1, masked=0, forget=256)
    engine = layer.engine()
    engine.importance.tokens[0] = engine.importance.heads[0] = SCORE_MAX - 1
    engine.run(layer.job)
    assert engine.importance.tokens[0] == SCORE_MAX
    assert engine.importance.heads[0] <= SCORE_MAX


def test_published_token_traffic():
    """Bytes of a layer of the published trace: 921 keys of 6 + 4 bits, 184 values of 6 bits, LSBs of every row."""
    rng = np.random.default_rng(1)
    choices = {"heads": 12, "group": 1, "head_size": 64, "queries": 1, "keys": 921, "causal": 0, "hold": 0, "masked": 0}
    bits = {"query_bits": 12, "key_bits": 6, "value_bits": 6, "key_low": 1, "value_low": 0}
    modes = {"key_mode": KeyMode.ROW, "value_mode": ValueMode.NEVER, "threshold": 2, "spread": 1}
    layer = random_layer(rng, **choices, **bits, **modes, value_keep=keep_count(184, 921))
    result = layer.engine().run(layer.job)
    for row in result.rows:
        assert (row.keys, row.low_keys, row.values) == (921, 921, 184)
        floor = (921 * row_bytes(64, 6) + 921 * row_bytes(64, 4) + 184 * row_bytes(64, 6)) / 64
        assert floor <= row.beats <= 1.12 * floor


def test_held_planes_are_read_once(seed):
    layer = random_layer(np.random.default_rng(seed), hold=1, heads=4, group=2, queries=7, keys=200)
    result = layer.engine().run(layer.job)
    assert not any(row.beats for row in result.rows)
    assert result.head_beats == result.read_beats


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"heads": 17}, "heads must be in 1..16, not 17"),
        ({"keys": 0}, "keys must be in 1..65535, not 0"),
        ({"head_size": 40}, "head_size must be a multiple of 16, not 40"),
        ({"head_size": 144}, "head_size must be in 16..128, not 144"),
        ({"key_bits": 5}, "key_bits must be even, not 5"),
        ({"query_bits": 7}, "query_bits must be even, not 7"),
        ({"value_keep": 0}, "value_keep must be in 1..16777216, not 0"),
        ({"group": 3}, r"group \(3\) must divide heads"),
        ({"keys": 2000, "masked": 1}, "a mask covers 1024 keys, not 2000"),
        ({"keys": 2000, "importance": 1}, "importance covers 1024 keys, not 2000"),
        ({"keys": 2000, "key_mode": 1}, "key_mode must be NEVER or ALWAYS for more than 1024 keys"),
        ({"keys": 3000, "hold": 1}, "3000 keys of 64 elements do not fit the buffer of 1024 words"),
        ({"k_addr": 2}, "k_addr must be a multiple of 4, not 0x2"),
        ({"heads_addr": 32}, "heads_addr must be a multiple of 64, not 0x20"),
    ],
)
def test_bad_jobs_are_refused(change, text, seed):
    plain = {"heads": 4, "group": 1, "head_size": 64, "masked": 0, "importance": 0, "hold": 0, "key_mode": 0}
    layer = random_layer(np.random.default_rng(seed), **plain)
    with pytest.raises(UserError, match=text):
        layer.engine().run(layer.job | change)


def test_more_keys_than_a_tile(seed):
    """A row of 3,000 keys gives what a larger machine gives, but for the roundings of the running maximum."""
    rng = np.random.default_rng(seed)
    choices = {"heads": 1, "queries": 1, "keys": 3000, "hold": 0, "masked": 0, "importance": 0, "key_mode": 0}
    layer = random_layer(rng, **choices, value_keep=WHOLE, causal=0, spread=2)
    small, large = layer.engine(), layer.engine(AttentionSizes(max_length=4096))
    assert small.run(layer.job).rows == large.run(layer.job).rows
    difference = layer.outputs(small).astype(float) - layer.outputs(large).astype(float)
    assert np.abs(difference).max() <= 2**-10 * np.abs(layer.outputs(large)).max()

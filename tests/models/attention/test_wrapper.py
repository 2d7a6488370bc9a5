"""Models of transformers under pruning: exactness, float64 references, cascades, masks, caches."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import OPTConfig, OPTModel, Qwen2Config, Qwen2Model, RobertaConfig, RobertaModel

from hwgen.arch import UserError
from models.attention import PruningPolicy, Quantization, Schedule, prune
from models.attention.calibrate import calibrate
from models.attention.cascade import Cascade
from tests.models.attention import support
from tests.models.attention.support import (
    BUILDERS,
    DECODERS,
    ENCODERS,
    FULL,
    HEADS,
    LAYERS,
    TOKENS,
    Reference,
    build,
    inputs,
    run,
)

FURTHER = {
    "roberta": lambda: RobertaModel(RobertaConfig(vocab_size=64, **support.SIZES)),
    "qwen2": lambda: Qwen2Model(Qwen2Config(vocab_size=64, num_key_value_heads=2, **support.SIZES)),
    "opt": lambda: OPTModel(OPTConfig(vocab_size=64, ffn_dim=48, word_embed_proj_dim=32, **support.SIZES)),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_no_pruning_is_the_plain_model(name):
    model, arguments = build(name), inputs(name)
    with torch.no_grad():
        plain = model(**arguments)[0]
    pruned, found = run(model, arguments, PruningPolicy())
    assert (found - plain).abs().max() < 1e-5
    assert pruned.statistics.total.reduction == 1
    with torch.no_grad():
        assert torch.equal(model(**arguments)[0], plain)


@pytest.mark.parametrize("name", DECODERS)
def test_no_pruning_decodes_as_the_plain_model(name):
    model, arguments = build(name), inputs(name)
    arguments["attention_mask"][1, :4] = 0
    greedy = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "output_logits": True}
    greedy["return_dict_in_generate"] = True
    plain = model.generate(**arguments, **greedy)
    with prune(model, PruningPolicy()):
        found = model.generate(**arguments, **greedy)
    assert torch.equal(plain.sequences, found.sequences)
    assert max((a - b).abs().max() for a, b in zip(plain.logits, found.logits)) < 1e-5


@pytest.mark.parametrize("values", [1.0, 0.5])
def test_bert_equals_the_float64_reference(values):
    model, arguments = build("bert"), inputs("bert", batch=1, length=15)
    policy = PruningPolicy(tokens=TOKENS, values=Schedule(shares=(values,) * LAYERS))
    pruned, found = run(model, arguments, policy)
    expected, rows = support.reference_bert(model, arguments["input_ids"][0].tolist(), Reference(TOKENS.shares, values))
    assert pruned.positions[0].tolist() == rows
    np.testing.assert_allclose(found[0].numpy(), expected, atol=2e-5)
    assert len(rows) == 6


@pytest.mark.parametrize(("recent", "forgetting"), [(2, 1.0), (1, 0.125), (5, 0.75)])
def test_gpt2_equals_the_float64_reference_token_by_token(recent, forgetting):
    model, ids = build("gpt2"), inputs("gpt2", batch=1, length=13)["input_ids"]
    values = Schedule(shares=(0.6,) * LAYERS)
    policy = PruningPolicy(tokens=TOKENS, values=values, recent=recent, forgetting=forgetting)
    reference = Reference(TOKENS.shares, 0.6, recent=recent, forgetting=forgetting)
    with torch.no_grad(), prune(model, policy) as pruned:
        cache, new = None, ids
        for _ in range(7):
            out = model.transformer(new, past_key_values=cache, use_cache=True)
            expected, rows = support.reference_gpt2_pass(model, new[0].tolist(), reference)
            found = out.last_hidden_state[0][pruned.live[0]]
            assert pruned.positions[0][pruned.live[0]].tolist() == rows
            np.testing.assert_allclose(found.numpy(), expected, atol=5e-5)
            for held, layer in zip(reference.held, out.past_key_values.layers):
                assert layer.keys.shape[2] == len(held)
                np.testing.assert_allclose(layer.keys[0, 0].numpy(), [key[1][0] for key in held], atol=5e-5)
            cache, new = out.past_key_values, torch.tensor([[int(expected[-1].argmax()) % 64]])
    assert cache.get_seq_length() == 19
    assert [len(held) for held in reference.held] == [19, 16, 12, 8]


@pytest.mark.parametrize("name", BUILDERS)
def test_padded_batches_equal_single_sequences(name):
    if name == "vit":
        model, arguments = build(name), inputs(name)
        singles = [{"pixel_values": image[None]} for image in arguments["pixel_values"]]
    else:
        model, arguments = build(name), inputs(name)
        kept = slice(5, None) if name in DECODERS else slice(0, 7)
        arguments["attention_mask"][1] = 0
        arguments["attention_mask"][1, kept] = 1
        places = (arguments["attention_mask"].cumsum(1) - 1).clamp(min=0)
        singles = [{"input_ids": arguments["input_ids"][:1]}, {"input_ids": arguments["input_ids"][1:, kept]}]
        arguments |= {"position_ids": places} if name in DECODERS else {}
    pruned, together = run(model, arguments, FULL)
    for number, single in enumerate(singles):
        alone, found = run(model, single, FULL)
        live, own = pruned.live[number], alone.live[0]
        torch.testing.assert_close(together[number][live], found[0][own], atol=1e-5, rtol=1e-5)
    assert torch.isfinite(together).all()


@pytest.mark.parametrize("name", BUILDERS)
def test_cascades_only_shrink(name):
    model, seen = build(name), []
    with torch.no_grad(), prune(model, FULL) as pruned:
        for number, layer in enumerate(pruned.structure.layers):
            layer.register_forward_hook(
                lambda *_, number=number: seen.append((number, pruned.cascade.alive, pruned.cascade.live_heads))
            )
        model(**inputs(name))
    assert [layer for layer, _, _ in seen] == list(range(LAYERS))
    for (_, below, heads_below), (_, here, heads_here) in pairwise(seen):
        assert not (here & ~below).any()
        assert not (heads_here & ~heads_below).any()
    assert seen[-1][2].sum(1).tolist() == [2, 2]


@pytest.mark.parametrize("name", DECODERS)
def test_pruned_keys_never_return_while_decoding(name):
    model, arguments = build(name), inputs(name, batch=1, length=20)
    caps = (16, 12, 8, 6)
    policy = PruningPolicy(tokens=Schedule(caps=caps), recent=3, forgetting=0.75)
    held = [None] * LAYERS
    with torch.no_grad(), prune(model, policy) as pruned:
        out = model(**arguments, use_cache=True)
        for _ in range(8):
            new = out.logits[:, -1:].argmax(-1)
            out = model(new, past_key_values=out.past_key_values, use_cache=True)
            last = pruned.cascade.length - 1
            for layer in range(LAYERS):
                places = pruned.cascade.caches[layer]
                now = set(places.positions[places.live].tolist())
                assert len(now) == caps[layer] == out.past_key_values.layers[layer].keys.shape[2]
                assert {last - 2, last - 1, last, 0} <= now
                assert held[layer] is None or now <= held[layer] | {last}
                assert layer == 0 or now <= held[layer - 1]
                held[layer] = now
    assert out.past_key_values.get_seq_length() == 28


def test_heads_are_chosen_once():
    cascade = Cascade(PruningPolicy(heads=Schedule(caps=(3, 1))), layers=2, heads=3, causal=True)
    for new, scores in ((2, [1, 3, 2]), (1, [9, 3, 2])):
        cascade.begin_pass(1, new, torch.device("cpu"))
        cascade.enter(0)
        assert cascade.live_heads.tolist() == [[True, True, True]]
        cascade.head_scores = torch.tensor([scores])
        cascade.enter(1)
        assert cascade.live_heads.tolist() == [[False, True, False]]


def test_ties_keep_earlier_tokens():
    model = build("bert")
    with torch.no_grad():
        for layer in model.encoder.layer:
            layer.attention.self.query.weight.zero_()
            layer.attention.self.query.bias.zero_()
    pruned, _ = run(model, inputs("bert", batch=1), PruningPolicy(tokens=TOKENS, protect_first=0))
    assert pruned.positions.tolist() == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_a_masked_key_is_never_important(name):
    model, arguments = build(name), inputs(name, batch=1)
    padding = slice(0, 5) if name == "gpt2" else slice(7, 12)
    arguments["attention_mask"][:, padding] = 0
    pruned, _ = run(model, arguments, dataclasses.replace(FULL, protect_first=0))
    assert not pruned.cascade.scores[:, padding].any()
    assert not pruned.cascade.alive[:, padding].any()
    others = torch.ones(12, dtype=torch.bool)
    others[padding] = False
    assert (pruned.cascade.scores[0, others] > 0).all()


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_a_sequence_without_tokens_gives_no_nan(name):
    model, arguments = build(name), inputs(name)
    arguments["attention_mask"][1] = 0
    pruned, found = run(model, arguments, FULL)
    assert torch.isfinite(found).all()
    assert pruned.live[1].sum() == 0
    if name == "bert":
        assert not pruned.mean(found)[1].any()


def test_the_first_token_stays_where_it_is_the_output():
    model, arguments = build("vit"), inputs("vit")
    pruned, found = run(model, arguments, PruningPolicy(tokens=Schedule(shares=(1, 0.5, 0.2, 0.06))))
    assert pruned.positions[:, 0].tolist() == [0, 0]
    assert found.shape[1] == 2


def test_the_mean_is_over_survivors():
    model, arguments = build("bert"), inputs("bert")
    arguments["attention_mask"][1, 6:] = 0
    pruned, found = run(model, arguments, PruningPolicy(tokens=TOKENS))
    expected = torch.stack([found[b, : int(pruned.live[b].sum())].mean(0) for b in range(2)])
    torch.testing.assert_close(pruned.mean(found), expected)
    assert pruned.live.sum(1).tolist() == [5, 3]


def test_thresholds_keep_tokens_above_a_share_of_the_mean():
    model, arguments = build("bert"), inputs("bert", batch=1)
    policy = PruningPolicy(tokens=Schedule(thresholds=(0, 0.5, 0.5, 0.5)), protect_first=0)
    _, found = run(model, arguments, policy)
    assert 1 <= found.shape[1] < 12
    everything, _ = run(model, arguments, PruningPolicy(tokens=Schedule(thresholds=(0,) * LAYERS)))
    assert everything.live.sum() == 12


def test_forgetting_changes_what_is_kept():
    model, arguments = build("gpt2"), inputs("gpt2", batch=1, length=24)
    survivors = []
    for forgetting in (1.0, 0.125):
        policy = PruningPolicy(tokens=Schedule(caps=(12, 8, 8, 8)), protect_first=0, forgetting=forgetting)
        with torch.no_grad(), prune(model, policy) as pruned:
            model.generate(**arguments, max_new_tokens=12, do_sample=False, pad_token_id=0)
            survivors.append(pruned.cascade.caches[1].positions.tolist())
    assert survivors[0] != survivors[1]


def test_calibrated_scales_hold_for_later_tokens():
    model, arguments = build("gpt2"), inputs("gpt2", batch=1)
    found = calibrate(model, [arguments, inputs("gpt2", batch=2, seed=5)])
    assert [tuple(one.key.shape) for one in found] == [(1, HEADS)] * LAYERS
    with torch.no_grad():
        plain = model(**arguments)[0]
    policy = PruningPolicy(quantization=Quantization(msb=12, threshold=2))
    _, close = run(model, arguments, policy, magnitudes=found)
    assert 0 < (close - plain).abs().max() < 0.02
    with pytest.raises(UserError, match=r"^2 layers are calibrated, the model has 4$"):
        prune(model, policy, found[:2])


def test_scales_of_a_prompt_stay():
    model, arguments = build("llama"), inputs("llama", batch=1)
    with torch.no_grad(), prune(model, PruningPolicy(quantization=Quantization())) as pruned:
        out = model(**arguments, use_cache=True)
        before = list(pruned.cascade.magnitudes)
        model(torch.tensor([[3]]), past_key_values=out.past_key_values, use_cache=True)
        assert all(a is b for a, b in zip(before, pruned.cascade.magnitudes))


@pytest.mark.parametrize("name", ENCODERS)
def test_rows_of_pruned_tokens_are_not_computed(name):
    model, arguments = build(name), inputs(name, batch=1)
    pruned, _ = run(model, arguments, PruningPolicy(tokens=TOKENS))
    statistics = pruned.statistics.layers
    assert statistics[0].linear_macs_dense == statistics[3].linear_macs_dense
    assert statistics[3].linear_macs / statistics[3].linear_macs_dense == pytest.approx(0.4, abs=0.03)
    early = statistics[0].linear_macs < statistics[0].linear_macs_dense
    assert early == (name != "vit")


@pytest.mark.parametrize("name", ["roberta", "qwen2", "opt"])
def test_further_families_are_the_plain_model(name):
    torch.manual_seed(0)
    model = FURTHER[name]().eval()
    arguments = inputs(name)
    with torch.no_grad():
        plain = model(**arguments)[0]
    _, found = run(model, arguments, PruningPolicy())
    assert (found - plain).abs().max() < 1e-5
    pruned, found = run(model, arguments, FULL)
    assert torch.isfinite(found).all()
    assert pruned.live.sum(1).tolist() == [5, 5]

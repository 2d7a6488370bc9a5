"""Models, masks and caches that pruned attention refuses, in one sentence each."""

import pytest
import torch
from transformers import BertConfig, BertModel, ModernBertConfig, ModernBertModel, T5Config, T5Model
from transformers.cache_utils import DynamicCache, StaticCache

from hwgen.arch import UserError
from models.attention import PruningPolicy, prune
from models.attention.wrapper import pruned_attention
from tests.models.attention import support
from tests.models.attention.support import FULL, build, inputs


def refused(model, text, call):
    with pytest.raises(UserError) as caught, torch.no_grad():
        call(model)
    assert str(caught.value) == text


def test_models_that_are_not_supported():
    refused(
        torch.nn.Linear(2, 2), "pruned attention wraps models of transformers, not Linear", lambda m: prune(m, FULL)
    )
    t5 = T5Model(T5Config(vocab_size=8, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    text = "T5Model has cross-attention: only encoders and decoders are supported"
    refused(t5, text, lambda m: prune(m, FULL))
    deep = BertModel(BertConfig(vocab_size=8, **support.SIZES | {"num_hidden_layers": 2}))
    refused(deep, "the schedule of tokens has 4 layers, the model 2", lambda m: prune(m, FULL))


def test_pruning_twice_training_and_biases_are_refused():
    model, arguments = build("bert"), inputs("bert")
    with prune(model, PruningPolicy()):
        refused(model, "BertModel is pruned already: remove() it first", lambda m: prune(m, FULL))
        text = "attention masks must be boolean and the same for all heads: biases on scores are not supported"
        refused(model, text, lambda m: m(arguments["input_ids"], attention_mask=torch.zeros(2, 1, 12, 12)))
        model.train()
        refused(model, "pruned attention has no dropout: call model.eval()", lambda m: m(**arguments))


def test_masks_of_single_layers_are_refused():
    sizes = support.SIZES | {
        "pad_token_id": 0,
        "cls_token_id": 1,
        "sep_token_id": 2,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    model = ModernBertModel(ModernBertConfig(vocab_size=64, local_attention=4, **sizes)).eval()
    with prune(model, PruningPolicy()):
        text = "layers with masks of their own, as for sliding windows, are not supported"
        refused(model, text, lambda m: m(torch.ones(1, 12, dtype=torch.long)))


def test_softcaps_are_refused():
    model = build("bert")
    with prune(model, PruningPolicy()):
        q = torch.zeros(1, 4, 2, 8)
        text = "pruned attention does not support softcap, which BertSelfAttention uses"
        refused(model, text, lambda m: pruned_attention(m.encoder.layer[0].attention.self, q, q, q, None, softcap=3.0))


def test_caches_that_cannot_be_pruned():
    model, arguments = build("gpt2"), inputs("gpt2")
    used = model(**arguments, use_cache=True).past_key_values
    static = StaticCache(model.config, max_cache_len=20)
    with prune(model, PruningPolicy()):
        for cache in (used, static):
            text = "pruned attention needs an empty DynamicCache of plain layers, without sliding windows, not "
            with pytest.raises(UserError, match=text), torch.no_grad():
                model(arguments["input_ids"][:, :1], past_key_values=cache)
        with pytest.raises(UserError, match="cannot change its batch, as beam search does"):
            model.generate(**arguments, num_beams=2, max_new_tokens=3, do_sample=False, pad_token_id=0)
        mine = DynamicCache()
        model(**arguments, past_key_values=mine)
        with pytest.raises(UserError, match="cannot be shortened"):
            mine.crop(-1)

"""Layers with rotary positions as modules of ours: those of transformers in float32, at any position."""

import pytest
import torch
from transformers import LlamaConfig, LlamaModel, Qwen2Config, Qwen2Model

from scheduler.attention.encoders import encoder_of

SIZES = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 96, "vocab_size": 60}
SCALED = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0}
SCALED |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (LlamaModel, LlamaConfig(**SIZES)),
        (LlamaModel, LlamaConfig(**SIZES, rope_parameters=SCALED)),
        (Qwen2Model, Qwen2Config(**SIZES)),
    ],
    ids=["llama", "llama3", "qwen2"],
)
def test_layers_are_those_of_transformers(kind, config, kv_heads):
    torch.manual_seed(0)
    config.num_key_value_heads = kv_heads
    model = kind(config).eval()
    for name, value in model.named_parameters():
        if name.endswith(("bias", "norm.weight")):
            torch.nn.init.normal_(value, 1.0, 0.5)
    words, positions = torch.randint(0, 60, (1, 9)), torch.arange(40, 49)[None]
    encoder = encoder_of(model)
    with torch.no_grad():
        wanted = model(input_ids=words, position_ids=positions).last_hidden_state
        hidden = encoder.body(encoder.embed(input_ids=words), *encoder.body.tables(40, 9))
        torch.testing.assert_close(model.norm(hidden), wanted, atol=1e-4, rtol=1e-4)

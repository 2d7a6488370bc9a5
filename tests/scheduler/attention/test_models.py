"""Other models than BERT: normalisation before each part (ViT), causal attention of a prompt (GPT-2)."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import GPT2Model, ViTConfig, ViTModel

from hwgen.arch import UserError
from models.attention import PruningPolicy, Quantization, Schedule
from tests.scheduler.attention.support import Case, check, gpt2, run

PRUNED = PruningPolicy(
    tokens=Schedule(shares=(1.0, 0.5)),
    heads=Schedule(shares=(1.0, 0.5)),
    quantization=Quantization.parse("8+4", threshold=0.2),
    recent=3,
)


def vit() -> Case:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 64}
    config = ViTConfig(**sizes, image_size=32, patch_size=8, initializer_range=0.2)
    return Case.of(ViTModel(config, add_pooling_layer=False).eval(), {"pixel_values": torch.randn(1, 3, 32, 32)})


def last_norm(model: nn.Module, hidden: np.ndarray) -> np.ndarray:
    """What the host does behind the layers."""
    norm = model.ln_f if isinstance(model, GPT2Model) else model.layernorm
    with torch.no_grad():
        return norm(torch.from_numpy(hidden)).numpy()


@pytest.mark.parametrize("make", [vit, lambda: gpt2(14)], ids=["vit", "gpt2"])
@pytest.mark.parametrize("policy", [PruningPolicy(), PRUNED], ids=["whole", "pruned"])
def test_models(make, policy):
    case = make()
    program = case.compile(policy)
    check(program)
    hidden, positions = run(program, case.hidden)
    wanted, kept = case.pruned(policy)
    assert positions.tolist() == kept.tolist()
    np.testing.assert_allclose(last_norm(case.model, hidden), wanted, atol=0.02)


def test_a_causal_model_keeps_its_last_tokens():
    case = gpt2(14)
    _, positions = run(case.compile(PRUNED), case.hidden)
    assert positions.tolist()[-3:] == [11, 12, 13]


def test_prompts_are_not_pruned_before_the_first_layer():
    with pytest.raises(UserError, match=r"^layer 0 must keep all tokens: before it runs no score is known$"):
        gpt2(14).compile(PruningPolicy(tokens=Schedule(shares=(0.5, 0.5))))


def test_caps_of_values_need_rows_of_one_length():
    with pytest.raises(UserError, match=r"^the schedule of values has caps: rows of causal attention see different"):
        gpt2(14).compile(PruningPolicy(values=Schedule(caps=(5, 5))))

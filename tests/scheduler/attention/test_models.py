"""Other models than BERT: ViT, and prompts of GPT-2, and of GPTBigCode, Llama and Qwen2, whose heads share keys."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import ViTConfig, ViTModel

from hwgen.arch import UserError
from models.attention import PruningPolicy, Quantization, Schedule
from models.attention.attention import Magnitudes
from scheduler.attention.capture import capture_encoder
from scheduler.attention.lower import compile_encoder
from tests.scheduler.attention.support import TINY, Case, big_code, check, gpt2, llama, run

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
    norm = next(part for name, part in model.named_children() if name in ("layernorm", "ln_f", "norm"))
    with torch.no_grad():
        return norm(torch.from_numpy(hidden)).numpy()


MODELS = {
    "vit": vit,
    "gpt2": lambda: gpt2(14),
    "big code": lambda: big_code(14),
    "llama": lambda: llama(14),
    "qwen2": lambda: llama(14, kind="Qwen2"),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("policy", [PruningPolicy(), PRUNED], ids=["whole", "pruned"])
def test_models(make, policy):
    case = make()
    program = case.compile(policy)
    check(program)
    hidden, positions = run(program, case.hidden)
    wanted, kept = case.pruned(policy)
    assert positions.tolist() == kept.tolist()
    errors = last_norm(case.model, hidden) - wanted
    assert np.abs(errors).max() < (0.04 if policy.quantization else 0.02)
    assert np.sqrt((errors**2).mean()) < 0.01


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


class Grouped(nn.Module):
    """Attention whose heads of queries share heads of keys and values, and a residual."""

    def __init__(self, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.counts = heads, kv_heads, kv_heads
        self.parts = nn.ModuleList(nn.Linear(16 * heads, 16 * count) for count in self.counts)
        self.last = nn.Linear(16 * heads, 16 * heads)

    def split(self, hidden: torch.Tensor) -> list[torch.Tensor]:
        """Queries, keys and values, [1, heads, tokens, 16]."""
        shaped = (part(hidden).unflatten(2, (count, 16)) for part, count in zip(self.parts, self.counts, strict=True))
        return [one.transpose(1, 2) for one in shaped]

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        result = scaled_dot_product_attention(*self.split(hidden), enable_gqa=True)
        return hidden + self.last(result.transpose(1, 2).flatten(2))


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (4, 1), (3, 3)])
def test_grouped_queries_are_pytorch_in_float32(heads, kv_heads):
    torch.manual_seed(0)
    module, hidden = Grouped(heads, kv_heads), torch.randn(1, 11, 16 * heads)
    with torch.no_grad():
        largest = [one.abs().amax((2, 3)) for one in module.split(hidden)]
        wanted = module(hidden)[0].numpy()
    program = compile_encoder(capture_encoder(module, hidden), TINY, PruningPolicy(), [Magnitudes(*largest)])
    check(program)
    np.testing.assert_allclose(run(program, hidden)[0], wanted, atol=0.01)

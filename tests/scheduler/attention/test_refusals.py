"""What cannot be compiled says so in one sentence."""

import dataclasses
import re
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import LlamaConfig, LlamaModel, MistralConfig, MistralModel

from hwgen.arch import UserError, load
from models.attention import PruningPolicy, Quantization, Schedule
from models.pattern import Pattern
from scheduler.attention.capture import capture_encoder
from scheduler.attention.encoders import encoder_of
from tests.scheduler.attention.support import TINY, Case, llama

DYNAMIC = partial(LlamaConfig, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0})


@pytest.fixture(scope="module")
def case() -> Case:
    return Case.bert(12)


class Layer(nn.Module):
    """Attention of one projection, as a test wants it."""

    def __init__(self, *, heads: int = 2, size: int = 16, **options: object) -> None:
        super().__init__()
        self.heads, self.options = heads, options
        self.project = nn.Linear(heads * size, heads * size)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = hidden.shape
        parts = self.project(hidden).view(batch, tokens, self.heads, -1).transpose(1, 2)
        result = scaled_dot_product_attention(parts, parts, parts, **self.options)
        return hidden + result.transpose(1, 2).reshape(batch, tokens, width)


class Shared(Layer):
    """Two heads of queries, one of keys, and nothing that says so."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        parts = self.project(hidden).unflatten(2, (self.heads, -1)).transpose(1, 2)
        result = scaled_dot_product_attention(parts, parts[:, :1], parts[:, :1])
        return hidden + result.transpose(1, 2).flatten(2)


class Sine(nn.Module):
    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden.sin()


@pytest.mark.parametrize(
    ("module", "shape", "text"),
    [
        (Layer(size=24), (1, 5, 48), "heads of 24 elements: multiples of 16 from 16 to 128 are allowed"),
        (Layer(size=144), (1, 5, 288), "heads of 144 elements: multiples of 16 from 16 to 128 are allowed"),
        (Layer(), (2, 5, 32), "a program is for one sequence, not 2"),
        (
            Layer(attn_mask=torch.ones(5, 5, dtype=torch.bool)),
            (1, 5, 32),
            "it has a mask; allowed are none and is_causal",
        ),
        (Shared(), (1, 5, 32), "2 heads of queries and 1 of keys: say enable_gqa=True if they are grouped"),
        (Layer(dropout_p=0.1), (1, 5, 32), "attention with dropout has no lowering"),
        (Sine(), (1, 5, 32), "the model needs 1 operator that cannot be lowered: aten.sin.default"),
        (nn.Flatten(1), (1, 5, 32), "an encoder must return hidden states [1, tokens, features], not [1, 160]"),
    ],
)
def test_modules(module, shape, text):
    with pytest.raises(UserError, match=re.escape(text)):
        capture_encoder(module, torch.randn(shape))


def test_inputs():
    with pytest.raises(UserError, match=r"^an encoder is captured with hidden states: a floating-point tensor"):
        capture_encoder(Sine(), torch.zeros(1, 5, dtype=torch.int64))
    with pytest.raises(UserError, match=r"^a model must be a torch.nn.Module, not str$"):
        capture_encoder("bert", torch.zeros(1, 5, 32))


@pytest.mark.parametrize(
    ("kind", "config", "text"),
    [
        (
            MistralModel,
            MistralConfig,
            "MistralModel has rotary positions of kind default: there are lowerings for those",
        ),
        (
            LlamaModel,
            DYNAMIC,
            "LlamaModel has rotary positions of kind dynamic: there are lowerings for those of Llama",
        ),
    ],
)
def test_rotary_positions(kind, config, text):
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 64}
    with pytest.raises(UserError, match=re.escape(text)):
        encoder_of(kind(config(**sizes, num_key_value_heads=2, vocab_size=60)))


def test_tables_of_positions():
    case = llama(5)
    program = case.compile(PruningPolicy())
    text = r"^tables of positions must be \[5, 32\], \[5, 32\], \[5, 16\], \[5, 16\], not \[\[5, 32\]\]$"
    with pytest.raises(UserError, match=text):
        program.write_tables(program.image(), [case.encoder.body.tables(0, 5)[0][0].numpy()])


def test_layers(case):
    with pytest.raises(UserError, match=r"^the model has 2 layers: 1 to 2 of them can run, not 3$"):
        encoder_of(case.model, layers=3)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"max_heads": 1}, "the model has 2 heads, attention.max_heads of tiny_attention is 1"),
        ({"max_length": 16}, None),
        ({"max_length": 8}, "attention.max_length must be a power of two between 16 and 16384, not 8"),
    ],
)
def test_sizes(case, settings, text):
    def compiled():
        return case.compile(
            PruningPolicy(), dataclasses.replace(TINY, attention=dataclasses.replace(TINY.attention, **settings))
        )

    if text is None:
        assert compiled().kept
    else:
        with pytest.raises(UserError, match=re.escape(text)):
            compiled()


def test_length():
    case = Case.bert(17)
    small = dataclasses.replace(TINY, attention=dataclasses.replace(TINY.attention, max_length=16))
    with pytest.raises(UserError, match=r"^the sequence has 17 tokens, attention.max_length of tiny_attention is 16$"):
        case.compile(PruningPolicy(), small)


def test_no_engine(case):
    text = r"^architecture sat32 has no attention engine: add an `attention:` section, or take one of [a-z0-9_, ]+$"
    with pytest.raises(UserError, match=text):
        case.compile(PruningPolicy(), load("sat32"))


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (PruningPolicy(tokens=Schedule(thresholds=(0, 0.5))), "the schedule of tokens has thresholds"),
        (PruningPolicy(values=Schedule(thresholds=(0, 0.5))), "the schedule of values has thresholds"),
        (PruningPolicy(heads=Schedule(shares=(1.0,))), "the schedule of heads has 1 layers, the model 2"),
        (PruningPolicy(tokens=Schedule(shares=(0.5, 0.5))), "layer 0 must keep all tokens"),
    ],
)
def test_policies(case, policy, text):
    with pytest.raises(UserError, match=re.escape(text)):
        case.compile(policy)


def test_calibration(case):
    with pytest.raises(UserError, match=r"^1 layers are calibrated, the model has 2$"):
        dataclasses.replace(case, magnitudes=case.magnitudes[:1]).compile(PruningPolicy())


def test_calibration_of_another_model(case):
    others = Case.bert(12, heads=4).magnitudes
    with pytest.raises(UserError, match=r"^magnitudes of query must be \[1, 2\], not \[1, 4\]: calibrate the model$"):
        dataclasses.replace(case, magnitudes=others).compile(PruningPolicy())


def test_no_attention():
    body = nn.Sequential(nn.Linear(32, 32), nn.ReLU())
    graph = capture_encoder(body, torch.randn(1, 5, 32))
    with pytest.raises(UserError, match=r"^the model has no attention: nothing calls scaled_dot_product_attention$"):
        dataclasses.replace(Case.bert(12), graph=graph).compile(PruningPolicy())


def test_groups_of_weights(case):
    with pytest.raises(UserError, match=r"^groups of 32 weights are too large: array.group_max is 16$"):
        case.compile(PruningPolicy(), pattern=Pattern(2, 32))
    program = case.compile(PruningPolicy(), pattern=Pattern(2, 8), dense=("layer.0.output.dense.weight",))
    assert program.places.notes == {"layer.0.output.dense.weight": "dense: it is named in `dense`"}


def test_input_of_a_program(case):
    program = case.compile(PruningPolicy(quantization=Quantization()))
    with pytest.raises(UserError, match=r"^hidden states must be finite numbers of shape \[12, 32\]$"):
        program.image(case.hidden[0].numpy()[:5])

"""Files with functions that return small encoders, for the job and the command `encode`."""

from pathlib import Path

MODELS = """\
import torch
from transformers import BertConfig, BertModel, CLIPVisionConfig, CLIPVisionModel
from transformers import GPT2Config, GPT2Model, ViTConfig, ViTModel

SIZES = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 64}


def bert(tokens=17, **sizes):
    config = BertConfig(**SIZES | sizes, vocab_size=60, initializer_range=0.2)
    return BertModel(config, add_pooling_layer=False), {"input_ids": torch.randint(0, 60, (1, tokens))}


def padded():
    model, inputs = bert()
    mask = torch.ones(1, 17, dtype=torch.int64)
    mask[:, 11:] = 0
    return model, inputs | {"attention_mask": mask}


def short():
    model, inputs = bert()
    return model, (inputs["input_ids"][:, :11],)


def long():
    return bert(65)


def one_layer():
    return bert(num_hidden_layers=1)


def vit():
    config = ViTConfig(**SIZES, image_size=32, patch_size=8, initializer_range=0.2)
    return ViTModel(config, add_pooling_layer=False), torch.randn(1, 3, 32, 32)


def gpt2():
    names = {"bos_token_id": None, "eos_token_id": None, "vocab_size": 60, "n_positions": 64}
    model = GPT2Model(GPT2Config(n_embd=32, n_head=2, n_layer=2, initializer_range=0.2, **names))
    return model, {"input_ids": torch.randint(0, 60, (1, 17))}


def batch():
    return bert()[0], torch.zeros(2, 5, dtype=torch.int64)


def empty():
    model, inputs = bert()
    return model, inputs | {"attention_mask": torch.zeros(1, 17, dtype=torch.int64)}


def linear():
    return torch.nn.Linear(4, 4), torch.zeros(1, 4)


def number():
    return bert()[0], 3


def unknown_word():
    return bert()[0], torch.full((1, 5), 60)


def unknown_name():
    return bert()[0], {"words": torch.zeros(1, 5, dtype=torch.int64)}


def clip():
    config = CLIPVisionConfig(**SIZES, image_size=32, patch_size=8)
    return CLIPVisionModel(config), {"pixel_values": torch.randn(1, 3, 32, 32)}


def large():
    model, inputs = bert()
    torch.nn.init.constant_(model.encoder.layer[1].output.LayerNorm.weight, 3e5)
    return model, inputs
"""


def models_file(folder: Path) -> Path:
    """The file in `folder`."""
    path = folder / "encoders.py"
    path.write_text(MODELS)
    return path

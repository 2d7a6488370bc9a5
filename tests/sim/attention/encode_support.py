"""Files with functions that return small models, for the jobs and the commands `encode` and `decode`."""

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


DECODERS = """\
import torch
from transformers import GPT2Config, GPT2ForTokenClassification, GPT2LMHeadModel, GPT2Model
from transformers import LlamaConfig, LlamaForCausalLM

NAMES = {"bos_token_id": None, "eos_token_id": None, "vocab_size": 60}
IDS = torch.arange(3, 12)[None]


def config(**sizes):
    sizes = {"n_embd": 32, "n_head": 2, "n_layer": 2, "n_positions": 80} | sizes
    return GPT2Config(**sizes, initializer_range=0.2, **NAMES)


def gpt2(ids=IDS):
    return GPT2Model(config()), {"input_ids": ids}


def language():
    return GPT2LMHeadModel(config()), IDS


def llama():
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 64}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=2, initializer_range=0.2, **NAMES)), IDS


def padded():
    mask = torch.ones(1, 12, dtype=torch.int64)
    mask[:, 9:] = 0
    model, inputs = gpt2(torch.nn.functional.pad(IDS, (0, 3)))
    return model, inputs | {"attention_mask": mask}


def one():
    return gpt2(IDS[:, :1])


def empty():
    return gpt2(IDS[:, :0])


def masked():
    model, inputs = gpt2()
    return model, inputs | {"attention_mask": torch.zeros_like(IDS)}


def batch():
    return gpt2(IDS.expand(2, -1))


def unknown_word():
    return gpt2(IDS + 60)


def embedded():
    return gpt2()[0], {"inputs_embeds": torch.zeros(1, 9, 32)}


def placed():
    model, inputs = gpt2()
    return model, inputs | {"position_ids": IDS}


def classifier():
    return GPT2ForTokenClassification(config()), IDS


def large():
    model, inputs = gpt2()
    torch.nn.init.constant_(model.h[1].mlp.c_proj.bias, 1e5)
    return model, inputs
"""


def models_file(folder: Path, text: str = MODELS) -> Path:
    """The file in `folder`."""
    path = folder / "models.py"
    path.write_text(text)
    return path

"""Small encoders with random weights, compiled, checked and run on the golden machine."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    GPTBigCodeConfig,
    GPTBigCodeModel,
    LlamaConfig,
    LlamaModel,
    Qwen2Config,
    Qwen2Model,
)

from hwgen.arch import Arch, load
from models.attention import PruningPolicy, prune
from models.attention.attention import Magnitudes
from models.attention.calibrate import calibrate
from models.machine import Machine
from models.memory import Memory
from models.races import check_races
from models.tokens import check_tokens
from scheduler.attention.capture import capture_encoder
from scheduler.attention.encoders import Encoder, encoder_of
from scheduler.attention.lower import compile_encoder
from scheduler.attention.program import EncoderProgram
from scheduler.training.graph.ir import TrainingGraph
from tests.scheduler.support import used

TINY = load("tiny_attention")


def bert(*, layers: int = 2, heads: int = 2, head_size: int = 16, seed: int = 0) -> BertModel:
    """A BERT with weights large enough for attention that is not flat."""
    torch.manual_seed(seed)
    width = heads * head_size
    shape = {"hidden_size": width, "num_attention_heads": heads, "num_hidden_layers": layers}
    config = BertConfig(**shape, intermediate_size=2 * width, vocab_size=60, initializer_range=0.2)
    return BertModel(config, add_pooling_layer=False).eval()


@dataclass
class Case:
    """A model with one sequence: what is needed to compile it and to say what it should give."""

    model: nn.Module
    inputs: dict[str, torch.Tensor]
    encoder: Encoder
    hidden: torch.Tensor
    magnitudes: list[Magnitudes]
    graph: TrainingGraph
    captured: dict[int, TrainingGraph] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module, inputs: dict[str, torch.Tensor]) -> "Case":
        """Calibrated with the sequence itself."""
        encoder = encoder_of(model)
        with torch.no_grad():
            hidden = encoder.embed(**inputs)
        magnitudes = calibrate(model, [inputs])
        tables = encoder.body.tables(0, hidden.shape[1])
        return cls(model, inputs, encoder, hidden, magnitudes, capture_encoder(encoder.body, hidden, *tables))

    @classmethod
    def bert(cls, tokens: int, *, seed: int = 0, **shape: int) -> "Case":
        """Of a random BERT and random words."""
        model = bert(seed=seed, **shape)
        return cls.of(model, {"input_ids": torch.randint(0, 60, (1, tokens))})

    def compile(self, policy: PruningPolicy, arch: Arch = TINY, **options: object) -> EncoderProgram:
        """The program; `options` as for `compile_encoder`."""
        return compile_encoder(self.graph, arch, policy, self.magnitudes, **options)

    def graphs(self, prompt: int) -> tuple[TrainingGraph, TrainingGraph]:
        """Those of a prompt, the first tokens of the sequence, and of one token."""
        for length in (prompt, 1):
            if length not in self.captured:
                tables = self.encoder.body.tables(0, length)
                self.captured[length] = capture_encoder(self.encoder.body, self.hidden[:, :length], *tables)
        return self.captured[prompt], self.captured[1]

    def token(self, position: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """Hidden state and tables of a position, for `write_token`."""
        tables = self.encoder.body.tables(position, 1)
        return self.hidden[0, position : position + 1].numpy(), [table[0].numpy() for table in tables]

    def plain(self) -> np.ndarray:
        """Hidden states [T, D] in float32, nothing pruned."""
        with torch.no_grad():
            return self.model(**self.inputs).last_hidden_state[0].numpy()

    def pruned(self, policy: PruningPolicy) -> tuple[np.ndarray, np.ndarray]:
        """Hidden states and positions of the survivors, by the algorithm in PyTorch with the same scales."""
        with torch.no_grad(), prune(self.model, policy, self.magnitudes) as pruned:
            hidden = self.model(**self.inputs).last_hidden_state[0].numpy()
            return hidden[pruned.live[0]], pruned.positions[0][pruned.live[0]].numpy()


def gpt2(tokens: int, *, layers: int = 2, heads: int = 2, seed: int = 0) -> Case:
    """Of a random GPT-2 with heads of 16 and random words."""
    torch.manual_seed(seed)
    names = {"bos_token_id": None, "eos_token_id": None, "vocab_size": 60, "n_positions": 64}
    config = GPT2Config(n_embd=16 * heads, n_head=heads, n_layer=layers, initializer_range=0.2, **names)
    return Case.of(GPT2Model(config).eval(), {"input_ids": torch.randint(0, 60, (1, tokens))})


def big_code(tokens: int, *, layers: int = 2, heads: int = 2, seed: int = 0) -> Case:
    """As `gpt2`, but all heads of queries share one of keys and values."""
    torch.manual_seed(seed)
    names = {"bos_token_id": None, "eos_token_id": None, "vocab_size": 60, "n_positions": 64}
    config = GPTBigCodeConfig(n_embd=16 * heads, n_head=heads, n_layer=layers, initializer_range=0.2, **names)
    return Case.of(GPTBigCodeModel(config).eval(), {"input_ids": torch.randint(0, 60, (1, tokens))})


def llama(
    tokens: int, *, layers: int = 2, heads: int = 2, seed: int = 0, kv_heads: int = 1, kind: str = "Llama"
) -> Case:
    """Of a random Llama, or Qwen2, whose projections have biases, with heads of 16 and random words."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16 * heads, "num_attention_heads": heads, "num_key_value_heads": kv_heads}
    sizes |= {"num_hidden_layers": layers, "intermediate_size": 32 * heads, "vocab_size": 60, "initializer_range": 0.2}
    config, model = {"Llama": (LlamaConfig, LlamaModel), "Qwen2": (Qwen2Config, Qwen2Model)}[kind]
    module = model(config(**sizes)).eval()
    for name, value in module.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(value)
    return Case.of(module, {"input_ids": torch.randint(0, 60, (1, tokens))})


def check(program: EncoderProgram, image: np.ndarray | None = None) -> None:
    """Tokens and hazards of a program, with the descriptors of a memory image or those of the longest sequence."""
    code = program.code.encode()
    problem = check_tokens(code, program.arch)
    assert problem is None, problem
    race = check_races(code, program.arch, Memory({0: program.image() if image is None else image}))
    assert race is None, race


def run(program: EncoderProgram, hidden: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Hidden states and positions of the survivors after a run on the golden machine."""
    machine = used(Machine(program.arch, {0: program.image(hidden[0].numpy())}))
    machine.run(program.code.encode())
    memory = np.frombuffer(machine.memory.read(0, program.memory_size), np.uint8)
    return program.read_output(memory), program.survivors(memory)

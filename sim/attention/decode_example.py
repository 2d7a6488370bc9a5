"""What `sparseloom decode` compiles, and the host's share of it: embeddings before the layers, words after them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from hwgen.arch import UserError
from models.attention.structure import structure
from models.attention.wrapper import map_first
from scheduler.attention.capture import capture_encoder
from scheduler.attention.lengths import lengths_of
from scheduler.attention.program import Values
from scheduler.boundary import Boundary
from scheduler.training.graph.ir import TrainingGraph
from sim.attention.example import Example, Layers, layers_of

GPT2_RANDOM = "gpt2_random"
SIZES = {"n_embd": 64, "n_head": 4, "n_layer": 4, "n_positions": 64, "bos_token_id": None, "eos_token_id": None}
FIRST, LAST = " ", "~"
"""The words of `gpt2_random` are the printable characters of ASCII."""
NOTE = "random weights: what it writes means nothing"
TEXT = "A cat sleeps in the sun."


def gpt2_random_example(text: str | None, seed: int) -> Example:
    """A small GPT-2 with random weights that reads and writes characters; what it writes means nothing.

    Raises `UserError` for other characters.
    """
    text = TEXT if text is None else text
    for character in text:
        if not FIRST <= character <= LAST:
            raise UserError(f"{GPT2_RANDOM} reads printable ASCII characters, not {character!r}")
    config = GPT2Config(**SIZES, vocab_size=ord(LAST) - ord(FIRST) + 1, initializer_range=0.2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(config).eval()
    ids = torch.tensor([[ord(character) - ord(FIRST) for character in text]], dtype=torch.int64)
    return Example(model, {"input_ids": ids}, ())


def characters(ids: Sequence[int]) -> str:
    """Words of `gpt2_random`, quoted."""
    return repr("".join(chr(ord(FIRST) + token) for token in ids))


def numbers(ids: Sequence[int]) -> str:
    """Words of a model whose words nobody has told."""
    return " ".join(map(str, ids))


@dataclass(frozen=True)
class Decoder:
    """The first layers of a model, captured for its prompt and for one token, and what the host does around them."""

    model: nn.Module
    layers: Layers
    prompt: tuple[int, ...]
    graphs: tuple[TrainingGraph, TrainingGraph]

    @property
    def hidden(self) -> Values:
        """Of the prompt, before the first layer: [T, D]."""
        return self.layers.hidden[0].numpy()

    def token(self, ids: list[int]) -> tuple[Values, list[NDArray[Any]]]:
        """The last token of a sequence before the first layer, [1, D], and what belongs to its position."""
        tables = self.layers.tables(len(ids) - 1, 1)
        return self._embed(ids)[0, -1:].numpy(), [table[0].numpy() for table in tables]

    def plain(self, ids: list[int]) -> Values:
        """Behind the last layer, in float32 with nothing pruned: [T, D]."""
        return self.layers.plain(self._embed(ids)).numpy()

    def _embed(self, ids: list[int]) -> Tensor:
        with torch.no_grad():
            return self.layers.encoder.embed(input_ids=torch.tensor([ids]))

    def choose(self, hidden: Values) -> list[int]:
        """The token that follows each hidden state [T, D] behind the layers: that of the largest score."""
        return self.scores(torch.from_numpy(hidden)).argmax(1).tolist()

    def scores(self, hidden: Tensor) -> Tensor:
        """Scores [T, words] of what may follow: last normalisation and head of the model, in float32.

        A model without a head takes its embeddings of words, as GPT-2 does.
        """
        last = structure(self.model).layers[-1]
        hook = last.register_forward_hook(lambda _, __, output: map_first(output, lambda _: hidden[None]))
        try:
            with torch.no_grad():
                output = self.model(input_ids=torch.zeros(1, len(hidden), dtype=torch.int64), use_cache=False)
        finally:
            hook.remove()
        if hasattr(output, "logits"):
            return output.logits[0]
        return output.last_hidden_state[0] @ self.model.get_input_embeddings().weight.detach().T


def prepare(example: Example, layers: int | None, new_tokens: int) -> Decoder:
    """Embed, calibrate with the prompt, and capture the first `layers` layers, or all of them.

    Raises `UserError` for models that are no decoders or cannot be lowered, and for prompts that leave no room.
    """
    model = example.model
    if not structure(model).causal:
        raise UserError(f"{type(model).__name__} is an encoder, which has no next token: `sparseloom encode` runs it")
    ids = _prompt(example.inputs)
    length = ids.shape[-1]
    if not length:
        raise UserError("the prompt has no tokens")
    _check_positions(model, length, new_tokens)
    inputs = {"input_ids": ids}
    ready = layers_of(Example(model, inputs, (inputs,)), layers)
    graphs = [
        capture_encoder(ready.encoder.body, ready.hidden[:, :count], *ready.tables(0, count)) for count in (length, 1)
    ]
    decoder = Decoder(model, ready, tuple(ids.flatten().tolist()), tuple(graphs))
    _check_head(decoder)
    return decoder


def _prompt(inputs: dict[str, Tensor]) -> Tensor:
    """Token numbers [1, T] without padding."""
    unknown = [name for name in inputs if name not in ("input_ids", "attention_mask")]
    if unknown or "input_ids" not in inputs:
        raise UserError(
            f"the inputs of a decoder are input_ids, perhaps with an attention_mask, not {', '.join(inputs) or 'none'}"
        )
    ids = inputs["input_ids"]
    if "attention_mask" in inputs:
        ids = ids[..., : lengths_of(inputs["attention_mask"])[0]]
    return ids


def _check_positions(model: nn.Module, length: int, new_tokens: int) -> None:
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if most is not None and length + new_tokens > most:
        raise UserError(
            f"a prompt of {length} tokens and {new_tokens} new ones are {length + new_tokens}, "
            f"{type(model).__name__} has positions for {most}"
        )


def _check_head(decoder: Decoder) -> None:
    """Raise `UserError` unless the model gives scores of words."""
    name, words = type(decoder.model).__name__, decoder.model.get_input_embeddings().num_embeddings
    with Boundary(f"{name} cannot score words"):
        scores = decoder.scores(decoder.layers.hidden[0])
    if scores.shape != (len(decoder.prompt), words):
        raise UserError(
            f"{name} gives no score for each of its {words} words: decode takes models with a language head, such as "
            "GPT2LMHeadModel, or with none, such as GPT2Model"
        )

"""Models of `transformers`: the part that a program runs, and the embeddings that the host computes before it."""

import copy
from dataclasses import dataclass

from torch import Tensor, nn
from transformers.activations import NewGELUActivation

from hwgen.arch import UserError
from models.attention.structure import structure
from scheduler.attention.rotary import RotaryBody, rotary_body


class Body(nn.Module):
    """The layers of a model, from hidden states to hidden states, without a normalisation behind the last one."""

    def __init__(self, layers: tuple[nn.Module, ...]) -> None:
        super().__init__()
        self.layer = nn.ModuleList(map(with_whole_gelu, layers))

    def forward(self, hidden: Tensor) -> Tensor:
        """[1, T, D] -> [1, T, D]."""
        for layer in self.layer:
            hidden = first_of(layer(hidden))
        return hidden

    def tables(self, first: int, count: int) -> tuple[Tensor, ...]:
        """What `forward` needs beside hidden states for `count` positions from `first` on: nothing."""
        return ()


@dataclass(frozen=True)
class Encoder:
    """`body` runs on the chip; its input is what `embed` makes of the model's inputs."""

    model: nn.Module
    first: nn.Module
    """The model's first layer."""
    body: Body | RotaryBody

    def embed(self, **inputs: Tensor) -> Tensor:
        """Hidden states [1, T, D] before the first layer: embeddings of words (or patches), positions and types."""
        found: list[Tensor] = []

        def note(_: nn.Module, args: tuple, kwargs: dict) -> None:
            found.append(kwargs["hidden_states"] if "hidden_states" in kwargs else args[0])

        hook = self.first.register_forward_pre_hook(note, with_kwargs=True)
        try:
            self.model(**inputs)
        finally:
            hook.remove()
        return found[0]


def first_of(output: Tensor | tuple) -> Tensor:
    """Hidden states of what a layer returns."""
    return output[0] if isinstance(output, tuple) else output


def with_whole_gelu(layer: nn.Module) -> nn.Module:
    """A layer that writes out the formula of GELU by tanh, as GPT-2 does, with PyTorch's operator for it instead."""
    if not any(isinstance(part, NewGELUActivation) for part in layer.modules()):
        return layer
    layer = copy.deepcopy(layer)
    for part in list(layer.modules()):
        for name, child in part.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(part, name, nn.GELU(approximate="tanh"))
    return layer


def encoder_of(model: nn.Module, layers: int | None = None) -> Encoder:
    """The layers of a model that `models.attention` can prune, or the first few of them.

    The model's attention function becomes `sdpa`. Raises `UserError` for other models.
    """
    parts = structure(model).layers
    if layers is not None and not 1 <= layers <= len(parts):
        raise UserError(f"the model has {len(parts)} layers: 1 to {len(parts)} of them can run, not {layers}")
    body = rotary_body(model, parts[:layers]) or Body(parts[:layers])
    model.set_attn_implementation("sdpa")
    return Encoder(model, parts[0], body)

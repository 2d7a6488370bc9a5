"""Decoders of Llama's kind as modules that can be lowered: queries and keys turned by their positions.

Turning x in halves (x1, x2) is x * cos + (-x2, x1) * sin. The second operand is a projection too, with the rows of the
weight moved, so that nothing moves on the chip; cosines and sines of the positions come from the host, row by row.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm, scaled_dot_product_attention

from hwgen.arch import UserError

LAYERS = ("LlamaDecoderLayer", "Qwen2DecoderLayer")
TYPES = ("default", "linear", "llama3")
"""Kinds of rotation whose angles do not depend on the length of the sequence."""


class Turned(nn.Module):
    """A projection [1, T, D] -> [1, T, heads x size], turned by cosines and sines of this shape."""

    def __init__(self, linear: nn.Linear, size: int) -> None:
        super().__init__()
        self.straight, self.other = linear, nn.Linear(linear.in_features, linear.out_features, linear.bias is not None)
        with torch.no_grad():
            self.other.weight.copy_(_other_half(linear.weight, size))
            if linear.bias is not None:
                self.other.bias.copy_(_other_half(linear.bias, size))

    def forward(self, hidden: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """The turned projection."""
        return self.straight(hidden) * cosine + self.other(hidden) * sine


def _other_half(rows: Tensor, size: int) -> Tensor:
    """Rows of each head (x1, x2) as (-x2, x1)."""
    first, second = rows.unflatten(0, (-1, 2, size // 2)).unbind(1)
    return torch.stack([-second, first], 1).flatten(0, 2)


class Layer(nn.Module):
    """One layer, with the parts of the model's own."""

    def __init__(self, layer: nn.Module, heads: int, kv_heads: int) -> None:
        super().__init__()
        own = layer.self_attn
        self.size, self.heads, self.kv_heads, self.scale = own.head_dim, heads, kv_heads, own.scaling
        self.query, self.key = Turned(own.q_proj, self.size), Turned(own.k_proj, self.size)
        self.value, self.last, self.feed_forward = own.v_proj, own.o_proj, layer.mlp
        self.norms = nn.ModuleList([layer.input_layernorm, layer.post_attention_layernorm])

    def forward(self, hidden: Tensor, tables: tuple[Tensor, ...]) -> Tensor:
        """[1, T, D] -> [1, T, D]."""
        inner = normalised(self.norms[0], hidden)
        query, key = self.query(inner, *tables[:2]), self.key(inner, *tables[-2:])
        parts = zip((query, key, self.value(inner)), (self.heads, self.kv_heads, self.kv_heads), strict=True)
        parts = [part.unflatten(2, (count, self.size)).transpose(1, 2) for part, count in parts]
        options = {"is_causal": hidden.shape[1] > 1, "scale": self.scale, "enable_gqa": True}
        result = scaled_dot_product_attention(*parts, **options)
        hidden = hidden + self.last(result.transpose(1, 2).flatten(2))
        return hidden + self.feed_forward(normalised(self.norms[1], hidden))


def normalised(norm: nn.Module, hidden: Tensor) -> Tensor:
    """Root mean square normalisation, as one operator."""
    return rms_norm(hidden, (hidden.shape[-1],), norm.weight, norm.variance_epsilon)


class RotaryBody(nn.Module):
    """The layers of a model, from hidden states to hidden states, without the normalisation behind the last one."""

    def __init__(self, model: nn.Module, layers: tuple[nn.Module, ...]) -> None:
        super().__init__()
        config = model.config
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.layer = nn.ModuleList(Layer(layer, self.heads, self.kv_heads) for layer in layers)
        self._angles = [getattr(model, "model", model).rotary_emb]

    def forward(self, hidden: Tensor, *tables: Tensor) -> Tensor:
        """[1, T, D] -> [1, T, D], at the positions of `tables`."""
        for layer in self.layer:
            hidden = layer(hidden, tables)
        return hidden

    def tables(self, first: int, count: int) -> tuple[Tensor, ...]:
        """Cosines and sines for `count` positions from `first` on: [1, count, heads x size], then those for keys."""
        cosine, sine = self._angles[0](self.layer[0].last.weight, torch.arange(first, first + count)[None])
        widths = dict.fromkeys((self.heads, self.kv_heads))
        return tuple(one.repeat(1, 1, heads).float() for heads in widths for one in (cosine, sine))


def rotary_body(model: nn.Module, layers: tuple[nn.Module, ...]) -> RotaryBody | None:
    """The body of a model with rotary positions; None for others. Raises `UserError` for those without a lowering."""
    rotary = [part for part in model.modules() if "rotary" in type(part).__name__.lower()]
    if not rotary:
        return None
    kind = getattr(rotary[0], "rope_type", "default")
    if type(layers[0]).__name__ not in LAYERS or kind not in TYPES:
        raise UserError(
            f"{type(model).__name__} has rotary positions of kind {kind}: there are lowerings for those of Llama and "
            f"Qwen2 of kind {', '.join(TYPES)}"
        )
    return RotaryBody(model, layers)

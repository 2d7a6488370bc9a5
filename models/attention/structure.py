"""Where the layers of a `transformers` model are and where pruned tokens can leave them."""

from dataclasses import dataclass

from torch import nn

from hwgen.arch import UserError


@dataclass(frozen=True)
class Structure:
    """Parts of a model that pruning looks at."""

    layers: tuple[nn.Module, ...]
    heads: int
    causal: bool
    exits: tuple[nn.Module | None, ...]
    """For each layer: the part after which rows of hidden states can leave, before the feed-forward part; or None."""


def structure(model: nn.Module) -> Structure:
    """Find the parts of an encoder or a decoder. Raises `UserError` for models with both, or without plain layers."""
    config = getattr(model, "config", None)
    if config is None or not hasattr(model, "set_attn_implementation"):
        raise UserError(f"pruned attention wraps models of transformers, not {type(model).__name__}")
    if getattr(config, "is_encoder_decoder", False) or getattr(config, "add_cross_attention", False):
        raise UserError(f"{type(model).__name__} has cross-attention: only encoders and decoders are supported")
    text = config.get_text_config()
    count = getattr(text, "num_hidden_layers", 0)
    stacks = [part for part in model.modules() if isinstance(part, nn.ModuleList) and is_stack(part, count)]
    if len(stacks) != 1:
        raise UserError(f"{type(model).__name__} has {len(stacks)} lists of {count} attention layers, not one")
    layers = tuple(stacks[0])
    return Structure(layers, text.num_attention_heads, is_causal(layers[0]), tuple(map(row_exit, layers)))


def is_stack(part: nn.ModuleList, count: int) -> bool:
    """Whether a list holds the model's layers: as many as the configuration says, each with attention inside."""
    return len(part) == count > 0 and all(attention_of(layer) is not None for layer in part)


def attention_of(layer: nn.Module) -> nn.Module | None:
    """The part of a layer that calls the attention function: the one that says whether it is causal."""
    return next((part for part in layer.modules() if hasattr(part, "is_causal")), None)


def is_causal(layer: nn.Module) -> bool:
    """Whether a query sees earlier tokens only."""
    return bool(attention_of(layer).is_causal)


def row_exit(layer: nn.Module) -> nn.Module | None:
    """Post-norm layers add the residual before the feed-forward part, in a module of their own (BERT, DistilBERT).

    Behind it rows can be dropped. In pre-norm layers the residual passes by all modules: rows leave between layers.
    """
    attention = getattr(layer, "attention", None)
    if hasattr(getattr(attention, "output", None), "LayerNorm"):
        return attention
    return getattr(layer, "sa_layer_norm", None)

"""Run an encoder or decoder of `transformers` pruned: `with prune(model, policy) as pruned: model(**inputs)`.

The model's attention function is replaced through the registry of `transformers`, and hooks on its layers drop rows of
hidden states. Projections, feed-forward parts and everything else stay the model's own.
"""

from collections.abc import Callable
from typing import Any, Self
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache
from transformers.masking_utils import sdpa_mask
from transformers.pytorch_utils import Conv1D

from hwgen.arch import UserError
from models.attention import importance
from models.attention.attention import Attention, Magnitudes, attend
from models.attention.cache import PrunedLayer, adopt
from models.attention.cascade import Cascade, Places, put_rows, take_rows
from models.attention.policy import PruningPolicy
from models.attention.statistics import Dense, Live, Statistics, count
from models.attention.structure import structure

NAME = "sparseloom_pruned"
UNSUPPORTED = ("softcap", "s_aux", "position_bias")
"""Arguments of attention functions that change scores or the softmax."""
_PRUNED: WeakKeyDictionary[nn.Module, "PrunedModel"] = WeakKeyDictionary()


def prune(model: nn.Module, policy: PruningPolicy, magnitudes: list[Magnitudes] | None = None) -> "PrunedModel":
    """Prune `model` in place until `remove()` or the end of a `with` block.

    `magnitudes`: those of each layer, as `calibrate` gives them, for models that quantise; None: of the first pass.
    Raises `UserError` if the policy does not fit the model or the model is not supported.
    """
    return PrunedModel(model, policy, magnitudes)


class PrunedModel:
    """A model under a policy, the statistics of its runs, and the survivors of its last pass."""

    def __init__(self, model: nn.Module, policy: PruningPolicy, magnitudes: list[Magnitudes] | None) -> None:
        self.structure = structure(model)
        policy.check(len(self.structure.layers), self.structure.heads, self.structure.causal)
        if magnitudes is not None and len(magnitudes) != len(self.structure.layers):
            raise UserError(f"{len(magnitudes)} layers are calibrated, the model has {len(self.structure.layers)}")
        if model in _PRUNED:
            raise UserError(f"{type(model).__name__} is pruned already: remove() it first")
        self.model, self.policy, self.magnitudes = model, policy, magnitudes
        self.statistics = Statistics(len(self.structure.layers))
        self.cascade: Cascade | None = None
        self.layer = 0
        self._previous = model.config._attn_implementation
        model.set_attn_implementation(NAME)
        _PRUNED.update(dict.fromkeys(model.modules(), self))
        self._hooks = self._install()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Make the model what it was. The statistics stay."""
        for hook in self._hooks:
            hook.remove()
        for part in self.model.modules():
            _PRUNED.pop(part, None)
        self.model.set_attn_implementation(self._previous)

    @property
    def positions(self) -> Tensor:
        """Positions [B, rows] of the tokens in the rows of the last output. Encoders give survivors only."""
        return self._output_rows.positions

    @property
    def live(self) -> Tensor:
        """Rows [B, rows] of the last output that are survivors: not padding nor, in decoders, pruned tokens."""
        return self._output_rows.live

    def mean(self, hidden: Tensor) -> Tensor:
        """Mean [B, features] of hidden states [B, rows, features] over the surviving tokens; 0 without any."""
        weights = self.live.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)

    def _install(self) -> list[Any]:
        hooks = []
        for number, (layer, way_out) in enumerate(zip(self.structure.layers, self.structure.exits)):
            hooks.append(layer.register_forward_pre_hook(self._enter(number), with_kwargs=True))
            if way_out is not None and number + 1 < len(self.structure.layers):
                hooks.append(way_out.register_forward_hook(self._leave(number)))
            linear = [part for part in layer.modules() if isinstance(part, nn.Linear | Conv1D)]
            hooks += [part.register_forward_hook(self._count_linear(number)) for part in linear]
        return [*hooks, self.structure.layers[-1].register_forward_hook(self._finish)]

    def _enter(self, number: int) -> Callable:
        def hook(_: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            self.layer = number
            if number == 0:
                self._begin_pass(args, kwargs)
            elif self.structure.exits[number - 1] is None:
                index = self.cascade.enter(number)
                args, kwargs = map_hidden(
                    args, kwargs, lambda rows: rows if index is None else take_rows(rows, index, 1)
                )
            return args, self._place(kwargs)

        return hook

    def _leave(self, number: int) -> Callable:
        def hook(_: nn.Module, __: tuple, output: Any) -> Any:
            index = self.cascade.enter(number + 1)
            return output if index is None else map_first(output, lambda rows: take_rows(rows, index, 1))

        return hook

    def _finish(self, _: nn.Module, __: tuple, output: Any) -> Any:
        """Decoders get as many rows back as they had: their callers look for the last token in the last row."""
        self._output_rows = rows = self.cascade.rows
        if not self.structure.causal or rows.live.shape[1] == self.first_rows:
            return output
        places = rows.positions - self.cascade.start
        live = put_rows(rows.live[..., None], places, rows.live, self.first_rows)[..., 0]
        positions = torch.arange(self.first_rows, device=live.device) + self.cascade.start
        self._output_rows = Places(positions.expand_as(live), live)
        return map_first(output, lambda hidden: put_rows(hidden, places, rows.live, self.first_rows))

    def _count_linear(self, number: int) -> Callable:
        def hook(part: nn.Module, _: tuple, output: Tensor) -> None:
            tokens = self.cascade.rows.live
            rows = int(tokens.sum()) if output.shape[:2] == tokens.shape else output[..., 0].numel()
            statistics = self.statistics.layers[number]
            statistics.linear_macs += rows * part.weight.numel()
            statistics.linear_macs_dense += self.entered * part.weight.numel()

        return hook

    def _begin_pass(self, args: tuple, kwargs: dict) -> None:
        caches = [value for value in (*args, *kwargs.values()) if isinstance(value, Cache)]
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        self.cache = caches[0] if caches else None
        kept = getattr(self.cache, "sparseloom_cascade", None)
        if kept is None or not self.cache.get_seq_length():
            layers = len(self.structure.layers)
            kept = Cascade(self.policy, layers, self.structure.heads, self.structure.causal)
            if self.cache is not None:
                if not all(isinstance(layer, PrunedLayer) for layer in self.cache.layers) or not self.cache.layers:
                    adopt(self.cache, layers)
                self.cache.sparseloom_cascade = kept
        self.cascade, self.first_rows = kept, hidden.shape[1]
        kept.begin_pass(hidden.shape[0], hidden.shape[1], hidden.device)
        self.entered = hidden.shape[0] * hidden.shape[1]
        for layer in self.cache.layers if self.cache is not None else ():
            layer.seen = kept.length

    def _place(self, kwargs: dict) -> dict:
        """Position arguments [B or 1, rows of the pass, ...] for the rows that are left."""
        index = self.cascade.rows.positions - self.cascade.start

        def take(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(take, value))
            if not isinstance(value, Tensor) or value.shape[1:2] != (self.first_rows,):
                return value
            return take_rows(value.expand(len(index), *value.shape[1:]), index, 1)

        placed = ("position_ids", "position_embeddings")
        return {name: take(value) if name in placed else value for name, value in kwargs.items()}

    def attention(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float
    ) -> Tensor:
        """Attention of the current layer: [B, H, Q, D] over [B, G, K, D]; returns [B, H, Q, D]."""
        cascade, layer = self.cascade, self.layer
        if layer == 0:
            self._see(mask, module)
        elif mask is not self.given_mask:
            raise UserError("layers with masks of their own, as for sliding windows, are not supported")
        places, index = cascade.drop_keys(layer, self.cache is not None)
        if index is not None:
            key, value = take_rows(key, index, 2), take_rows(value, index, 2)
            if self.cache is not None:
                self.cache.layers[layer].keys, self.cache.layers[layer].values = key, value
        visible = self._visible(places)
        result = attend(
            query,
            key,
            value,
            visible,
            scaling,
            values=None if self.policy.values is None else (self.policy.values, layer),
            quantization=self.policy.quantization,
            magnitudes=self._magnitudes(query, key, value, places.live),
        )
        cascade.add(places, importance.token_addend(result.probabilities), importance.head_addend(result.output))
        self._count(result, visible, places.live, query.shape[1] // key.shape[1])
        return result.output.to(query.dtype)

    def _see(self, mask: Tensor | None, module: nn.Module) -> None:
        """Take the whole mask [B, new, N] of the pass: true where a query sees a key."""
        cascade, self.given_mask = self.cascade, mask
        if mask is None:
            places = torch.arange(cascade.length, device=cascade.valid.device)
            mask = torch.ones(cascade.length - cascade.start, cascade.length, dtype=torch.bool, device=places.device)
            mask = mask & (places <= places[cascade.start :, None]) if getattr(module, "is_causal", False) else mask
            mask = mask[None, None]
        if mask.dtype != torch.bool or mask.shape[1] != 1:
            raise UserError(
                "attention masks must be boolean and the same for all heads: biases on scores are not supported"
            )
        self.mask = mask[:, 0, :, : cascade.length].expand(len(cascade.valid), -1, -1)
        cascade.see(self.mask)
        cascade.enter(0)
        self.entered = int(cascade.rows.live.sum())
        pairs = int((self.mask & cascade.valid[:, None] & cascade.rows.live[..., None]).sum())
        self.dense = Dense(self.entered, int(cascade.valid.sum()), pairs)

    def _magnitudes(self, query: Tensor, key: Tensor, value: Tensor, live: Tensor) -> Magnitudes | None:
        """Largest magnitudes of a layer: calibrated, or those of the tokens of the first pass."""
        if self.policy.quantization is None:
            return None
        if self.magnitudes is not None:
            given = self.magnitudes[self.layer]
            return Magnitudes(*(tensor.expand(len(query), -1) for tensor in (given.query, given.key, given.value)))
        held = self.cascade.magnitudes[self.layer]
        if held is None:
            held = self.cascade.magnitudes[self.layer] = measure(query, key, value, self.cascade.rows.live, live)
        return held

    def _visible(self, places: Places) -> Tensor:
        """Keys that each row sees [B, H, Q, K]: by the model's mask, among what is left."""
        rows = self.cascade.rows
        mask = take_rows(take_rows(self.mask, rows.positions - self.cascade.start, 1), places.positions, 2)
        mask = mask & places.live[:, None] & rows.live[..., None]
        return mask.unsqueeze(1) & self.cascade.live_heads[..., None, None]

    def _count(self, result: Attention, visible: Tensor, keys: Tensor, groups: int) -> None:
        live = Live(self.cascade.rows.live, keys, self.cascade.live_heads)
        self.statistics.layers[self.layer] += count(result, visible, live, groups, self.policy.quantization, self.dense)


def measure(query: Tensor, key: Tensor, value: Tensor, rows: Tensor, keys: Tensor) -> Magnitudes:
    """Largest magnitudes of each head, over live rows [B, Q] and keys [B, K]."""
    largest = [
        (tensor.detach().abs().amax(-1) * live[:, None]).amax(-1)
        for tensor, live in ((query, rows), (key, keys), (value, keys))
    ]
    return Magnitudes(*largest)


def map_hidden(args: tuple, kwargs: dict, change: Callable[[Tensor], Tensor]) -> tuple[tuple, dict]:
    """Change the hidden states, the first argument of every layer."""
    if "hidden_states" in kwargs:
        return args, kwargs | {"hidden_states": change(kwargs["hidden_states"])}
    return (change(args[0]), *args[1:]), kwargs


def map_first(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Change a tensor, or the first one of a tuple."""
    return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)


def pruned_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: object,
) -> tuple[Tensor, None]:
    """The attention function that `transformers` calls; gives [batch, queries, heads, features] and no weights."""
    pruned = _PRUNED.get(module)
    if pruned is None:
        raise UserError(f"{NAME} is set by prune(), not by a model's configuration")
    for name in UNSUPPORTED:
        if others.get(name) is not None:
            raise UserError(f"pruned attention does not support {name}, which {type(module).__name__} uses")
    if dropout:
        raise UserError("pruned attention has no dropout: call model.eval()")
    output = pruned.attention(module, query, key, value, attention_mask, scaling or query.shape[-1] ** -0.5)
    return output.transpose(1, 2).contiguous(), None


def full_mask(*args: object, **kwargs: object) -> Tensor:
    """A boolean mask [batch, 1, queries, keys] in all cases: pruning has to know what is padding."""
    return sdpa_mask(*args, **kwargs | {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False})


AttentionInterface.register(NAME, pruned_attention)
AttentionMaskInterface.register(NAME, full_mask)

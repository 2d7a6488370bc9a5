"""One attention layer with pruned heads, local value pruning and progressive quantisation: plain tensors in and out."""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.attention.policy import Schedule
from models.attention.quantize import (
    Quantization,
    margin,
    may_reach,
    middle,
    planes,
    products,
    quantize,
    scale_of,
)
from models.attention.topk import largest


@dataclass(frozen=True)
class Magnitudes:
    """Largest magnitudes of a layer, which set its scales: queries [B, heads], keys and values [B, KV heads]."""

    query: Tensor
    key: Tensor
    value: Tensor


@dataclass(frozen=True)
class Attention:
    """What a layer gives; B sequences, H query heads, Q queries, K keys, D features."""

    output: Tensor
    """[B, H, Q, D] FP32: probabilities of the kept values times these values, not scaled up again."""
    probabilities: Tensor
    """[B, H, Q, K] FP32: after a second pass with LSBs, before value pruning. 0 where not visible."""
    values_kept: Tensor
    """[B, H, Q, K]: values that a row multiplies."""
    lsb_keys: Tensor
    """[B, H, Q, K]: keys that a row multiplies again with all their bits."""
    values_lsb: Tensor
    """[B, H, Q, K]: kept values whose LSBs a row multiplies."""


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    visible: Tensor,
    scaling: float,
    *,
    values: tuple[Schedule, int] | None = None,
    quantization: Quantization | None = None,
    magnitudes: Magnitudes | None = None,
) -> Attention:
    """Attention of `query` [B, H, Q, D] over `key` and `value` [B, G, K, D], H a multiple of G, FP32.

    `visible` [B, H or 1, Q, K]: a key that is not visible has probability 0; a row without visible keys gives zeros.
    `values`: schedule of local value pruning and the layer; `magnitudes`: needed with `quantization`.
    Queries, keys and values are multiplied as integers if quantised; everything after the integer scores is FP32.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(groups, 1) for tensor in (key.float(), value.float()))
    visible = visible.expand(*query.shape[:3], key.shape[2])
    if quantization is None:
        probabilities = softmax(query.float() @ key.transpose(-1, -2) * scaling, visible)
        lsb_keys = torch.zeros_like(visible)
    else:
        steps = scales(magnitudes, groups, quantization.bits)
        probabilities, lsb_keys = progressive(query, key, visible, scaling, quantization, steps)
    kept = visible if values is None else kept_values(probabilities, visible, *values)
    if quantization is None:
        return Attention((probabilities * kept) @ value, probabilities, kept, lsb_keys, lsb_keys)
    row_lsb = lsb_rows(lsb_keys, quantization.value_lsb)
    integers = quantize(value, steps[2], quantization.bits)
    output = weigh_values(probabilities * kept, integers, row_lsb, quantization) * steps[2]
    return Attention(output, probabilities, kept, lsb_keys, kept & row_lsb)


def scales(magnitudes: Magnitudes, groups: int, bits: int) -> list[Tensor]:
    """Steps [B, H, 1, 1] of queries, keys and values for each query head."""
    repeats = ((magnitudes.query, 1), (magnitudes.key, groups), (magnitudes.value, groups))
    return [scale_of(magnitude, bits).repeat_interleave(n, 1)[..., None, None] for magnitude, n in repeats]


def softmax(scores: Tensor, visible: Tensor) -> Tensor:
    """Softmax over the visible keys; rows without any are 0."""
    scores = scores.masked_fill(~visible, -torch.inf)
    top = scores.amax(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)
    powers = torch.exp(scores - top)
    return powers / powers.sum(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)


def progressive(
    query: Tensor, key: Tensor, visible: Tensor, scaling: float, quantization: Quantization, steps: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Probabilities [B, H, Q, K] from MSBs, from all bits where they are fetched; and keys whose LSBs are fetched."""
    bits, lsb = quantization.bits, quantization.lsb
    query, key = quantize(query, steps[0], bits), quantize(key, steps[1], bits)
    unit = steps[0] * steps[1] * scaling
    coarse = products(query, middle(planes(key, lsb)[0], lsb)).float() * unit
    probabilities = softmax(coarse, visible)
    flat = probabilities.amax(-1, keepdim=True) < quantization.threshold
    fetched = visible & flat
    if quantization.cutoff is not None:
        fetched &= may_reach(probabilities, margin(query, lsb) * unit, quantization.cutoff)
    if fetched.any():
        exact = products(query, key).float() * unit
        probabilities = softmax(torch.where(fetched, exact, coarse), visible)
    return probabilities, fetched


def lsb_rows(lsb_keys: Tensor, when: str) -> Tensor:
    """Rows [B, H, Q, 1] that fetch LSBs of values."""
    fetched = lsb_keys.any(-1, keepdim=True)
    return fetched if when == "with_keys" else torch.full_like(fetched, when == "always")


def weigh_values(weights: Tensor, integers: Tensor, row_lsb: Tensor, quantization: Quantization) -> Tensor:
    """Sums of values in units of their step, from MSBs alone in rows that do not fetch LSBs."""
    coarse = middle(planes(integers, quantization.lsb)[0], quantization.lsb)
    if quantization.value_lsb == "with_keys":
        return torch.where(row_lsb, weights @ integers.float(), weights @ coarse.float())
    return weights @ (integers if quantization.value_lsb == "always" else coarse).float()


def kept_values(probabilities: Tensor, visible: Tensor, schedule: Schedule, layer: int) -> Tensor:
    """Mask of the values that each row keeps: the largest probabilities, or those above a share of the mean, 1/n."""
    seen = visible.sum(-1)
    if schedule.thresholds:
        mean = 1 / seen.clamp(min=1).float()
        return visible & (probabilities >= (mean * schedule.threshold(layer)).unsqueeze(-1))
    counts = torch.tensor([schedule.count(layer, n) for n in range(probabilities.shape[-1] + 1)], device=seen.device)
    k = counts[seen]
    return visible if bool((k == seen).all()) else largest(probabilities, k, visible)

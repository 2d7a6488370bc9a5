"""Top-k as the accelerator computes it: order by an unsigned key, ties to the lower index, original order kept."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hwgen.arch import UserError

SIGN = np.uint32(1 << 31)
NAN_KEY = 2**32 - 1


def order_key(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Unsigned 32-bit keys that sort as FP32 values do: negative values inverted, others with the sign bit set.

    -0 has the key of +0; every NaN has the largest key, above infinity, as `torch.topk` ranks it.
    """
    bits = (values.astype(np.float32) + np.float32(0)).view(np.uint32)
    keys = np.where(bits & SIGN, ~bits, bits | SIGN).astype(np.uint32)
    return np.where(np.isnan(values), np.uint32(NAN_KEY), keys)


def top_k(keys: NDArray[np.integer], k: int) -> NDArray[np.int64]:
    """Indices of the `k` largest of `keys` [n], ascending; of equal keys the lower index. `UserError` if k > n."""
    if not 0 <= k <= len(keys):
        raise UserError(f"k must be between 0 and the {len(keys)} candidates, not {k}")
    return np.sort(np.argsort(-keys.astype(np.int64), kind="stable")[:k])


def largest(scores: Tensor, k: Tensor, candidates: Tensor) -> Tensor:
    """Mask [..., n] of the k [...] largest `scores` [..., n] among `candidates` [..., n], as `top_k` for each row.

    Raises `UserError` if a row has fewer candidates than its k.
    """
    if bool((k > candidates.sum(-1)).any()):
        row = int((k > candidates.sum(-1)).flatten().int().argmax())
        raise UserError(f"row {row} has {int(candidates.sum(-1).flatten()[row])} candidates, too few for its k")
    lowest = -torch.inf if scores.is_floating_point() else torch.iinfo(scores.dtype).min
    order = torch.sort(scores.masked_fill(~candidates, lowest), dim=-1, descending=True, stable=True).indices
    chosen = (torch.arange(scores.shape[-1], device=scores.device) < k.unsqueeze(-1)).expand_as(order)
    # A candidate may equal the filler (-inf): those behind it are no candidates, so the mask drops nothing else.
    return torch.zeros_like(candidates).scatter(-1, order, chosen) & candidates

"""Top-k of many rows at once in PyTorch: the function of `models.topk`, ties to the lower index."""

import torch
from torch import Tensor

from hwgen.arch import UserError


def largest(scores: Tensor, k: Tensor, candidates: Tensor) -> Tensor:
    """Mask [..., n] of the k [...] largest `scores` [..., n] among `candidates` [..., n].

    Raises `UserError` if a row has fewer candidates than its k.
    """
    short = (k > candidates.sum(-1)).flatten()
    if bool(short.any()):
        row = int(short.int().argmax())
        there = int(candidates.sum(-1).flatten()[row])
        raise UserError(f"row {row} has {there} candidates, too few to keep {int(k.flatten()[row])}")
    lowest = -torch.inf if scores.is_floating_point() else torch.iinfo(scores.dtype).min
    order = torch.sort(scores.masked_fill(~candidates, lowest), dim=-1, descending=True, stable=True).indices
    chosen = (torch.arange(scores.shape[-1], device=scores.device) < k.unsqueeze(-1)).expand_as(order)
    return torch.zeros_like(candidates).scatter(-1, order, chosen) & candidates

"""The one function that prunes; every recipe makes its operands with it."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from hwgen.arch import UserError
from models.pattern import Pattern

INPUT, OUTPUT = 1, 0
"""Dimension of input and output channels in the weights of `Linear` (`[out, in]`) and `Conv2d` (`[out, in, h, w]`).

A product reduces over input channels in the forward pass and over output channels when it makes input gradients, so
groups along these two let the accelerator skip in one pass or in the other.
"""


def nm_mask(values: Tensor, pattern: Pattern, dim: int) -> Tensor:
    """Where the `n` largest magnitudes of every `m` consecutive values along `dim` are.

    The definition is that of `models.sparsity.nm_mask`, which is for numpy; tests hold the two equal.
    Equal magnitudes: the lower index is kept (-0 and +0 rank equal). A last group of fewer than `m` values keeps its
    `n` largest too, or all of them when it has `n` or fewer.

    Returns a boolean tensor of the shape of `values`. Raises `UserError` if `dim` is no dimension of `values`, or if a
    value is NaN or infinite (it names the first one).
    """
    if not -values.ndim <= dim < values.ndim:
        raise UserError(f"dim must name one of the {values.ndim} dimensions of the values, not {dim}")
    check_finite(values)
    magnitude = values.detach().abs().movedim(dim, -1)
    length = magnitude.shape[-1]
    # What fills the last group is below every magnitude, so it is kept only where no real value is left.
    groups = pad(magnitude, (0, -length % pattern.m), value=-1.0).unflatten(-1, (-1, pattern.m))
    kept = torch.sort(groups, dim=-1, descending=True, stable=True).indices[..., : pattern.n]
    mask = torch.zeros(groups.shape, dtype=torch.bool, device=values.device).scatter_(-1, kept, True)
    return mask.flatten(-2)[..., :length].movedim(-1, dim)


def check_finite(values: Tensor) -> None:
    """Raise `UserError` naming the position of the first NaN or infinity, if there is one."""
    finite = torch.isfinite(values)
    if not finite.all():
        place = torch.nonzero(~finite)[0].tolist()
        raise UserError(f"values to prune must be finite: element {place} is {values[tuple(place)].item()}")

"""N:M selection: which weights of every group survive. Training, packing and hardware tests share this definition."""

import numpy as np
from numpy.typing import NDArray

from hwgen.arch import UserError


def nm_mask(weights: NDArray[np.floating], n: int, m: int, axis: int = -1) -> NDArray[np.bool_]:
    """Keep the `n` largest magnitudes of every group of `m` consecutive weights along `axis`.

    Equal magnitudes: the lower index is kept (-0 and +0 rank equal). A last group of fewer than `m` weights keeps its
    `n` largest too, or all of them when it has `n` or fewer.

    Returns a boolean array of the shape of `weights`, True where a weight is kept.
    Raises `UserError` if `n` or `m` is out of range, or if a weight is NaN or infinite (it names the first one).
    """
    if not 1 <= n <= m:
        raise UserError(f"N:M sparsity needs 1 <= N <= M, not {n}:{m}")
    if weights.ndim == 0 or not -weights.ndim <= axis < weights.ndim:
        raise UserError(f"axis must name one of the {weights.ndim} dimensions of the weights, not {axis}")
    check_finite(weights)
    magnitude = np.abs(np.moveaxis(weights, axis, -1))
    length = magnitude.shape[-1]
    # Zeros behind the last group lose every tie, so they are kept only where no real weight is left.
    filled = np.pad(magnitude, [(0, 0)] * (magnitude.ndim - 1) + [(0, -length % m)])
    groups = filled.reshape(*filled.shape[:-1], -1, m)
    order = np.argsort(-groups, axis=-1, kind="stable")[..., :n]
    mask = np.zeros(groups.shape, dtype=np.bool_)
    np.put_along_axis(mask, order, True, axis=-1)
    return np.moveaxis(mask.reshape(filled.shape)[..., :length], -1, axis)


def check_finite(weights: NDArray[np.floating], what: str = "weights") -> None:
    """Raise `UserError` naming the position of the first NaN or infinity, if there is one."""
    finite = np.isfinite(weights)
    if not finite.all():
        place = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise UserError(f"{what} must be finite: element {list(place)} is {weights[place]}")

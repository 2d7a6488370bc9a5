"""Golden top-k: which elements of a vector are kept, and how FP32 values become scores."""

import numpy as np
from numpy.typing import NDArray

from hwgen.arch import UserError


def top_k(scores: NDArray[np.integer], k: int) -> NDArray[np.int64]:
    """Indices of the `k` largest of `scores` `[n]` (unsigned), ascending; of equal scores the lower indices.

    Raises `UserError` if `scores` is not a vector of at least one unsigned integer, or `k` is not in 0 ... n.
    """
    scores = np.asarray(scores)
    if scores.ndim != 1 or scores.size == 0 or scores.dtype.kind != "u":
        raise UserError(f"top-k needs a vector of unsigned integers, not {scores.dtype} of shape {list(scores.shape)}")
    if not 0 <= k <= scores.size:
        raise UserError(f"top-k of {scores.size} scores needs k between 0 and {scores.size}, not {k}")
    descending = np.argsort(scores.max() - scores, kind="stable")
    return np.sort(descending[:k])


def keep_mask(scores: NDArray[np.integer], k: int) -> NDArray[np.bool_]:
    """True for the elements that `top_k` keeps, shape `[n]`."""
    mask = np.zeros(len(scores), np.bool_)
    mask[top_k(scores, k)] = True
    return mask


def fp32_scores(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Unsigned scores that rank as FP32 `values` do: both zeros are equal, every NaN is above infinity.

    Raises `UserError` if `values` are not FP32.
    """
    values = np.asarray(values)
    if values.dtype != np.float32:
        raise UserError(f"fp32_scores needs float32 values, not {values.dtype}")
    bits = values.view(np.uint32)
    magnitude = bits & np.uint32(0x7FFFFFFF)
    negative = (bits != magnitude) & (magnitude != 0)
    scores = np.where(negative, ~bits, magnitude | np.uint32(1 << 31))
    return np.where(magnitude > 0x7F800000, np.uint32(0xFFFFFFFF), scores)

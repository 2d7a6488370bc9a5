"""What survives a layer: tokens and heads by their importance, and where the importance of the survivors goes."""

import numpy as np
from numpy.typing import NDArray

from hwgen.arch.attention import SCORE_MAX
from hwgen.arch.errors import UserError
from models.topk import top_k

PROTECTED = SCORE_MAX + 1


def survivors(scores: NDArray[np.int64], keep: int, protected: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
    """Places of the `keep` largest scores, ascending; ties to the lower place, protected ones before all others.

    Raises `UserError` unless 1 <= keep <= number of scores.
    """
    if not 1 <= keep <= len(scores):
        raise UserError(f"at least 1 and at most {len(scores)} of {len(scores)} can be kept, not {keep}")
    ranked = scores if protected is None else np.where(protected, PROTECTED, scores)
    return top_k(ranked.astype(np.uint32), keep)


def compact(scores: NDArray[np.int64], kept: NDArray[np.int64]) -> NDArray[np.int64]:
    """Importance after an encoder layer: that of the survivors moves to their places, the rest is 0."""
    result = np.zeros_like(scores)
    result[: len(kept)] = scores[kept]
    return result

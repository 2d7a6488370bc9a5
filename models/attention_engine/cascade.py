"""What survives a layer: tokens and heads by their importance, and where survivors and later tokens are stored."""

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


class Slots:
    """Key and value cache of a decoder layer: `tokens[s]` is the token in slot s, importance is counted by slot.

    Slots below `used` are read as one range; the next token goes to the free slot if there is one, else to a new one.
    """

    def __init__(self, capacity: int) -> None:
        self.tokens = np.full(capacity, -1, dtype=np.int64)
        self.scores = np.zeros(capacity, dtype=np.int64)
        self.used = 0
        self._free: int | None = None

    def insert(self, token: int) -> int:
        """Slot of a token that arrives. Raises `UserError` when the cache is full."""
        slot = self.used if self._free is None else self._free
        if slot >= len(self.tokens):
            raise UserError(f"a cache of {len(self.tokens)} slots is full")
        self.tokens[slot], self.scores[slot] = token, 0
        self.used, self._free = max(self.used, slot + 1), None
        return slot

    def evict(self, keep: int, recent: int) -> int | None:
        """Free the least important slot if more than `keep` are in use; the `recent` newest tokens stay.

        Ties: the higher slot goes. Gives the token that is gone. Raises `UserError` for more than one too many.
        """
        if self._free is not None or self.used <= keep:
            return None
        if self.used > keep + 1:
            raise UserError(f"{self.used} slots are in use, at most {keep + 1} can be brought down to {keep}")
        newest = self.tokens[: self.used] > self.tokens[: self.used].max() - recent
        kept = survivors(self.scores[: self.used], keep, newest)
        self._free = int(np.setdiff1d(np.arange(self.used), kept)[0])
        gone = int(self.tokens[self._free])
        self.tokens[self._free] = -1
        return gone

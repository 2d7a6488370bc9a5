"""How long a top-k call takes, for any vector: the law that tests hold the hardware to, and that a model can count by.

Cycle 0 takes the command; scores are offered from cycle 1 on without a pause and results are taken at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hwgen.pruning.eliminate import eliminator_latency
from hwgen.pruning.keep import KeepFilter
from hwgen.pruning.quick_select import PASS_OVERHEAD, partition_gap
from hwgen.pruning.radix_select import DECIDE, DIGIT, candidate_gap
from hwgen.pruning.topk import check_method
from hwgen.pruning.words import TopKSizes


def radix_passes(scores: Sequence[int], k: int, *, bits: int, digit: int = DIGIT) -> list[int]:
    """How many elements each pass after the arrival goes through."""
    digits = -(-bits // digit)
    fill, mask = digits * digit - bits, (1 << digit) - 1
    candidates, position, passes = [score << fill for score in scores], digits - 1, []
    while k:
        chosen = [key >> digit * position & mask for key in candidates]
        value = sorted(chosen)[-k]
        above, here = sum(one > value for one in chosen), sum(one == value for one in chosen)
        lower = [place for place in range(position) if len({key >> digit * place & mask for key in candidates}) > 1]
        if above + here == k or not lower:
            return passes
        passes.append(len(candidates))
        candidates = [key for key, one in zip(candidates, chosen) if one == value]
        k, position = k - above, max(lower)
    return passes


def quick_passes(scores: Sequence[int], k: int) -> list[int]:
    """How many elements each pass of quick-select goes through; all are after the arrival."""
    candidates, passes = list(scores), []
    while True:
        passes.append(len(candidates))
        pivot = candidates[(len(candidates) - 1) // 2]
        larger = [score for score in candidates if score > pivot]
        up_to_pivot = len(larger) + candidates.count(pivot)
        if k == 0 or len(larger) < k <= up_to_pivot:
            return passes
        if k <= len(larger):
            candidates = larger
        else:
            candidates, k = [score for score in candidates if score < pivot], k - up_to_pivot


@dataclass(frozen=True)
class CycleLaw:
    """Cycles of the calls of a `TopK` of these parameters; ValueError if there is none."""

    sizes: TopKSizes
    method: str = "radix"
    digit: int = DIGIT

    def __post_init__(self) -> None:
        check_method(self.sizes, self.method, self.digit)

    def words(self, count: int) -> int:
        """Words of `count` elements."""
        return -(-count // self.sizes.width)

    def select(self, scores: Sequence[int], k: int) -> int:
        """Cycles from the last score taken to the decision that ends the search."""
        if self.method == "quick":
            passes, gap = quick_passes(scores, k), partition_gap(self.sizes.width)
            return sum(self.words(count) + PASS_OVERHEAD for count in passes) + gap * (len(passes) - 1)
        return self._radix(radix_passes(scores, k, bits=self.sizes.bits, digit=self.digit))

    def total(self, scores: Sequence[int], k: int, kept: Sequence[int]) -> int:
        """Cycles from the command to the last result beat, both counted; `kept` are the indices that are kept."""
        found = self.words(len(scores)) + self.select(scores, k) + 1
        return found + self._give(len(scores), kept) + 1

    def period(self, scores: Sequence[int], k: int) -> int:
        """Cycles from the command to the next one that can be taken: results leave while the next vector arrives."""
        return self.words(len(scores)) + self.select(scores, k) + 2

    def bound(self, length: int) -> int:
        """Most cycles that `total` can be for `length` elements ("radix")."""
        digits = -(-self.sizes.bits // self.digit)
        return self.words(length) + self._radix([length] * (digits - 1)) + self._give(length, range(length)) + 2

    def refused(self) -> int:
        """Cycles of a bad command."""
        return 2 + KeepFilter.LATENCY + eliminator_latency(self.sizes.width)

    def _radix(self, passes: Sequence[int]) -> int:
        """The arrival's decision and the passes behind it; those after the first read packed candidates."""
        gaps = candidate_gap(self.sizes.width) * max(0, len(passes) - 1)
        return DECIDE + sum(self.words(count) + DECIDE for count in passes) + gaps

    def _give(self, length: int, kept: Sequence[int]) -> int:
        """Cycles from `found` to the last beat: the last word may complete a beat and begin another."""
        end = (self.words(length) - 1) * self.sizes.width
        before = sum(index < end for index in kept)
        spills = before > 0 and self.words(len(kept)) > self.words(before)
        return KeepFilter.LATENCY + self.words(length) - 1 + eliminator_latency(self.sizes.width) + spills

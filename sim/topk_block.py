"""The Verilated top-k engine with calls in and results out."""

import itertools
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from hwgen.pruning.cycles import CycleLaw
from hwgen.pruning.radix_select import DIGIT
from hwgen.pruning.topk import TopK
from hwgen.pruning.words import TopKSizes
from sim.stalls import Stalls, never
from sim.step_block import StepBlock


@dataclass(frozen=True)
class Call:
    """A vector of scores and how many to keep; `length` is what the command says, if it is not their number."""

    scores: Sequence[int]
    k: int
    length: int | None = None


@dataclass
class Result:
    """What came out for a call: cycle in which its command was taken, counts and cycles of its beats, the elements."""

    taken: int
    indices: list[int] = field(default_factory=list)
    scores: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    cycles: list[int] = field(default_factory=list)
    error: bool = False

    @property
    def total(self) -> int:
        """Cycles from the command to the last beat, both counted."""
        return self.cycles[-1] - self.taken + 1


class TopKBlock:
    """A `TopK` that gives indices and scores, Verilated; `law` says how many cycles its calls take."""

    def __init__(self, sizes: TopKSizes, *, method: str = "radix", digit: int = DIGIT) -> None:
        self.sizes, self.law = sizes, CycleLaw(sizes, method, digit)
        self._block = StepBlock(TopK(sizes=sizes, method=method, digit=digit, with_scores=True), "topk")

    def words(self, scores: Sequence[int]) -> list[int]:
        """Bits of the words of a vector; lanes behind its end are all ones."""
        width, bits = self.sizes.width, self.sizes.bits
        filled = [*scores, *[(1 << bits) - 1] * (-len(scores) % width)]
        return [
            sum(score << bits * lane for lane, score in enumerate(filled[start : start + width]))
            for start in range(0, len(filled), width)
        ]

    def run(
        self,
        calls: Iterable[Call],
        *,
        stalls: Stalls = never,
        sink: Stalls = never,
        limit: int = 200_000,
    ) -> list[Result]:
        """Results of `calls`, offered back to back; AssertionError if a held payload changes, or after `limit` cycles.

        stalls : of commands and scores. sink : of results.
        """
        calls, width = list(calls), self.sizes.count_bits
        commands = deque((len(c.scores) if c.length is None else c.length) | c.k << width for c in calls)
        words = deque(word for call in calls for word in self.words(call.scores))
        results, done, held, start = [], 0, None, self._block.cycle
        command_pattern, word_pattern, sink_pattern = stalls(), stalls(), sink()
        showing = [False, False]
        while done < len(calls):
            assert self._block.cycle - start < limit, f"{len(calls) - done} calls have not ended after {limit} cycles"
            for side, queue, pattern in ((0, commands, command_pattern), (1, words, word_pattern)):
                showing[side] = bool(queue) and (showing[side] or not next(pattern))
            ready, cycle = not next(sink_pattern), self._block.cycle
            out = self._block.step(
                command=commands[0] if showing[0] else 0,
                command_valid=showing[0],
                scores=words[0] if showing[1] else 0,
                scores_valid=showing[1],
                o_ready=ready,
            )
            assert held is None or (out["o_valid"] and out["o"] == held), f"cycle {cycle}: a result was not held"
            held = out["o"] if out["o_valid"] and not ready else None
            if showing[0] and out["command_ready"]:
                results.append(Result(cycle))
                commands.popleft()
                showing[0] = False
            if showing[1] and out["scores_ready"]:
                words.popleft()
                showing[1] = False
            if out["o_valid"] and ready:
                done += self._see(results[done], out["o"], cycle)
        assert not words, f"{len(words)} words of scores were not taken"
        return results

    def idle(self) -> bool:
        """One cycle passes; nothing is inside."""
        return not self._block.step(o_ready=1)["busy"]

    def interrupt(self, call: Call, cycles: int) -> None:
        """Offer a call for some cycles, and leave it there."""
        command = len(call.scores) | call.k << self.sizes.count_bits
        for word in itertools.islice(itertools.cycle(self.words(call.scores)), cycles):
            self._block.step(command=command, command_valid=1, scores=word, scores_valid=1, o_ready=0)

    def clear(self) -> None:
        """Forget what is inside."""
        self._block.step(clear=1)

    def _see(self, result: Result, beat: int, cycle: int) -> bool:
        """Add a beat to a result; whether it is the last."""
        sizes, item = self.sizes, self.sizes.index_bits + self.sizes.bits
        tail = beat >> item * sizes.width
        count = tail & (1 << sizes.width.bit_length()) - 1
        last, error = (tail >> sizes.width.bit_length() + place & 1 for place in (0, 1))
        elements = [beat >> item * lane & (1 << item) - 1 for lane in range(count)]
        result.indices += [element & (1 << sizes.index_bits) - 1 for element in elements]
        result.scores += [element >> sizes.index_bits for element in elements]
        result.counts.append(count)
        result.cycles.append(cycle)
        result.error |= bool(error)
        return bool(last)

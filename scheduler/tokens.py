"""Dependencies between instructions -> wait and signal masks.

Between two engines there is one counter, so tokens carry no names: the k-th wait of the receiver takes the token of
the k-th signal of the sender. Why the masks made here are right:

*Matching.* Instructions are visited in program order. An instruction that needs instruction `a` of engine `s` gets a
wait only if `a` is not known to be complete yet, and then `a` gets the signal. What the receiver knows of `s` never
shrinks, so along a pair both the waiting and the signalling instructions have rising program positions: the k-th wait
is matched with the k-th signal. Engines complete in order, so the k-th token also says that everything before it on
`s` is complete.

*Nothing forgotten.* `known` is a lower bound of what is complete when an instruction starts: the knowledge of its
predecessor on the engine joined with that of everything it waits for. A need without a wait is one that `known` covers.

*No deadlock.* Every wait is for an instruction that stands earlier in program order. The first incomplete instruction
of the program therefore has all its tokens, given or on their way, and nobody else can take them: only its own engine
counts them down, in order. The same holds with queues of any depth, because instructions enter them in program order.

*No overflow.* At the moment of the k-th signal of a pair, the waits certainly taken are those of receiver
instructions in `known` of the signaller. If more than `limit` tokens could be pending, one need is added and the
masks are made again: the signaller waits for the instruction that takes token k - limit, if that stands earlier in
the program; otherwise that instruction waits for the signaller itself, which replaces the older tokens by this one.
Both point backwards in program order, so the arguments above still hold; each round adds a need that was not met, so
the rounds end.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from hwgen.arch.isa import Engine

Needs = list[dict[int, int]]
"""For each instruction: engine -> position of the last instruction there that must be complete before it starts."""
_NEVER = -1


@dataclass
class _Masks:
    """Masks of one round, what each instruction knows when it starts, and the tokens of each pair in order."""

    wait: list[int]
    signal: list[int]
    known: list[tuple[int, ...]] = field(default_factory=list)
    tokens: dict[tuple[Engine, Engine], list[tuple[int, int]]] = field(default_factory=dict)


def place_tokens(engines: Sequence[Engine], needs: Needs, limit: int) -> list[tuple[int, int]]:
    """Wait and signal masks of every instruction, in program order.

    `engines` says who executes each instruction; `needs` what it depends on, always earlier positions; at most `limit`
    tokens (at least 1) are ever pending between two engines, however the engines' speeds differ.
    """
    needs = [dict(need) for need in needs]
    while True:
        masks = _assign(engines, needs)
        if not _strengthen(masks, engines, needs, limit):
            return list(zip(masks.wait, masks.signal, strict=True))


def _assign(engines: Sequence[Engine], needs: Needs) -> _Masks:
    masks = _Masks([0] * len(engines), [0] * len(engines))
    latest = {engine: (_NEVER,) * len(Engine) for engine in Engine}
    for position, engine in enumerate(engines):
        known, need = latest[engine], needs[position]
        for source, needed in _uncovered(masks, known, need).items() if need else ():
            masks.wait[position] |= 1 << source
            masks.signal[needed] |= 1 << engine
            masks.tokens.setdefault((source, engine), []).append((needed, position))
            known = _join(known, _completed(masks.known[needed], source, needed))
        masks.known.append(known)
        latest[engine] = _completed(known, engine, position)
    return masks


def _uncovered(masks: _Masks, known: tuple[int, ...], need: dict[Engine, int]) -> dict[Engine, int]:
    """Needs that neither `known` nor another need implies."""
    open_needs = {source: needed for source, needed in need.items() if needed > known[source]}
    if len(open_needs) < 2:
        return open_needs
    return {
        source: needed
        for source, needed in open_needs.items()
        if all(masks.known[other][source] < needed for engine, other in open_needs.items() if engine != source)
    }


def _completed(known: tuple[int, ...], engine: Engine, position: int) -> tuple[int, ...]:
    found = list(known)
    found[engine] = position
    return tuple(found)


def _join(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(map(max, left, right))


def _strengthen(masks: _Masks, engines: Sequence[Engine], needs: Needs, limit: int) -> bool:
    """Add a need for every token that could be one too many; False if there is none."""
    changed = False
    for (source, target), tokens in masks.tokens.items():
        taken = 0
        for number, (sender, _) in enumerate(tokens):
            while taken < number and tokens[taken][1] <= masks.known[sender][target]:
                taken += 1
            if number + 1 - taken > limit:
                receiver = tokens[number - limit][1]
                later, engine, earlier = (sender, target, receiver) if receiver < sender else (receiver, source, sender)
                needs[later][engine] = max(needs[later].get(engine, _NEVER), earlier)
                changed = True
    return changed

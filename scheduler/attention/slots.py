"""Where a decoder's tokens are while they leave layer after layer: what a host does between two tokens.

A token has one row, its slot, in the caches of all layers that hold it, and importance is counted by slot. A layer that
holds h tokens has them in its first h + 1 slots, one of which is free: the same one in all layers, for the next token.
What a layer holds is part of what the layer below holds, so the free slot is among the first ones of every layer.

In the run of a token each layer gives up one slot at most, which becomes its free one. A token that only the upper
layers gave up still stands in their free slot: it moves, with its importance, to the free slot of the lowest layer of
those that hold it, whose own token moves on likewise. All that is known of a sequence is in its memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from hwgen.arch import UserError
from hwgen.arch.attention import FORGET_FRACTION
from models.attention.policy import PruningPolicy
from scheduler.attention.planes import Area, Cache

_Memory = NDArray[np.uint8]
INDEX = "<u2"
"""Of an index list."""


@dataclass(frozen=True)
class Capacity:
    """How many tokens each layer keeps at most, of a sequence of up to `room`."""

    room: int
    most: tuple[int, ...]

    @property
    def rows(self) -> tuple[int, ...]:
        """Slots of each layer."""
        return tuple(min(most + 1, self.room) for most in self.most)

    @property
    def evicts(self) -> bool:
        """Whether a token can come to leave a layer."""
        return self.most[-1] < self.room

    def chooses(self, layer: int) -> bool:
        """Whether a layer can keep fewer tokens than the one below."""
        below = self.most[layer - 1] if layer else self.room
        return self.most[layer] < min(below, self.room)

    def keys(self, before: int) -> tuple[int, ...]:
        """Slots that each layer looks at for the token behind `before` others."""
        return tuple(min(most, before) + 1 for most in self.most)


@dataclass(frozen=True)
class Cut:
    """Addresses in the run of a prompt: importance of the tokens before `layer`, and which `kept` of them it keeps."""

    layer: int
    importance: int
    indices: int
    kept: int


@dataclass
class Places:
    """Addresses of what the host reads and writes."""

    cuts: list[Cut] = field(default_factory=list)
    heads: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Of layers that choose heads: index list and its length, of the prompt."""
    alive: dict[int, int] = field(default_factory=dict)
    """Of the same layers: bits that the run of a token reads."""
    lists: dict[int, int] = field(default_factory=dict)
    """Of layers that choose tokens: the slot that was given up."""
    importance: Area | None = None
    """By slot, as the last run left it."""
    positions: int = 0
    """Of the token in each slot; a table of the host."""
    protected: int = 0
    """Bits of slots that are not given up."""


@dataclass(frozen=True)
class Slots:
    """The host's part in a decoder whose layers keep fewer tokens than there are, or fewer heads."""

    prompt: int
    """Tokens of the prompt."""
    policy: PruningPolicy
    capacity: Capacity
    cache: Cache
    places: Places

    def next(self, memory: _Memory, position: int) -> int:
        """Make room for the token at a position; gives its slot.

        Raises `UserError` unless it is the one behind the tokens that are there.
        """
        if position == self.prompt:
            self._write_heads(memory)
        if not self.capacity.evicts:
            return position
        if position == self.prompt:
            self._arrange(memory)
        newest = int(self._positions(memory).max())
        if newest != position - 1:
            raise UserError(f"the next token is at position {newest + 1}, not {position}")
        free = self._free(memory, position)
        for source, target, layers in reversed(list(chain(free))):
            self._move(memory, source, target, layers)
        self._forget(memory)
        self._scores(memory)[free[-1]] = 0
        self._positions(memory)[free[-1]] = position
        self._protect(memory, position)
        for address in self.places.lists.values():
            _view(memory, address, 1, INDEX)[0] = self.capacity.rows[0]  # The mask that hides nothing.
        return free[-1]

    def _free(self, memory: _Memory, position: int) -> list[int]:
        """The free slot of each layer: that behind its tokens, or what it gave up."""
        if position == self.prompt:
            return [min(most, position) for most in self.capacity.most]
        free, slot = [], position
        for layer, most in enumerate(self.capacity.most):
            if layer in self.places.lists and position > most:
                slot = int(_view(memory, self.places.lists[layer], 1, INDEX)[0])
            free.append(slot)
        return free

    def _move(self, memory: _Memory, source: int, target: int, layers: int) -> None:
        """A token moves to another slot of the lowest `layers` layers."""
        for layer in range(layers):
            for planes in self.cache.of(layer):
                for rows in planes.rows_of(memory):
                    rows[:, target] = rows[:, source]
        for values in (self._scores(memory), self._positions(memory)):
            values[target] = values[source]

    def _arrange(self, memory: _Memory) -> None:
        """Slots of a prompt: first the tokens of the last layer, then what the layer below holds beside them."""
        held, scores = self._prompt_tokens(memory)
        slots = held[-1]
        for here, below in pairwise(reversed(held)):
            slots = np.concatenate([slots, np.setdiff1d(below, here)])
        for layer, tokens in enumerate(held):
            order = np.searchsorted(tokens, slots[: len(tokens)])
            for planes in self.cache.of(layer):
                for rows in planes.rows_of(memory):
                    rows[:, : len(order)] = rows[:, order]
        self._scores(memory)[:] = 0
        self._scores(memory)[: self.prompt] = scores[slots]
        self._positions(memory)[:] = -1
        self._positions(memory)[: self.prompt] = slots

    def _prompt_tokens(self, memory: _Memory) -> tuple[list[NDArray[np.int64]], NDArray[np.uint32]]:
        """Positions that each layer holds, ascending, and the importance of all tokens."""
        held, scores = [np.arange(self.prompt)], np.zeros(self.prompt, np.uint32)
        cuts = {cut.layer: cut for cut in self.places.cuts}
        for layer in range(1, len(self.capacity.most)):
            tokens = held[-1]
            if layer in cuts:
                cut = cuts[layer]
                scores[tokens] = _view(memory, cut.importance, len(tokens), "<u4")
                tokens = tokens[_view(memory, cut.indices, cut.kept, INDEX)]
            held.append(tokens)
        scores[held[-1]] = self._scores(memory)[: len(held[-1])]
        return held, scores

    def _write_heads(self, memory: _Memory) -> None:
        """Which heads are alive in each layer, as the prompt found."""
        for layer, (address, count) in self.places.heads.items():
            bits = sum(1 << int(head) for head in _view(memory, address, count, INDEX))
            _view(memory, self.places.alive[layer], 1, INDEX)[0] = bits

    def _forget(self, memory: _Memory) -> None:
        """Importance fades before each token."""
        factor = round(self.policy.forgetting * (1 << FORGET_FRACTION))
        scores = self._scores(memory)
        scores[:] = scores.astype(np.uint64) * factor >> FORGET_FRACTION

    def _protect(self, memory: _Memory, position: int) -> None:
        """The first tokens and the last ones are not given up."""
        positions = self._positions(memory)
        stay = (positions >= 0) & (positions < self.policy.protect_first)
        stay |= positions > position - self.policy.recent
        bits = np.packbits(stay, bitorder="little")
        memory[self.places.protected : self.places.protected + len(bits)] = bits

    def _positions(self, memory: _Memory) -> NDArray[np.int32]:
        return _view(memory, self.places.positions, self.capacity.rows[0], "<i4")

    def _scores(self, memory: _Memory) -> NDArray[np.uint32]:
        return _view(memory, self.places.importance.address, self.capacity.rows[0], "<u4")


def chain(free: list[int]) -> Iterator[tuple[int, int, int]]:
    """Moves that leave the free slot of the last layer free in all: from, to, and how many of the lowest layers."""
    slot = free[-1]
    for layer in reversed(range(len(free))):
        if free[layer] != slot:
            yield slot, free[layer], layer + 1
            slot = free[layer]


def _view(memory: _Memory, address: int, count: int, kind: str) -> NDArray:
    """Numbers in memory, to be read and written."""
    return memory[address : address + np.dtype(kind).itemsize * count].view(kind)

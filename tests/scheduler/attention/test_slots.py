"""Slots of a decoder against the cascade of the algorithm: random caps, scores and prompts, no machine."""

import numpy as np
import pytest
import torch

from hwgen.arch import UserError
from models.attention import PruningPolicy, Schedule
from models.attention.cascade import Cascade
from models.attention_engine.cascade import survivors
from scheduler.attention.jobs import Operands
from scheduler.attention.planes import Area, Cache, Planes
from scheduler.attention.slots import Capacity, Cut, Places, Slots, chain

HEADS, SIZE = 2, 16
INDICES, SAVED = 1 << 12, 1 << 13


class Bench:
    """A memory with slots, and who does the engine's part in it, with scores that are drawn."""

    def __init__(self, rng: np.random.Generator, policy: PruningPolicy, prompt: int, room: int) -> None:
        self.rng, self.policy, self.prompt, self.layers = rng, policy, prompt, len(policy.tokens.caps)
        least = policy.protect_first + policy.recent
        capacity = Capacity(room, tuple(max(cap, least) for cap in policy.tokens.caps))
        cache, end, operands = Cache(capacity.rows), 1 << 16, Operands(8, True, np.ones(HEADS, np.float32))
        for layer, rows in enumerate(capacity.rows):
            for name in ("key", "value"):
                cache.planes[layer, name] = Planes(end, 0, operands, HEADS, SIZE, rows)
                end += HEADS * rows * (SIZE + SIZE // 2)
        places = Places(importance=Area(0, 0), positions=1 << 10, protected=1 << 11)
        places.lists = {layer: 3072 + 64 * layer for layer in range(self.layers) if capacity.chooses(layer)}
        self.slots, self.memory = Slots(prompt, policy, capacity, cache, places), np.zeros(end, np.uint8)
        self.cascade = Cascade(policy, self.layers, HEADS, causal=True)

    def scores(self) -> np.ndarray:
        return self.memory[: 4 * self.slots.capacity.rows[0]].view("<u4")

    def algorithm(self, new: int) -> tuple[list[list[int]], list[dict[int, int]], list[np.ndarray]]:
        """A pass of the algorithm: positions that each layer holds, what it adds to each, and the scores before it."""
        cascade, held, added, before = self.cascade, [], [], []
        cascade.begin_pass(1, new, torch.device("cpu"))
        for layer in range(self.layers):
            before.append(cascade.scores[0].numpy().copy())
            cascade.enter(layer)
            places, _ = cascade.drop_keys(layer, cached=True)
            held.append(places.positions[0][places.live[0]].tolist())
            addend = torch.from_numpy(self.rng.integers(0, 1 << 20, places.positions.shape))
            added.append(dict(zip(places.positions[0].tolist(), addend[0].tolist(), strict=True)))
            cascade.add(places, addend, torch.zeros(1, HEADS, dtype=torch.int64))
        return held, added, before

    def write(self, layer: int, row: int, position: int) -> None:
        """A key and a value that say whose they are."""
        for planes in self.slots.cache.of(layer):
            for rows in planes.rows_of(self.memory):
                rows[:, row] = position

    def run_prompt(self) -> None:
        held, _, before = self.algorithm(self.prompt)
        for layer, tokens in enumerate(held):
            if layer and len(tokens) < len(held[layer - 1]):
                cut = Cut(layer, SAVED + 512 * layer, INDICES + 128 * layer, len(tokens))
                self.slots.places.cuts.append(cut)
                saved = before[layer][held[layer - 1]].astype("<u4").view(np.uint8)
                self.memory[cut.importance : cut.importance + len(saved)] = saved
                listed = np.searchsorted(held[layer - 1], tokens).astype("<u2").view(np.uint8)
                self.memory[cut.indices : cut.indices + len(listed)] = listed
            for row, position in enumerate(tokens):
                self.write(layer, row, position)
        self.scores()[: len(held[-1])] = self.cascade.scores[0, held[-1]].numpy()

    def run_token(self, position: int) -> None:
        """What the engine does, checked against the algorithm layer by layer."""
        places, capacity = self.slots.places, self.slots.capacity
        slot = self.slots.next(self.memory, position)
        held, added, _ = self.algorithm(1)
        positions, hidden = self.memory[places.positions :][: 4 * capacity.rows[0]].view("<i4"), set()
        for layer, keys in enumerate(capacity.keys(position)):
            self.write(layer, slot, position)
            if layer in places.lists and keys > capacity.most[layer]:
                bits = np.unpackbits(self.memory[places.protected :][: keys + 7 >> 3], bitorder="little")[:keys]
                kept = survivors(self.scores()[:keys].astype(np.int64), keys - 1, bits.astype(np.bool_))
                (gone,) = set(range(keys)) - set(kept.tolist())
                self.memory[places.lists[layer] :][:2].view("<u2")[0] = gone
                hidden = {gone}
            seen = [one for one in range(keys) if one not in hidden]
            assert sorted(positions[seen].tolist()) == held[layer]
            for planes in self.slots.cache.of(layer):
                for rows in planes.rows_of(self.memory):
                    assert (rows[:, seen] == positions[seen].astype(np.uint8)[:, None]).all()
            for one in seen:
                self.scores()[one] += added[layer][positions[one]]


@pytest.mark.parametrize("forgetting", [1.0, 0.75])
def test_layers_hold_what_the_algorithm_keeps(seed, forgetting):
    for case in range(12):
        rng = np.random.default_rng([seed, case])
        prompt, layers = int(rng.integers(2, 24)), int(rng.integers(1, 6))
        caps = np.sort(rng.integers(2, 36, layers))[::-1].tolist()
        caps[0] = max(caps[0], prompt)
        first, recent = int(rng.integers(0, 3)), int(rng.integers(1, 4))
        schedule = Schedule(caps=tuple(caps))
        policy = PruningPolicy(tokens=schedule, protect_first=first, recent=recent, forgetting=forgetting)
        print(f"case {case}: {prompt} tokens, {policy}")
        bench = Bench(rng, policy, prompt, prompt + 30)
        bench.run_prompt()
        for position in range(prompt, prompt + 30):
            bench.run_token(position)


def test_a_row_that_no_layer_holds_moves_nothing():
    assert list(chain([3, 3, 3])) == []
    assert list(chain([9, 5, 5, 2])) == [(2, 5, 3), (5, 9, 1)]


def test_tokens_come_in_their_order():
    policy = PruningPolicy(tokens=Schedule(caps=(9, 4)))
    bench = Bench(np.random.default_rng(0), policy, 6, 12)
    bench.run_prompt()
    bench.run_token(6)
    with pytest.raises(UserError, match=r"^the next token is at position 7, not 8$"):
        bench.slots.next(bench.memory, 8)

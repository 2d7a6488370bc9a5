"""Which tokens and heads of a batch of sequences are still there: scores, survivors, cached keys.

Tokens count by their position in the batch's (padded) sequences, from 0; decoded tokens are appended. A token lives if
every layer below, in this pass and in all earlier ones, kept it: it is chosen among the survivors of the layer below
that the layer's own key cache still holds.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.attention import importance
from models.attention.attention import Magnitudes
from models.attention.policy import PruningPolicy, Schedule
from models.attention.topk import largest


@dataclass(frozen=True)
class Places:
    """Tokens in rows of a tensor: `positions` [B, n]; rows that are padding have `live` [B, n] False."""

    positions: Tensor
    live: Tensor

    def followed_by(self, other: "Places") -> "Places":
        """Rows of both."""
        return Places(torch.cat([self.positions, other.positions], 1), torch.cat([self.live, other.live], 1))

    def take(self, index: Tensor, live: Tensor) -> "Places":
        """Rows `index` [B, k]."""
        return Places(self.positions.gather(1, index), live)


class Cascade:
    """State of the sequences of one batch, from the first pass to the last.

    A pass runs all layers over new tokens: `begin_pass`; `see` in layer 0; for each layer `enter`, `drop_keys`, `add`.
    """

    def __init__(self, policy: PruningPolicy, layers: int, heads: int, causal: bool) -> None:
        self.policy, self.heads, self.causal = policy, heads, causal
        self.caches: list[Places | None] = [None] * layers
        self.layer_heads: list[Tensor | None] = [None] * layers
        self.magnitudes: list[Magnitudes | None] = [None] * layers
        self.valid: Tensor | None = None
        """[B, N] tokens that are no padding."""
        self.passes = 0

    @property
    def length(self) -> int:
        """Tokens so far, padding included."""
        return 0 if self.valid is None else self.valid.shape[1]

    def begin_pass(self, batch: int, new: int, device: torch.device) -> None:
        """Append `new` tokens to each sequence. All count as valid until `see`."""
        start, added = self.length, torch.ones(batch, new, dtype=torch.bool, device=device)
        if self.valid is None:
            self.valid = added[:, :0]
            self.scores = torch.zeros(batch, 0, dtype=torch.int64, device=device)
            self.head_scores = torch.zeros(batch, self.heads, dtype=torch.int64, device=device)
        self.start, self.passes = start, self.passes + 1
        self.valid = torch.cat([self.valid, added], 1)
        self.scores = torch.cat([importance.forget(self.scores, self.policy.forgetting), 0 * added.long()], 1)
        self.alive = self.valid.clone()
        self.live_heads = torch.ones(batch, self.heads, dtype=torch.bool, device=device)
        positions = torch.arange(start, start + new, device=device).expand(batch, -1)
        self.rows = Places(positions, added)

    def see(self, mask: Tensor) -> None:
        """Layer 0: tokens that no query of the pass sees, by `mask` [B, new, N], are padding, and so are their rows."""
        valid = self.valid.clone()
        valid[:, self.start :] = mask[:, :, self.start :].any(1)
        self.valid, self.alive = valid, self.alive & valid
        self.rows = Places(self.rows.positions, valid.gather(1, self.rows.positions))

    def enter(self, layer: int) -> Tensor | None:
        """Choose the tokens and heads of a layer; returns rows of hidden states to keep [B, k], None for all.

        Layer 0 of the first pass has no scores and keeps all. Surviving rows keep their order; sequences with fewer
        survivors than others get padding rows at the end.
        """
        if layer or self.passes > 1:
            self._choose_tokens(layer)
        self._choose_heads(layer)
        live = self.rows.live & self.alive.gather(1, self.rows.positions)
        if bool((live == self.rows.live).all()):
            return None
        index = compact(live)
        self.rows = self.rows.take(index, live.gather(1, index))
        return index

    def drop_keys(self, layer: int, cached: bool) -> tuple[Places, Tensor | None]:
        """Tokens of the layer's keys (cached ones, then the pass's rows) after pruning; rows to take, None for all."""
        old = self.caches[layer] if cached else None
        places = self.rows if old is None else old.followed_by(self.rows)
        live = places.live & self.alive.gather(1, places.positions)
        index = None
        if bool((~live).any()):
            index = compact(live)
            places = places.take(index, live.gather(1, index))
        if cached:
            self.caches[layer] = places
        return places, index

    def add(self, places: Places, token_addend: Tensor, head_addend: Tensor) -> None:
        """Add a layer's importance of keys [B, K] at `places`, and of heads [B, H]."""
        added = torch.zeros_like(self.scores).scatter_add(1, places.positions, token_addend * places.live)
        self.scores = importance.accumulate(self.scores, added)
        self.head_scores = importance.accumulate(self.head_scores, head_addend)

    def _choose_tokens(self, layer: int) -> None:
        candidates = self.alive
        old = self.caches[layer]
        if old is not None:
            held = (
                torch.zeros_like(candidates[:, : self.start].long()).scatter_add(1, old.positions, old.live.long()) > 0
            )
            candidates = torch.cat([held, torch.ones_like(candidates[:, self.start :])], 1) & candidates
        if self.policy.tokens is not None:
            scores = importance.protect(self.scores, self._protected(layer) & candidates)
            candidates = chosen(self.policy.tokens, layer, scores, candidates, self.valid.sum(1))
        self.alive = candidates

    def _protected(self, layer: int) -> Tensor:
        """The first tokens, a causal model's last ones, and tokens that no layer has seen yet."""
        rank = self.valid.cumsum(1)
        protected = rank <= self.policy.protect_first
        if self.causal:
            protected = protected | (rank > self.valid.sum(1, keepdim=True) - self.policy.recent)
        if layer == 0:
            protected = protected | (torch.arange(self.length, device=rank.device) >= self.start)
        return protected & self.valid

    def _choose_heads(self, layer: int) -> None:
        kept = self.layer_heads[layer]
        if kept is None:
            kept = self.live_heads
            if layer and self.policy.heads is not None:
                total = torch.full((len(kept),), self.heads, device=kept.device)
                kept = chosen(self.policy.heads, layer, self.head_scores, kept, total)
            self.layer_heads[layer] = kept
        self.live_heads = self.live_heads & kept


def chosen(schedule: Schedule, layer: int, scores: Tensor, candidates: Tensor, total: Tensor) -> Tensor:
    """Mask [B, n] of the candidates that a layer keeps of `total` [B]; protected ones (`PROTECTED`) always."""
    protected = candidates & (scores == importance.PROTECTED)
    if schedule.thresholds:
        counted = scores.clamp(max=importance.SCORE_MAX) * candidates
        share = round(schedule.threshold(layer) * 256)
        enough = counted * candidates.sum(1, keepdim=True) * 256 >= share * counted.sum(1, keepdim=True)
        return candidates & (enough | protected)
    k = torch.tensor([schedule.count(layer, n) if n else 0 for n in total.tolist()], device=scores.device)
    k = torch.maximum(k, protected.sum(1)).minimum(candidates.sum(1))
    return largest(scores, k, candidates)


def compact(live: Tensor) -> Tensor:
    """Rows [B, k] of the live ones in their order, then others to fill; k: most of a sequence, at least 1."""
    order = torch.sort((~live).to(torch.uint8), dim=1, stable=True).indices
    return order[:, : max(1, int(live.sum(1).max()))]


def take_rows(tensor: Tensor, index: Tensor, dim: int) -> Tensor:
    """Rows `index` [B, k] along `dim` of a tensor [B, ...]."""
    shape = [1] * tensor.dim()
    shape[0], shape[dim] = index.shape
    sizes = list(tensor.shape)
    sizes[dim] = index.shape[1]
    return tensor.gather(dim, index.reshape(shape).expand(sizes))


def put_rows(tensor: Tensor, places: Tensor, live: Tensor, length: int) -> Tensor:
    """Tensor [B, length, F] with the live rows of `tensor` [B, k, F] at `places` [B, k], and zeros elsewhere."""
    index = torch.where(live, places, length).unsqueeze(-1).expand_as(tensor)
    room = torch.zeros(len(tensor), length + 1, tensor.shape[2], dtype=tensor.dtype, device=tensor.device)
    return room.scatter(1, index, tensor)[:, :length]

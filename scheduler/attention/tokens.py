"""Kernels of a decoder: those of a prompt, whose keys and values stay, and those of a token that joins them.

What each layer holds lies in its first rows, in rows that a token has in all layers alike (`slots.py`). So a layer
looks at one range of rows; the one that it gives up for this token is hidden by a mask.
"""

from dataclasses import dataclass, field
from math import ceil

import numpy as np

from hwgen.arch.services import IMPORTANCE_BYTES, INDEX_BYTES, Job, Score
from scheduler.attention.jobs import LayerJobs
from scheduler.attention.kernels import AttentionKernels, constant, service
from scheduler.attention.operators import Attend
from scheduler.attention.planes import Area, Cache, Moving, Planes
from scheduler.attention.slots import Capacity, Cut, Places
from scheduler.hazards import Region
from scheduler.training.lower import Step
from scheduler.training.schedule.fuse import Group


@dataclass
class PromptKernels(AttentionKernels):
    """Those of an encoder, but keys and values go to a cache, and importance is written where a host reads it."""

    capacity: Capacity = field(kw_only=True)
    cache: Cache = field(kw_only=True)
    places: Places = field(kw_only=True)

    def gather(self, step: Step, group: Group) -> None:
        """As in an encoder; the importance of those that leave is kept."""
        if group.main.again:
            super().gather(step, group)
            return
        length = step.features[group.main.input].n
        saved = save(step, f"layer {self.layer} importance", length)
        super().gather(step, group)
        indices, layer = self.selected[-1]
        self.places.cuts.append(Cut(layer, saved.address, indices, self.kept[layer].tokens))

    def _select(self, step: Step, score: Score, length: int, keep: int) -> Area:
        indices = super()._select(step, score, length, keep)
        if score == Score.HEADS:
            self.places.heads[self.layer] = (indices.address, keep)
        return indices

    def _planes(self, step: Step, jobs: LayerJobs, name: str, rows: int | None = None) -> Planes:
        if name == "query":
            return super()._planes(step, jobs, name)
        planes = self.cache.planes[self.layer, name] = super()._planes(step, jobs, name, self.cache.rows[self.layer])
        return planes

    def _counts(self) -> bool:
        return self.capacity.evicts or super()._counts()

    def _attention(self, step: Step, jobs: LayerJobs, planes: dict[str, Planes]) -> None:
        super()._attention(step, jobs, planes)
        if self.capacity.evicts and self.layer == len(self.kept) - 1:
            self.places.importance = save(step, "importance", self.capacity.rows[0])


@dataclass
class TokenKernels(AttentionKernels):
    """Those of one token, with the descriptors that change from token to token."""

    capacity: Capacity = field(kw_only=True)
    cache: Cache = field(kw_only=True)
    places: Places = field(kw_only=True)
    moving: list[Moving] = field(default_factory=list)
    mask: Area | None = None
    """Hides the row that this layer gives up, and those above it."""
    masks: int = 0
    """Address of a mask for each slot, and of one that hides nothing."""
    beats: int = 0
    """Of each of them."""

    def _before(self) -> tuple[int, int]:
        return self.kept[self.layer].tokens, self.cache.rows[self.layer]

    def _first_row(self, name: str) -> int:
        return 0 if name == "query" else self.kept[-1].tokens

    def _planes(self, step: Step, jobs: LayerJobs, name: str, rows: int | None = None) -> Planes:
        return super()._planes(step, jobs, name) if name == "query" else self.cache.planes[self.layer, name]

    def _counts(self) -> bool:
        return self.capacity.evicts

    def _choose(self, step: Step, item: Attend) -> None:
        if self.layer == 0 and self.capacity.evicts:
            self._prepare(step)
        if self.layer and self.kept[self.layer].heads < self.kept[self.layer - 1].heads:
            bits = Area(*step.memory.area(f"layer {self.layer} heads", "alive", step.arch.beat_bytes))
            self.places.alive[self.layer] = bits.address
            fields = {"score": Score.HEADS, "length": item.heads, "src_addr": bits.address}
            service(step, Job.RESTORE, fields, [bits.region], [])
        if self.capacity.chooses(self.layer):
            self._give_up(step)

    def _prepare(self, step: Step) -> None:
        """Importance comes back; places for what the host writes."""
        rows, places, beat = self.capacity.rows[0], self.places, step.arch.beat_bytes
        fields = {"score": Score.TOKENS, "length": rows, "src_addr": places.importance.address}
        service(step, Job.RESTORE, fields, [places.importance.region], [])
        places.positions, _ = step.memory.area("positions", "host", 4 * rows)
        places.protected, _ = step.memory.area("protected", "host", ceil(rows / 8))
        self.beats = ceil(rows / 8 / beat)
        # Row s hides slot s; the last one hides nothing that is there.
        bits = ~np.eye(rows + 1, self.beats * beat * 8, dtype=np.bool_)
        self.masks = constant(step, "masks", np.packbits(bits, bitorder="little").tobytes())

    def _give_up(self, step: Step) -> None:
        """The least important row of a layer is found, and the mask that hides it is copied."""
        row = self.beats * step.arch.beat_bytes
        name, seen = f"layer {self.layer}", self.kept[self.layer].tokens + 1
        listed = Area(*step.memory.area(f"{name} given up", "indices", INDEX_BYTES))
        self.mask = Area(*step.memory.area(f"{name} mask", "mask", row))
        self.places.lists[self.layer] = listed.address
        fields = {
            "score": Score.TOKENS, "length": seen, "keep": min(seen, self.capacity.most[self.layer]), "first": 0,
            "protected": 1, "compact": 0, "dropped": 1, "protect_addr": self.places.protected,
            "index_addr": listed.address,
        }  # fmt: skip
        address = service(step, Job.SELECT, fields, [], [listed.region])
        self.moving.append(Moving(address, Job.SELECT, fields, self.layer))
        fields = {
            "rows": 1, "row_beats": self.beats, "index_addr": listed.address, "src_addr": self.masks,
            "src_stride": row, "dst_addr": self.mask.address, "dst_stride": row,
        }  # fmt: skip
        service(step, Job.GATHER, fields, [listed.region], [self.mask.region])

    def _hidden(self, step: Step) -> tuple[dict[str, int], list[Region]]:
        if self.mask is None:
            return super()._hidden(step)
        return {"masked": 1, "mask_addr": self.mask.address}, [self.mask.region]

    def _recorded(self, job: Job, address: int, fields: dict[str, int], planes: Planes | None = None) -> None:
        if planes is None or any(planes is one for one in self.cache.of(self.layer)):
            self.moving.append(Moving(address, job, fields, self.layer, planes))

    def _attention(self, step: Step, jobs: LayerJobs, planes: dict[str, Planes]) -> None:
        super()._attention(step, jobs, planes)
        if self.capacity.evicts and self.layer == len(self.kept) - 1:
            save(step, "importance", self.capacity.rows[0], self.places.importance)


def save(step: Step, name: str, length: int, area: Area | None = None) -> Area:
    """Write the importance of tokens to memory; gives where."""
    area = area or Area(*step.memory.area(name, "importance", IMPORTANCE_BYTES * length))
    service(step, Job.SAVE, {"length": length, "dst_addr": area.address}, [], [area.region])
    return area

"""Copies of weights in external memory, and the part of one that is in the weight scratchpad."""

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, replace
from math import ceil

from hwgen.arch import Arch, UserError
from hwgen.arch.isa import Target
from models.pattern import Pattern
from scheduler.hazards import Region
from scheduler.scratchpad import Ring
from scheduler.training.kernels.emitter import Emitter

BLOCK_SLOTS, BLOCK_BEATS = 4, 5
"""Slots and beats of a block of packed weights (LOAD PACKED)."""


@dataclass(frozen=True)
class WeightImage:
    """A copy of a weight matrix [reduction, columns] in external memory, one row of beats for each column block.

    `unit` numbers its column blocks for hazards.
    """

    name: str
    address: int
    depth: int
    """Values along the reduction, channels filled up to whole words."""
    blocks: int
    pattern: Pattern | None
    unit: int
    run: tuple[int, int] | None = None
    """Of so many values of a word (second) only the first few are used, again and again. Dense weights have all of them
    in memory, packed ones those that are used."""

    @property
    def slots(self) -> int:
        """Weight words of one column block."""
        return self.depth if self.pattern is None else self.depth // self.pattern.m * self.pattern.n

    @property
    def beats(self) -> int:
        """Beats of one column block."""
        if self.run and self.pattern is None:
            return self.depth // self.run[0] * self.run[1]
        return self.slots if self.pattern is None else ceil(self.slots / BLOCK_SLOTS) * BLOCK_BEATS

    def narrowed(self, used: int, filled: int) -> "WeightImage":
        """The first `used` of every `filled` values; the image in memory stays as it is."""
        return replace(self, depth=self.depth // filled * used, run=(used, filled))

    def offset(self, position: int) -> int:
        """Beats before the weight at `position` of the reduction; whole blocks only, if packed."""
        if self.pattern is None:
            return position
        slots = position // self.pattern.m * self.pattern.n
        if position % self.pattern.m or slots % BLOCK_SLOTS:
            raise UserError(f"{self.name}: position {position} of {self.pattern} weights is not the start of a block")
        return slots // BLOCK_SLOTS * BLOCK_BEATS


class Rings:
    """Activation and weight scratchpads while a step is emitted; a kernel takes what it needs and goes on."""

    def __init__(self, arch: Arch) -> None:
        self.act, self.wgt = Ring(arch.scratchpads.act_depth), Ring(arch.scratchpads.wgt_depth)
        self.gradients = self
        """The same for weight gradients."""

    def split(self, parts: int) -> tuple["Rings", "Rings"]:
        """Two parts for kernels that are recorded in turns, the first one of `parts` equal ones; weights in halves."""
        found = copy(self), copy(self)
        for name, share in (("act", parts), ("wgt", 2)):
            ring = getattr(self, name)
            first = ring.depth // share
            setattr(found[0], name, Ring(first, base=ring.base))
            setattr(found[1], name, Ring(ring.depth - first, base=ring.base + first))
        return found

    def divide(self) -> None:
        """From here on weight gradients have a quarter of each scratchpad for themselves, so that they run beside other
        products. One of those that needs more than its three quarters waits for weight gradients, and they for it.
        """
        if self.gradients is self:
            self.gradients = copy(self)
            for name in ("act", "wgt"):
                depth = getattr(self, name).depth
                setattr(self, name, Ring(depth - depth // 4))
                setattr(self.gradients, name, Ring(depth // 4, base=depth - depth // 4))

    def weights(self, em: Emitter, image: WeightImage, tile_cols: int) -> "ResidentWeights":
        """Slots for the column tiles of an image: all of them if they fit, else two or one."""
        tiles = ceil(image.blocks / tile_cols)
        words = image.slots * tile_cols
        slots = tiles if tiles * words <= self.wgt.depth // 2 else min(2, max(1, self.wgt.depth // words))
        return ResidentWeights(em, image, [self.wgt.take(words) for _ in range(slots)], complete=slots == tiles)


class ResidentWeights:
    """Column tiles of a weight image in the weight scratchpad, loaded when they are not there.

    `complete` says whether there is a slot for each.
    """

    def __init__(self, em: Emitter, image: WeightImage, slots: list[int], *, complete: bool) -> None:
        self.em, self.image, self.free, self.complete = em, image, slots, complete
        self.depth = image.depth
        """Values of the reduction that are loaded at a time."""
        self.held: dict[tuple[int, int], Region] = {}

    def get(self, block: int, words: int, first: int = 0) -> Region:
        """Weight words of `words` column blocks from `block` on, for `depth` values of the reduction from `first` on;
        what was asked for longest ago makes room.
        """
        key = block, first
        if key in self.held:
            self.held[key] = self.held.pop(key)
            return self.held[key]
        part = replace(self.image, depth=min(self.depth, self.image.depth - first))
        address = self._room(part.slots * words)
        self.held[key] = Region("wgt", address, address + part.slots * words)
        self._load(part, first, block, words, self.held[key])
        return self.held[key]

    def _room(self, words: int) -> int:
        """First of `words` words for what is loaded next."""
        return self.free.pop(0) if self.free else self.held.pop(next(iter(self.held))).start

    def _load(self, part: WeightImage, first: int, block: int, words: int, region: Region) -> None:
        """LOAD a part of `words` column blocks, whose first value has number `first`."""
        image, beat = self.image, self.em.arch.beat_bytes
        self.em.load(
            Target.COLS if image.pattern is None else Target.PACKED,
            region.start,
            Region("dram", image.unit + block, image.unit + block + words),
            region,
            stride=words,
            rows=words,
            **self._runs(part),
            dram_addr=image.address + (block * image.beats + image.offset(first)) * beat,
            row_stride=image.beats * beat,
        )

    def _runs(self, image: WeightImage) -> dict[str, int]:
        if image.run is None or image.pattern:
            return {"beats": image.beats}
        used, filled = image.run
        return {
            "beats": used,
            "planes": image.depth // used,
            "plane_stride": filled * self.em.arch.beat_bytes,
        }


class PassingWeights(ResidentWeights):
    """The same in parts of `depth` values of the reduction, none of which stays: each takes the next words of the ring,
    so that loads run ahead as far as there is room, also into the next product.
    """

    def __init__(self, em: Emitter, image: WeightImage, ring: Ring, depth: int) -> None:
        super().__init__(em, image, [], complete=False)
        self.ring, self.depth = ring, depth

    def _room(self, words: int) -> int:
        self.held.clear()
        return self.ring.take(words)


def column_tiles(image: WeightImage, tile_cols: int) -> Iterator[tuple[int, int]]:
    """First block and width of each column tile."""
    for block in range(0, image.blocks, tile_cols):
        yield block, min(tile_cols, image.blocks - block)

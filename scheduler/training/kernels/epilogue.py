"""What happens to the result of a product while it is in the accumulators: its chain, and sums for normalisations."""

from collections.abc import Callable, Sequence

from scheduler.training.graph.base import Operator
from scheduler.training.kernels.emitter import Block, Emitter, Feature
from scheduler.training.kernels.pointwise import apply_chain
from scheduler.training.products.windows import Tile

Collect = Callable[[Block, Callable[[str], Block], int], None]
"""Adds a block to sums over rows: the block, a way to other tensors under it, and its first word of channels."""


class TileOperands:
    """The parts of other tensors under one tile of a product, in the order [pixel][image] of its accumulator rows."""

    def __init__(
        self, em: Emitter, tile: Tile, out_step: int, features: dict[str, Feature], rows: Callable[[str], Block]
    ) -> None:
        self.em, self.tile, self.out_step, self.features, self.rows = em, tile, out_step, features, rows
        self.held: dict[str, Block] = {}

    def __call__(self, name: str) -> Block:
        """A channel vector as one repeated row, or a feature map pixel by pixel; loaded once for a tile."""
        if name not in self.held:
            self.held[name] = self._load(self.features[name]) if name in self.features else self._row(name)
        return self.held[name]

    def _row(self, name: str) -> Block:
        row = self.rows(name).columns(self.tile.block, self.tile.words)
        return row.over_rows(self.tile.pixels * self.em.arch.array.rows)

    def _load(self, feature: Feature) -> Block:
        tile, images, beat = self.tile, self.em.arch.array.rows, self.em.arch.beat_bytes
        block = self.em.take(tile.pixels * images, tile.words)
        for pixel in range(tile.pixels):
            w = tile.w + pixel * self.out_step
            word = tile.image * feature.image_words + tile.h * feature.row_words + w * feature.words + tile.block
            self.em.load_block(
                block.part(pixel * images, images),
                feature.address + word * beat,
                feature.image_words * beat,
                self.em.region(feature, tile.image, tile.h, 1),
            )
        return block


def epilogue(
    em: Emitter,
    name: str,
    chain: Sequence[Operator],
    out_step: int,
    features: dict[str, Feature],
    rows: Callable[[str], Block],
    collect: Collect,
) -> Callable[[Block, Tile], Block]:
    """What `WindowProduct.emit` calls for each tile: the chain on the result `name`, then the sums."""

    def run(block: Block, tile: Tile) -> Block:
        operands = TileOperands(em, tile, out_step, features, rows)
        block = apply_chain(em, block, name, chain, operands)
        collect(block, operands, tile.block)
        return block

    return run

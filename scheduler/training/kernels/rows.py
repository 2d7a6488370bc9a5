"""Feature maps as rows: pixels one after the other, whatever image they are in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hwgen.arch.isa import Format
from scheduler.hazards import Region
from scheduler.training.graph.base import Operator
from scheduler.training.kernels.emitter import Block, Emitter, Feature
from scheduler.training.kernels.epilogue import Collect
from scheduler.training.kernels.pointwise import apply_chain


@dataclass(frozen=True)
class Rows:
    """`count` pixels of a feature map from pixel `first` on, and of each the words `word` .. `word + words - 1`."""

    feature: Feature
    first: int
    count: int
    word: int
    words: int

    def address(self, em: Emitter) -> int:
        """First byte."""
        return self.feature.address + (self.first * self.feature.words + self.word) * em.arch.beat_bytes

    def stride(self, em: Emitter) -> int:
        """Bytes from one row to the next."""
        return self.feature.words * em.arch.beat_bytes

    def region(self, em: Emitter) -> Region:
        """All of its pixels, for hazards."""
        return em.pixels(self.feature, self.first, self.count)

    def line(self, block: Block) -> Block:
        """A block of these rows as one row, if they lie without gaps in both memories."""
        whole = self.words == self.feature.words and block.stride == block.words
        return block.reshape(1, block.rows * block.words) if whole else block

    def fetch(self, em: Emitter) -> Block:
        """LOAD as FP32."""
        block = em.take(self.count, self.words)
        em.load_block(self.line(block), self.address(em), self.stride(em), self.region(em))
        return block

    def put(self, em: Emitter, block: Block, lanes: int | None = None) -> None:
        """STORE, rounded to operands; `lanes` channels of the last word, the others as zeros."""
        lines = self.line(block) if lanes is None else block
        em.store(lines, self.address(em), self.stride(em), self.region(em), Format.OPERAND, lanes=lanes)


class RowOperands:
    """The parts of other tensors beside one tile of a product; loaded once for a tile."""

    def __init__(self, em: Emitter, tile: Rows, features: dict[str, Feature], vectors: Callable[[str], Block]) -> None:
        self.em, self.tile, self.features, self.vectors = em, tile, features, vectors
        self.held: dict[str, Block] = {}

    def __call__(self, name: str) -> Block:
        """Rows of a feature map, or a channel vector as one repeated row."""
        if name not in self.held:
            tile = self.tile
            if name in self.features:
                rows = Rows(self.features[name], tile.first, tile.count, tile.word, tile.words)
                self.held[name] = rows.fetch(self.em)
            else:
                self.held[name] = self.vectors(name).columns(tile.word, tile.words).over_rows(tile.count)
        return self.held[name]


RowEpilogue = Callable[[Block, Rows], Block]
"""What happens to a result before it is stored; gives the block to store."""


def row_epilogue(
    em: Emitter,
    name: str,
    chain: Sequence[Operator],
    features: dict[str, Feature],
    vectors: Callable[[str], Block],
    collect: Collect,
) -> RowEpilogue:
    """The chain on the result `name` of a product, then sums."""

    def run(block: Block, tile: Rows) -> Block:
        operands = RowOperands(em, tile, features, vectors)
        block = apply_chain(em, block, name, chain, operands)
        collect(block, operands, tile.word)
        return block

    return run


def touched(em: Emitter, feature: Feature, word: int, step: int, size: tuple[int, int]) -> Region:
    """Pixels from the first to the last of `size` (rows, words), `step` words from row to row, for hazards."""
    first = word // feature.words
    last = (word + (size[0] - 1) * step + size[1] - 1) // feature.words
    return em.pixels(feature, first, last - first + 1)

"""Products of rows with a parameter: linear layers, forward (FF) and input gradient (BP).

Array row r works on rows r, R + r, ..: a tile is up to `tile_rows * R` rows that follow one another in memory.
"""

from hwgen.arch import Arch, UserError
from hwgen.arch.isa import Dataflow, Target
from scheduler.hazards import Region
from scheduler.training.emitter import Emitter, Feature
from scheduler.training.rows import RowEpilogue, Rows
from scheduler.training.windows import ResidentWeights, Rings, Shape, WeightImage, column_tiles


def most_row_blocks(arch: Arch, group: int) -> int:
    """Most row blocks of a TENSOR instruction whose rings hold groups of `group` values."""
    array, found = arch.array, 1
    for rows in range(1, array.interleave_max + 1):
        if 1 << ((array.act_buffer // rows).bit_length() - 1) >= group + 2 * array.act_width:
            found = rows
    return found


def row_shape(arch: Arch, image: WeightImage, blocks: int, *, interleave: bool = True) -> Shape:
    """As many column blocks as half of the weight scratchpad holds, then row blocks, of which there are `blocks`."""
    array, depth = arch.array, arch.scratchpads.wgt_depth
    if image.slots > depth:
        raise UserError(f"{image.name} has {image.slots} weight words a column block, scratchpads.wgt_depth is {depth}")
    if not interleave:
        return Shape(1, 1)
    group = array.lanes if image.pattern is None else image.pattern.m
    cols = min(array.interleave_max, image.blocks, max(depth // 2 // image.slots, 1))
    return Shape(min(most_row_blocks(arch, group), array.interleave_max // cols, blocks), cols)


class RowProduct:
    """Emits the product of all pixels of `source` with a parameter; pixel p of `target` is that of pixel p."""

    def __init__(self, em: Emitter, rings: Rings, source: Feature, target: Feature) -> None:
        self.em, self.rings, self.source, self.target = em, rings, source, target
        self.count, self.array = source.n * source.image_words // source.words, em.arch.array

    def emit(self, image: WeightImage, epilogue: RowEpilogue | None = None, *, interleave: bool = True) -> None:
        """Record all tiles; results are stored as operands. Without `interleave`, one sum an element."""
        shape = row_shape(self.em.arch, image, -(-self.count // self.array.rows), interleave=interleave)
        weights = self.rings.weights(self.em, image, shape.tile_cols)
        rows = shape.tile_rows * self.array.rows
        chunk = rows * self._tiles_ahead(weights, shape)
        for start in range(0, self.count, chunk):
            held: dict[int, Region] = {}
            for block, words in column_tiles(image, shape.tile_cols):
                columns = weights.get(block, words)
                for first in range(start, min(start + chunk, self.count), rows):
                    tile = Rows(self.target, first, min(rows, self.count - first), block, words)
                    if first not in held:
                        held[first] = self._load(tile)
                    self._tile(image, tile, held[first], columns, epilogue)

    def _tiles_ahead(self, weights: ResidentWeights, shape: Shape) -> int:
        """Row tiles for which a column tile stays: one if all weights stay anyway, else what half of the banks hold."""
        depth, words = self.em.arch.scratchpads.act_depth, shape.tile_rows * self.source.words
        if words > depth:
            raise UserError(
                f"rows of {self.source.name} take {words} activation words a bank, scratchpads.act_depth is {depth}"
            )
        return 1 if weights.complete else max(1, depth // 2 // words)

    def _load(self, tile: Rows) -> Region:
        """The inputs of a row tile, every word of them."""
        em, source = self.em, self.source
        words = -(-tile.count // self.array.rows) * source.words
        start = self.rings.act.take(words)
        rows = Rows(source, tile.first, tile.count, 0, source.words)
        region = Region("act", start, start + words)
        em.load(
            Target.ACT_ROWS,
            start,
            rows.region(em),
            region,
            stride=source.words,
            rows=tile.count,
            beats=source.words,
            dram_addr=rows.address(em),
            row_stride=rows.stride(em),
        )
        return region

    def _tile(
        self, image: WeightImage, tile: Rows, rows: Region, columns: Region, epilogue: RowEpilogue | None
    ) -> None:
        """One TENSOR instruction and what follows it."""
        em, sparse = self.em, image.pattern is not None
        em.begin_chunk()
        result = em.take(tile.count, tile.words)
        em.tensor(
            [rows, columns, *([Region("idx", columns.start, columns.stop)] if sparse else [])],
            [result.region],
            dataflow=Dataflow.OUTPUT_STATIONARY,
            sparse=sparse,
            first=1,
            last=1,
            n=image.pattern.n if sparse else 0,
            m=image.pattern.m if sparse else 0,
            tile_cols=tile.words,
            tile_rows=-(-tile.count // self.array.rows),
            groups=image.depth // (image.pattern.m if sparse else self.array.lanes),
            rows=tile.count,
            act_addr=rows.start,
            act_stride=self.source.words,
            wgt_addr=columns.start,
            acc_addr=result.addr,
            acc_stride=result.stride,
        )
        tile.put(em, epilogue(result, tile) if epilogue else result)

"""Products of rows with a parameter: linear layers, forward (FF) and input gradient (BP).

Output stationary, array row r works on rows r, R + r, ..: a tile is up to `tile_rows * R` rows that follow one another
in memory; weights that pass by come in parts of the reduction, and the sums go on in the array. Weight stationary,
array row r holds a group of the weights, and all rows of a tile stream past it; the reduction is cut into stretches of
R groups, and the sums go on in the accumulators.
"""

from hwgen.arch import UserError
from hwgen.arch.isa import Dataflow, Target
from scheduler.hazards import Region
from scheduler.training.kernels.emitter import Block, Emitter, Feature
from scheduler.training.kernels.rows import RowEpilogue, Rows
from scheduler.training.products.decisions import Choice, choose
from scheduler.training.products.resident import PassingWeights, ResidentWeights, Rings, WeightImage, column_tiles
from scheduler.training.products.row_choices import RowProblem, row_choices, stationary_words


class RowProduct:
    """Emits the product of all pixels of `source` with a parameter; pixel p of `target` is that of pixel p."""

    def __init__(self, em: Emitter, rings: Rings, source: Feature, target: Feature, image: WeightImage) -> None:
        self.em, self.rings, self.source, self.target, self.image = em, rings, source, target, image
        self.count, self.array = source.n * source.image_words // source.words, em.arch.array
        self.problem = RowProblem.of(em.arch, image, self.count, rings)

    def choices(self) -> list[Choice]:
        """The ways to compute it. Raises `UserError` if a row does not fit, or neither a column block of weights nor a
        part of one.
        """
        pads, words, image = self.em.arch.scratchpads, self.source.words, self.image
        if words > pads.act_depth:
            raise UserError(
                f"rows of {self.source.name} take {words} activation words a bank, scratchpads.act_depth is "
                f"{pads.act_depth}"
            )
        found = row_choices(self.em.arch, self.problem)
        if not found:
            raise UserError(
                f"{image.name} has {image.slots} weight words a column block, scratchpads.wgt_depth is {pads.wgt_depth}"
            )
        return found

    def emit(self, epilogue: RowEpilogue | None = None, choice: Choice | None = None) -> None:
        """Record all tiles, cut as `choice` (the best one if None) says; results are stored as operands."""
        choice = choice or choose(self.choices())[0]
        load, tile_product = (
            (self._load_groups, self._weight_stationary)
            if choice.dataflow == Dataflow.WEIGHT_STATIONARY
            else (self._load_rows, self._output_stationary)
        )
        weights = self._weights(choice)
        panel = choice.panel * choice.rows
        for start in range(0, self.count, panel):
            held: dict[int, Region] = {}
            for block, words in column_tiles(self.image, choice.cols):
                weights.get(block, words)  # recorded before the rows, which may be results of the product before
                for first in range(start, min(start + panel, self.count), choice.rows):
                    tile = Rows(self.target, first, min(choice.rows, self.count - first), block, words)
                    if first not in held or not choice.rows_stay:
                        held[first] = load(Rows(self.source, first, tile.count, 0, self.source.words))
                    self.em.begin_chunk()
                    result = self.em.take(tile.count, tile.words)
                    tile_product(result, tile, held[first], weights)
                    tile.put(self.em, epilogue(result, tile) if epilogue else result)

    def _weights(self, choice: Choice) -> ResidentWeights:
        if choice.weights_pass:
            return PassingWeights(self.em, self.image, self.rings.wgt, choice.depth)
        return self.rings.weights(self.em, self.image, choice.cols)

    def _load_rows(self, rows: Rows) -> Region:
        """The inputs of a row tile, a row in each bank."""
        words = -(-rows.count // self.array.rows) * rows.words
        return self._load(rows, words, target=Target.ACT_ROWS, stride=rows.words)

    def _load_groups(self, rows: Rows) -> Region:
        """The inputs of a row tile, a group of each in each bank; zeros behind the last group."""
        words = stationary_words(self.em.arch, self.problem, rows.count)
        stretches = -(-self.problem.groups // self.array.rows)
        values = stretches * self.array.rows * self.problem.group
        return self._load(
            rows,
            words,
            target=Target.ACT_CHUNKS,
            chunk_log2=self.problem.group.bit_length() - 1,
            stride=words // stretches,
            pad=values // self.array.cols - rows.words,
        )

    def _load(self, rows: Rows, words: int, *, target: Target, **fields: int) -> Region:
        """LOAD all words of some rows into a stretch of `words` words of every bank."""
        start = self.rings.act.take(words)
        region = Region("act", start, start + words)
        self.em.load(
            target,
            start,
            rows.region(self.em),
            region,
            rows=rows.count,
            beats=rows.words,
            dram_addr=rows.address(self.em),
            row_stride=rows.stride(self.em),
            **fields,
        )
        return region

    def _output_stationary(self, result: Block, tile: Rows, rows: Region, weights: ResidentWeights) -> None:
        """A TENSOR instruction for each part of the reduction, one after the other: the sums stay in the array."""
        problem = self.problem
        for start in range(0, problem.depth, weights.depth):
            length = min(weights.depth, problem.depth - start)
            columns = weights.get(tile.word, tile.words, start)
            last = start + length == problem.depth
            self.em.tensor(
                self._reads(rows, columns),
                [result.region] if last else [],
                dataflow=Dataflow.OUTPUT_STATIONARY,
                first=int(start == 0),
                last=int(last),
                tile_rows=-(-result.rows // self.array.rows),
                groups=-(-length // problem.group),
                act_addr=rows.start + start // self.array.cols,
                act_stride=self.source.words,
                wgt_addr=columns.start,
                **self._fields(result),
            )

    def _weight_stationary(self, result: Block, tile: Rows, rows: Region, weights: ResidentWeights) -> None:
        """A TENSOR instruction for each stretch of the reduction."""
        groups, held, size = self.problem.groups, self.array.rows, rows.stop - rows.start
        stride, columns = size // -(-groups // held), weights.get(tile.word, tile.words)
        for number, first in enumerate(range(0, groups, held)):
            self.em.tensor(
                self._reads(rows, columns) + ([result.region] if first else []),
                [result.region],
                dataflow=Dataflow.WEIGHT_STATIONARY,
                first=int(first == 0),
                last=1,
                tile_rows=1,
                groups=min(held, groups - first),
                act_addr=rows.start + number * stride,
                wgt_addr=columns.start + first * self.problem.group_words * result.words,
                **self._fields(result),
            )

    def _reads(self, rows: Region, columns: Region) -> list[Region]:
        indices = [] if self.image.pattern is None else [Region("idx", columns.start, columns.stop)]
        return [rows, columns, *indices]

    def _fields(self, result: Block) -> dict[str, int]:
        """What TENSOR needs in both dataflows."""
        pattern = self.image.pattern
        return {
            "sparse": int(pattern is not None),
            "n": pattern.n if pattern else 0,
            "m": pattern.m if pattern else 0,
            "rows": result.rows,
            "tile_cols": result.words,
            "acc_addr": result.addr,
            "acc_stride": result.stride,
        }

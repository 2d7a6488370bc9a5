"""Weight gradients (WU): dW[co, tap, ci] is the sum over images and pixels of dY[pixel, co] X[window pixel, ci].

Array rows are output channels: dY is transposed on its way into the banks. X waits in the weight scratchpad as it lies
in memory, and the WGT walk of TENSOR reads the pixels of each kernel position out of it, so that a 3 x 3 kernel loads
its input once. The sums of a tile stay in the array over all images, or for some time if other products run beside it.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import ceil, inf

from hwgen.arch import UserError
from hwgen.arch.isa import Dataflow, Operation, Target, Walk
from scheduler.hazards import Region
from scheduler.scratchpad import Held
from scheduler.training.kernels.emitter import Block, Emitter, Feature
from scheduler.training.products.gradient_plans import GradientPlan, GradientTile, Kernel
from scheduler.training.products.resident import Rings

DY_SLOTS = 4
"""Chunks of dY (and of X) that are loaded ahead."""
RUN_LIMIT = 4095
"""Pixels of a run that TENSOR's field holds."""
Piece = tuple[int, int, int, int, int]
"""Image, first output row, rows, first output column, columns: what one TENSOR instruction adds up."""
PART_CYCLES = 8192
"""Cycles after which the array writes the sums of a tile, so that other products do not wait until all are complete."""
TILE_SUMS = 3
"""Blocks of sums of a tile in parts: of all parts that are complete, and of two more."""
Update = Callable[[Block, GradientTile], None]
"""What happens to a finished tile of the gradient."""


class WeightGradient:
    """Emits all tiles of a weight gradient; `x` and `dy` have the same images."""

    def __init__(self, em: Emitter, rings: Rings, x: Feature, dy: Feature, kernel: Kernel) -> None:
        if em.arch.array.lanes != 1:
            raise UserError(f"training needs array.lanes 1, not {em.arch.array.lanes}")
        if em.arch.array.rows < em.arch.array.cols:
            raise UserError(
                f"training needs array.rows of at least array.cols ({em.arch.array.cols}), not {em.arch.array.rows}"
            )
        self.em, self.rings, self.array = em, rings, em.arch.array
        self.flat = kernel.size == (1, 1) and kernel.stride == (1, 1) and kernel.padding == (0, 0)
        self.whole = x, dy
        self.x, self.dy = (_flattened(x), _flattened(dy)) if self.flat else (x, dy)
        self.kernel, self.every = kernel, (1, 1)
        """Of X's rows and columns, each how manyth is read: a kernel of one pixel leaves out what its stride skips."""
        if kernel.size == (1, 1) and kernel.padding == (0, 0) and not self.flat:
            self.kernel, self.every = replace(kernel, stride=(1, 1)), kernel.stride
            self.x = replace(x, h=dy.h, w=dy.w)

    def emit(self, plan: GradientPlan, update: Update, *, in_parts: bool = False) -> None:
        """Record all tiles; `update` gets each gradient as an accumulator block [channels, words].

        With `in_parts`, a tile's sums stay in the array for `PART_CYCLES` and are then added up by the vector engine.
        """
        self._layout(plan)
        self.held_x, self.held_dy = Held(self.rings.wgt), Held(self.rings.act)
        taps = self.kernel.size[0] * self.kernel.size[1]
        for tile in plan.tiles(self.dy.words * self.array.cols, taps, self.x.words):
            self.em.begin_chunk()
            result = self.em.take(tile.rows, tile.words)
            part_sums = [self.em.take(tile.rows, tile.words) for _ in range(TILE_SUMS - 1 if in_parts else 0)]
            for number, part in enumerate(self._parts(tile, PART_CYCLES if in_parts else inf)):
                target = part_sums[number % len(part_sums)] if number else result
                for piece in part:
                    self._piece(tile, target, piece, piece is part[0], piece is part[-1])
                if number:
                    self.em.vector(Operation.ADD, result, result, target)
            update(result, tile)

    def _parts(self, tile: GradientTile, limit: float) -> list[list[Piece]]:
        """Pieces whose sums are added up in the array, until it has taken products for `limit` cycles."""
        beats = max(ceil(tile.rows / self.array.rows) * tile.words, self.array.chain_latency)
        found, cycles = [], limit
        for piece in self._pieces():
            if cycles >= limit:
                found.append([])
                cycles = 0
            found[-1].append(piece)
            cycles += piece[2] * piece[4] * beats
        return found or [[]]

    def _layout(self, plan: GradientPlan) -> None:
        """Pixels of a piece, and the slots of X and dY."""
        kernel, x, dy, pads = self.kernel, self.x, self.dy, self.em.arch.scratchpads
        last = (dy.w - 1) * kernel.stride[1] - kernel.padding[1] + kernel.size[1]
        zeros = max(0, kernel.padding[1], last - x.w)
        self.zeros, self.pitch = zeros, x.w + zeros
        share = DY_SLOTS * (2 if self.rings.gradients is self.rings else 1)
        x_budget = self.rings.wgt.depth // share // plan.blocks - zeros
        dy_budget = self.rings.act.depth // share // ceil(plan.rows / self.array.rows) * self.array.cols
        fit = (x_budget // self.pitch - kernel.size[0]) // kernel.stride[0] + 1
        self.rows = min(dy.h, fit, dy_budget // dy.w)
        self.columns = dy.w
        if self.flat:
            self.rows, self.columns = 1, min(x_budget, dy_budget, dy.w, RUN_LIMIT)
            self.pitch = self.columns
        if self.rows < 1:
            raise UserError(
                f"one row of {dy.name} and the rows of {x.name} under it do not fit scratchpads.act_depth "
                f"({pads.act_depth}) and scratchpads.wgt_depth ({pads.wgt_depth})"
            )

    def _pieces(self) -> Iterator[Piece]:
        """Image, first output row, rows, first output column, columns: what one TENSOR instruction adds up."""
        for image in range(self.dy.n):
            for h in range(0, self.dy.h, self.rows):
                for w in range(0, self.dy.w, self.columns):
                    yield image, h, min(self.rows, self.dy.h - h), w, min(self.columns, self.dy.w - w)

    def _piece(self, tile: GradientTile, result: Block, piece: Piece, first: bool, last: bool) -> None:
        """Load X and dY of some pixels and add their products to the sums of the tile."""
        _, _, rows, _, columns = piece
        kernel, pitch, blocks = self.kernel, self.pitch * tile.blocks, tile.blocks
        xs = self.held_x.get((piece, tile.block), lambda: self._load_x(tile, piece))
        dys = self.held_dy.get((piece, tile.channel), lambda: self._load_dy(tile, piece))
        row_blocks = ceil(tile.rows / self.array.rows)
        ky, kx = divmod(tile.first_tap, kernel.size[1])
        start = xs.start + self.zeros * blocks + ky * pitch + (kx - kernel.padding[1]) * blocks
        one_row = tile.taps <= kernel.size[1]
        self.em.tensor(
            [xs, dys],
            [result.region] if last else [],
            dataflow=Dataflow.OUTPUT_STATIONARY,
            first=first,
            last=last,
            tile_cols=tile.words,
            tile_rows=row_blocks,
            groups=rows * columns,
            rows=tile.rows,
            act_addr=dys.start,
            act_stride=(dys.stop - dys.start) // row_blocks,
            wgt_addr=start,
            acc_addr=result.addr,
            acc_stride=result.stride,
            walk=Walk.WGT,
            run=columns,
            jump=kernel.stride[0] * pitch - kernel.stride[1] * columns * blocks,
            step=kernel.stride[1] * blocks,
            col_step=1,
            col_run=blocks if one_row or blocks > 1 else kernel.size[1],
            col_jump=blocks if one_row or blocks > 1 else pitch,
        )

    def _load_x(self, tile: GradientTile, piece: Piece) -> Region:
        """The image rows under the windows of a piece, zeros around them: pixel by pixel, the tile's channel blocks."""
        image, h, rows, w, columns = piece
        kernel, x, blocks, beat = self.kernel, self.x, tile.blocks, self.em.arch.beat_bytes
        whole, (down, right) = self.whole[0], self.every
        top = h * kernel.stride[0] - kernel.padding[0]
        height = (rows - 1) * kernel.stride[0] + kernel.size[0]
        start = self.rings.wgt.take((self.zeros + height * self.pitch) * blocks)
        region = Region("wgt", start, start + (self.zeros + height * self.pitch) * blocks)
        first, last = max(top, 0), min(top + height, x.h)
        self._zero(start, (self.zeros + (first - top) * self.pitch) * blocks)
        addr = start + (self.zeros + (first - top) * self.pitch) * blocks
        word = image * whole.image_words + first * down * whole.row_words + w * right * x.words + tile.block
        width = x.w if columns == self.dy.w else columns
        self.em.load(
            Target.WGT,
            addr,
            self._touched(0, image, first * down, (last - first - 1) * down + 1, w, columns),
            Region("wgt", addr, addr + (last - first) * self.pitch * blocks),
            stride=self.pitch * blocks,
            rows=last - first,
            planes=width,
            beats=blocks,
            pad=(self.pitch - width) * blocks,
            dram_addr=x.address + word * beat,
            row_stride=down * whole.row_words * beat,
            plane_stride=right * x.words * beat,
        )
        end = addr + (last - first) * self.pitch * blocks
        self._zero(end, region.stop - end)
        return region

    def _touched(self, which: int, image: int, h: int, rows: int, w: int, columns: int) -> Region:
        """Rows of X (0) or dY (1) for hazards."""
        feature = self.whole[which]
        return self.em.pixels(feature, w, columns) if self.flat else self.em.region(feature, image, h, rows)

    def _zero(self, addr: int, words: int) -> None:
        if words:
            self.em.load(Target.WGT, addr, None, Region("wgt", addr, addr + words), rows=1, pad=words)

    def _load_dy(self, tile: GradientTile, piece: Piece) -> Region:
        """The piece's pixels of dY, transposed: bank r holds channel r, `array.rows` channels later a block on."""
        image, h, rows, w, columns = piece
        dy, beat, array = self.dy, self.em.arch.beat_bytes, self.array
        pixels = rows * columns
        words = ceil(pixels / array.cols)
        start = self.rings.act.take(words * ceil(tile.rows / array.rows))
        region = Region("act", start, start + words * ceil(tile.rows / array.rows))
        word = image * dy.image_words + h * dy.row_words + w * dy.words + tile.channel // array.cols
        self.em.load(
            Target.ACT_CHUNKS,
            start,
            self._touched(1, image, h, rows, w, columns),
            region,
            chunk_log2=0,
            stride=words,
            rows=pixels,
            beats=tile.rows // array.cols,
            dram_addr=dy.address + word * beat,
            row_stride=dy.words * beat,
        )
        return region


def _flattened(feature: Feature) -> Feature:
    """All pixels of all images as one row: windows of one pixel don't care where a row ends."""
    return replace(feature, n=1, h=1, w=feature.n * feature.h * feature.w)

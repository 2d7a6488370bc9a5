"""Weight gradients (WU): dW[co, tap, ci] is the sum over images and pixels of dY[pixel, co] X[window pixel, ci].

Array rows are output channels: dY is transposed on its way into the banks. X waits in the weight scratchpad as it lies
in memory, and the WGT walk of TENSOR reads the pixels of each kernel position out of it, so that a 3 x 3 kernel loads
its input once. The sums of a tile stay in the array over all images.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import ceil

from hwgen.arch import Arch, UserError
from hwgen.arch.isa import Dataflow, Target, Walk
from scheduler.hazards import Region
from scheduler.training.emitter import Block, Emitter, Feature
from scheduler.training.resident import Rings
from scheduler.training.windows import Pair

DY_SLOTS = 4
"""Chunks of dY (and of X) that are loaded ahead."""
RUN_LIMIT = 4095
"""Pixels of a run that TENSOR's field holds."""


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A convolution's window: kernel size, stride, padding (height, width)."""

    size: Pair
    stride: Pair
    padding: Pair


@dataclass(frozen=True, kw_only=True)
class GradientTile:
    """Part of a weight gradient: rows are output channels, words are [kernel position][input channel block].

    Kernel positions `first_tap` .. `first_tap + taps - 1` (ky * width + kx), output channels from `channel` on, `rows`
    of them, input channel blocks `block` .. `block + blocks - 1`.
    """

    channel: int
    rows: int
    first_tap: int
    taps: int
    block: int
    blocks: int

    @property
    def words(self) -> int:
        """Words of a row."""
        return self.taps * self.blocks


Update = Callable[[Block, GradientTile], None]
"""What happens to a finished tile of the gradient."""


@dataclass(frozen=True, kw_only=True)
class GradientPlan:
    """How a weight gradient is cut: output channels, kernel positions and input channel blocks of a tile."""

    rows: int
    taps: int
    blocks: int

    def tiles(self, channels: int, taps: int, blocks: int) -> Iterator[GradientTile]:
        """All tiles, in the order in which they are computed and in which weights lie in memory."""
        for channel in range(0, channels, self.rows):
            for block in range(0, blocks, self.blocks):
                for tap in range(0, taps, self.taps):
                    yield GradientTile(
                        channel=channel,
                        rows=min(self.rows, channels - channel),
                        first_tap=tap,
                        taps=self.taps,
                        block=block,
                        blocks=min(self.blocks, blocks - block),
                    )


def gradient_plans(
    arch: Arch,
    *,
    kernel: Kernel,
    channels: int,
    blocks: int,
    span: tuple[int, int] = (1, 1),
    limit: int | None = None,
    interleave: bool = True,
) -> list[GradientPlan]:
    """The ways to cut a weight gradient, the one whose loads are cheapest first.

    `channels` output channels (whole words), `blocks` words of input channels; `span` is the least number of output
    and input channels that a tile must have because packed weights are written in blocks. A tile has at most
    `interleave_max` sums in each element and at most `limit` accumulator words; without `interleave`, those with the
    fewest sums come first.
    """
    array = arch.array
    taps = kernel.size[0] * kernel.size[1]
    found: dict[GradientPlan, tuple[int, float]] = {}
    for tile_rows in (1, 2, 4, 8, 16):
        for blocks_here in range(1, min(blocks, array.interleave_max) + 1):
            for taps_here in sorted({1, kernel.size[1], taps}):
                plan = GradientPlan(
                    rows=min(tile_rows * array.rows, channels), taps=taps_here, blocks=min(blocks_here, blocks)
                )
                if _fits(arch, plan, tile_rows, (channels, blocks), span, limit, kernel.size[1]):
                    sums = 0 if interleave else tile_rows * plan.taps * plan.blocks
                    found[plan] = sums, beats_a_pixel(arch, plan, channels, taps, blocks)
    if not found:
        raise UserError(
            f"no tile of a weight gradient of {channels} x {blocks * array.cols} channels has whole blocks of packed "
            f"weights ({span[0]} x {span[1]} channels) within array.interleave_max ({array.interleave_max}) sums"
        )
    return sorted(found, key=found.__getitem__)


def _fits(
    arch: Arch,
    plan: GradientPlan,
    tile_rows: int,
    extent: tuple[int, int],
    span: tuple[int, int],
    limit: int | None,
    kernel_width: int,
) -> bool:
    array = arch.array
    ring = 1 << ((array.act_buffer // tile_rows).bit_length() - 1)
    whole = (plan.rows % span[0] == 0 or plan.rows == extent[0]) and (
        plan.blocks * array.cols % span[1] == 0 or plan.blocks == extent[1]
    )
    one_line = plan.taps <= kernel_width or plan.blocks == 1
    return (
        whole
        and one_line
        and ring >= array.lanes + 2 * array.act_width
        and ceil(plan.rows / array.rows) == tile_rows
        and tile_rows * plan.taps * plan.blocks <= array.interleave_max
        and (limit is None or plan.rows * plan.taps * plan.blocks <= limit)
    )


def beats_a_pixel(arch: Arch, plan: GradientPlan, channels: int, taps: int, blocks: int) -> float:
    """Cycles of one pixel through all tiles: the array's, or the loads' if those are more; few loads break ties."""
    compute, loads = engine_cycles(arch, plan, channels, taps, blocks)
    return max(compute, loads) + loads / 16


def engine_cycles(arch: Arch, plan: GradientPlan, channels: int, taps: int, blocks: int) -> tuple[float, float]:
    """Cycles of one pixel through all tiles, of the tensor and of the load engine."""
    array = arch.array
    tiles = ceil(channels / plan.rows) * ceil(taps / plan.taps) * ceil(blocks / plan.blocks)
    compute = max(ceil(plan.rows / array.rows) * plan.taps * plan.blocks, array.chain_latency)
    return tiles * compute, tiles * (plan.rows / array.cols + plan.blocks)


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
        self.kernel = kernel

    def emit(self, plan: GradientPlan, update: Update) -> None:
        """Record all tiles; `update` gets each gradient as an accumulator block [channels, words]."""
        self._layout(plan)
        taps = self.kernel.size[0] * self.kernel.size[1]
        for tile in plan.tiles(self.dy.words * self.array.cols, taps, self.x.words):
            self.em.begin_chunk()
            result = self.em.take(tile.rows, tile.words)
            pieces = list(self._pieces())
            for number, piece in enumerate(pieces):
                self._piece(tile, result, piece, number == 0, number == len(pieces) - 1)
            update(result, tile)

    def _layout(self, plan: GradientPlan) -> None:
        """Pixels of a piece, and the slots of X and dY."""
        kernel, x, dy, pads = self.kernel, self.x, self.dy, self.em.arch.scratchpads
        last = (dy.w - 1) * kernel.stride[1] - kernel.padding[1] + kernel.size[1]
        zeros = max(0, kernel.padding[1], last - x.w)
        self.zeros, self.pitch = zeros, x.w + zeros
        x_budget = pads.wgt_depth // 2 // DY_SLOTS // plan.blocks - zeros
        dy_budget = pads.act_depth // 2 // DY_SLOTS // ceil(plan.rows / self.array.rows) * self.array.cols
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

    def _pieces(self) -> Iterator[tuple[int, int, int, int, int]]:
        """Image, first output row, rows, first output column, columns: what one TENSOR instruction adds up."""
        for image in range(self.dy.n):
            for h in range(0, self.dy.h, self.rows):
                for w in range(0, self.dy.w, self.columns):
                    yield image, h, min(self.rows, self.dy.h - h), w, min(self.columns, self.dy.w - w)

    def _piece(
        self, tile: GradientTile, result: Block, piece: tuple[int, int, int, int, int], first: bool, last: bool
    ) -> None:
        """Load X and dY of some pixels and add their products to the sums of the tile."""
        _, _, rows, _, columns = piece
        kernel, pitch, blocks = self.kernel, self.pitch * tile.blocks, tile.blocks
        xs, dys = self._load_x(tile, piece), self._load_dy(tile, piece)
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

    def _load_x(self, tile: GradientTile, piece: tuple[int, int, int, int, int]) -> Region:
        """The image rows under the windows of a piece, zeros around them: pixel by pixel, the tile's channel blocks."""
        image, h, rows, w, columns = piece
        kernel, x, blocks, beat = self.kernel, self.x, tile.blocks, self.em.arch.beat_bytes
        top = h * kernel.stride[0] - kernel.padding[0]
        height = (rows - 1) * kernel.stride[0] + kernel.size[0]
        start = self.rings.wgt.take((self.zeros + height * self.pitch) * blocks)
        region = Region("wgt", start, start + (self.zeros + height * self.pitch) * blocks)
        first, last = max(top, 0), min(top + height, x.h)
        self._zero(start, (self.zeros + (first - top) * self.pitch) * blocks)
        addr = start + (self.zeros + (first - top) * self.pitch) * blocks
        word = image * x.image_words + first * x.row_words + w * x.words + tile.block
        width = x.w if columns == self.dy.w else columns
        self.em.load(
            Target.WGT,
            addr,
            self._touched(0, image, first, last - first, w, columns),
            Region("wgt", addr, addr + (last - first) * self.pitch * blocks),
            stride=self.pitch * blocks,
            rows=last - first,
            planes=width,
            beats=blocks,
            pad=(self.pitch - width) * blocks,
            dram_addr=x.address + word * beat,
            row_stride=x.row_words * beat,
            plane_stride=x.words * beat,
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

    def _load_dy(self, tile: GradientTile, piece: tuple[int, int, int, int, int]) -> Region:
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

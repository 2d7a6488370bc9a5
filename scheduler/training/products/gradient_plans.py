"""The ways to cut a weight gradient into tiles, and their cycles."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from hwgen.arch import Arch, UserError
from scheduler.training.products.windows import Pair


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

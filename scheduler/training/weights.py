"""Weights of a product in external memory: FP32 master copies in the order of the gradient's tiles, and the operand
copies that the forward pass and the input gradient read, dense or N:M, written anew with every update.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hwgen.arch import Arch
from hwgen.arch.isa import Format
from scheduler.hazards import Region
from scheduler.training.emitter import Block, Emitter
from scheduler.training.gradient_plans import GradientPlan, GradientTile, Kernel
from scheduler.training.resident import WeightImage
from scheduler.training.windows import Phase


@dataclass(frozen=True)
class Master:
    """FP32 values in external memory, tile after tile, each tile in the order of its accumulator words.

    `unit` numbers its tiles for hazards.
    """

    name: str
    address: int
    unit: int


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A parameter [Co, ky, kx, Ci / groups] of one product; with several groups, zeros stand between them."""

    name: str
    groups: int = 1
    mask: Master | None = None
    """With several groups: 1.0 for each weight, and zeros between the groups, as a master."""
    channels: int
    """Output channels, filled up to whole words."""
    inputs: int
    """Input channels, filled up to whole words."""
    kernel: Kernel
    plan: GradientPlan
    runner_up: GradientPlan | None = None
    """The second best plan."""
    masters: tuple[Master, ...]
    """The weights, then each state of the optimiser."""
    forward: WeightImage
    phases: tuple[Phase, ...]
    """Input gradient products; none if nobody needs it."""
    backward: tuple[WeightImage, ...]
    """A copy for each phase."""

    @property
    def taps(self) -> int:
        """Kernel positions."""
        return self.kernel.size[0] * self.kernel.size[1]

    def tiles(self, arch: Arch) -> list[GradientTile]:
        """Tiles of the gradient, which are the tiles of the masters."""
        return list(self.plan.tiles(self.channels, self.taps, self.inputs // arch.array.cols))

    def offsets(self, arch: Arch) -> dict[GradientTile, tuple[int, int]]:
        """Number and first word of each tile in a master."""
        found, word = {}, 0
        for number, tile in enumerate(self.tiles(arch)):
            found[tile] = (number, word)
            word += tile.rows * tile.words
        return found

    @cached_property
    def positions(self) -> dict[int, tuple[int, int]]:
        """Kernel position -> phase and place among the phase's taps."""
        width = self.kernel.size[1]
        return {
            ky * width + kx: (number, place)
            for number, phase in enumerate(self.phases)
            for place, (ky, kx) in enumerate(phase.positions)
        }


def write_copies(em: Emitter, weights: Weights, block: Block, tile: GradientTile, *, forward: bool = True) -> None:
    """STORE the operand copies of a tile of weights [channels, (kernel position, input channel block)]."""
    for number in range(tile.taps):
        part = block.columns(number * tile.blocks, tile.blocks)
        if forward:
            _write_forward(em, weights, part, tile, tile.first_tap + number)
        if weights.phases:
            _write_backward(em, weights, part, tile, tile.first_tap + number)


def _write_forward(em: Emitter, weights: Weights, part: Block, tile: GradientTile, tap: int) -> None:
    """Columns are output channels: the block is transposed, so that input channels follow one another."""
    image, cols = weights.forward, em.arch.array.cols
    first = tile.channel // cols
    position = tap * weights.inputs + tile.block * cols
    region = Region("dram", image.unit + first, image.unit + first + tile.rows // cols)
    _write(em, image, part, first, position, region, transpose=1)


def _write_backward(em: Emitter, weights: Weights, part: Block, tile: GradientTile, tap: int) -> None:
    """Columns are input channels, and output channels follow one another, as they lie in the accumulators."""
    if tap not in weights.positions:
        return
    phase, place = weights.positions[tap]
    image = weights.backward[phase]
    position = place * weights.channels + tile.channel
    region = Region("dram", image.unit + tile.block, image.unit + tile.block + tile.blocks)
    _write(em, image, part, tile.block, position, region, transpose=0)


def _write(
    em: Emitter, image: WeightImage, part: Block, first: int, position: int, region: Region, *, transpose: int
) -> None:
    row = image.beats * em.arch.beat_bytes
    address = image.address + first * row + image.offset(position) * em.arch.beat_bytes
    if image.pattern is None:
        em.store(part, address, row, region, Format.DENSE, transpose=transpose)
    else:
        n, m = image.pattern.n, image.pattern.m
        em.store(part, address, row, region, Format.PACKED, transpose=transpose, n=n, m=m)


def master_words(weights: Weights, arch: Arch, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values [Co, ky, kx, Ci / groups] as a master holds them: words [words, C], channels filled up with zeros."""
    values = spread(values, weights.groups)
    filled = np.zeros((weights.channels, weights.taps, weights.inputs), np.float32)
    filled[: values.shape[0], :, : values.shape[3]] = values.reshape(values.shape[0], weights.taps, values.shape[3])
    cols = arch.array.cols
    return np.concatenate([_tile_view(filled, tile, cols).reshape(-1, cols) for tile in weights.tiles(arch)])


def master_values(
    weights: Weights, arch: Arch, words: NDArray[np.float32], shape: tuple[int, int, int, int]
) -> NDArray[np.float32]:
    """The inverse of `master_words`; `shape` is [Co, ky, kx, Ci / groups]."""
    filled = np.zeros((weights.channels, weights.taps, weights.inputs), np.float32)
    cols = arch.array.cols
    for tile, (_, first) in weights.offsets(arch).items():
        view = _tile_view(filled, tile, cols)
        view[:] = words[first : first + tile.rows * tile.words].reshape(view.shape)
    co, kh, kw, ci = shape
    return gathered(filled[:co, :, : ci * weights.groups].reshape(co, kh, kw, -1), weights.groups)


def spread(values: NDArray[np.float32], groups: int) -> NDArray[np.float32]:
    """Weights [Co, ky, kx, Ci / groups] as those of one group, [Co, ky, kx, Ci], with zeros between groups."""
    co, *kernel, ci = values.shape
    filled = np.zeros((groups, co // groups, *kernel, groups, ci), values.dtype)
    numbers = np.arange(groups)
    filled[numbers, ..., numbers, :] = values.reshape(groups, co // groups, *kernel, ci)
    return filled.reshape(co, *kernel, groups * ci)


def gathered(values: NDArray[np.float32], groups: int) -> NDArray[np.float32]:
    """The inverse of `spread`."""
    co, *kernel, ci = values.shape
    numbers = np.arange(groups)
    parts = values.reshape(groups, co // groups, *kernel, groups, ci // groups)[numbers, ..., numbers, :]
    return parts.reshape(co, *kernel, ci // groups)


def _tile_view(filled: NDArray[np.float32], tile: GradientTile, cols: int) -> NDArray[np.float32]:
    """The part of [Co, taps, Ci] that a tile holds."""
    return filled[
        tile.channel : tile.channel + tile.rows,
        tile.first_tap : tile.first_tap + tile.taps,
        tile.block * cols : (tile.block + tile.blocks) * cols,
    ]

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
from scheduler.training.kernels.emitter import Block, Emitter
from scheduler.training.products.gradient_plans import GradientPlan, GradientTile, Kernel
from scheduler.training.products.resident import WeightImage
from scheduler.training.products.windows import Phase


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
    taps = range(tile.first_tap, tile.first_tap + tile.taps)
    if forward:
        _write_forward(em, weights, block, tile, taps)
    for phase in range(len(weights.phases)):
        _write_backward(em, weights, block, tile, taps, phase)


def _write_forward(em: Emitter, weights: Weights, block: Block, tile: GradientTile, taps: range) -> None:
    """Columns are output channels: the block is transposed, so that input channels follow one another."""
    image, cols = weights.forward, em.arch.array.cols
    first, count = tile.channel // cols, tile.rows // cols
    places = {tap - taps.start: tap * weights.inputs + tile.block * cols for tap in taps}
    _write(em, image, block, tile, places, range(first, first + count), transpose=1)


def _write_backward(em: Emitter, weights: Weights, block: Block, tile: GradientTile, taps: range, phase: int) -> None:
    """Columns are input channels, and output channels follow one another, as they lie in the accumulators."""
    found = {tap - taps.start: weights.positions[tap] for tap in taps if tap in weights.positions}
    places = {
        number: place * weights.channels + tile.channel for number, (where, place) in found.items() if where == phase
    }
    blocks = range(tile.block, tile.block + tile.blocks)
    _write(em, weights.backward[phase], block, tile, places, blocks, transpose=0)


def _write(
    em: Emitter,
    image: WeightImage,
    block: Block,
    tile: GradientTile,
    places: dict[int, int],
    rows: range,
    *,
    transpose: int,
) -> None:
    """STORE kernel positions of a tile, given by number, to places along the reduction in some rows of a copy."""
    beat, pattern = em.arch.beat_bytes, image.pattern
    row = image.beats * beat
    region = Region("dram", image.unit + rows.start, image.unit + rows.stop)
    addresses = {number: image.address + rows.start * row + image.offset(at) * beat for number, at in places.items()}
    kind = {"form": Format.DENSE} if pattern is None else {"form": Format.PACKED, "n": pattern.n, "m": pattern.m}
    for numbers in equal_steps(addresses):
        part = block.columns(numbers.start * tile.blocks, len(numbers) * tile.blocks)
        step = addresses[numbers[-1]] - addresses[numbers[-2]] if len(numbers) > 1 else 0
        place = {"planes": len(numbers), "plane_stride": step, "transpose": transpose}
        em.store(part, addresses[numbers.start], row, region, **kind, **place)


def equal_steps(addresses: dict[int, int]) -> list[range]:
    """Stretches of consecutive numbers whose addresses are the same step apart."""
    found: list[range] = []
    step = 0
    for number, address in addresses.items():
        follows = number - 1 in addresses
        gap = address - addresses[number - 1] if follows else 0
        if follows and (len(found[-1]) == 1 or gap == step):
            found[-1], step = range(found[-1].start, number + 1), gap
        else:
            found.append(range(number, number + 1))
    return found


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

"""Convolutions as programs: what LOAD, TENSOR and STORE instructions do for the three products of a training step.

Images are `[N, rows, pitch, channels]` operands with their border of zeros, channels a multiple of `array.cols`, and
at most one image for each bank. The products are FP32 bit patterns.
"""

from dataclasses import dataclass

import numpy as np

from hwgen.arch import Arch
from hwgen.arch.commands import command
from hwgen.arch.isa import Format, Opcode, Target, Walk
from models.machine import Machine
from models.packing import fp32_from_bytes, pack_weights
from models.sparsity import nm_mask
from tests.models.support import run

X, DY, WGT, IDX, OUT = (n << 20 for n in range(5))
TAPS = 3
"""Kernels are 3 x 3, with a border of one pixel."""
PIXELS = 2
"""Pixels that a tile interleaves."""


@dataclass(frozen=True)
class Window:
    """Part of an image that is convolved: from pixel `(top, left)` on, kernels of `height` x `width` pixels."""

    top: int
    left: int
    height: int
    width: int
    stride: int


def machine_with(arch: Arch, images: dict[int, np.ndarray]) -> Machine:
    """A machine with images at addresses; 64 KiB of zeros behind each, and room for weights and results."""
    parts = {address: image.astype("<u2").tobytes() + bytes(1 << 16) for address, image in images.items()}
    return Machine(arch, {**parts, **{address: bytes(1 << 19) for address in (WGT, IDX, OUT)}})


def load_images(arch: Arch, address: int, image: np.ndarray):
    """The command that loads image `n` into bank `n`: one run for each row of pixels."""
    count, rows, pitch, channels = image.shape
    line = pitch * channels * 2
    shape = {"rows": count, "planes": rows, "beats": line // arch.beat_bytes}
    return command(
        Opcode.LOAD, target=Target.ACT_ROWS, dram_addr=address, row_stride=rows * line, plane_stride=line, **shape
    )


def load_weights(machine: Machine, bits: np.ndarray, mask: np.ndarray, ratio) -> dict[str, int]:
    """Load weights `[K, S]`, dense or n:m, to word 0; the fields of TENSOR that go with them."""
    array = machine.arch.array
    fields = {"tile_cols": bits.shape[1] // array.cols}
    if ratio is None:
        tile = pack_weights(bits, machine.arch, **fields)
    else:
        tile = pack_weights(bits, machine.arch, **fields, n=ratio[0], m=ratio[1], mask=mask)
        machine.memory.write(IDX, tile.index_bytes())
        beats = len(tile.index_bytes()) // machine.arch.beat_bytes
        run(machine, command(Opcode.LOAD, target=Target.IDX, beats=beats, dram_addr=IDX))
        fields |= {"sparse": 1, "n": ratio[0], "m": ratio[1]}
    machine.memory.write(WGT, tile.value_bytes())
    run(machine, command(Opcode.LOAD, target=Target.WGT, beats=tile.words * array.lanes, dram_addr=WGT))
    return {**fields, "groups": tile.groups}


def convolve(arch: Arch, image: np.ndarray, bits: np.ndarray, window: Window, shape, ratio=None) -> np.ndarray:
    """Convolution of images with weights `[height * width * channels, S]`, output-stationary with walks over windows.

    Returns FP32 bits `[N, *shape, S]`.
    """
    machine = machine_with(arch, {X: image})
    mask = np.ones(bits.shape, bool) if ratio is None else pruning(bits, arch, ratio)
    fields = load_weights(machine, bits, mask, ratio)
    run(machine, load_images(arch, X, image))
    count, _, pitch, channels = image.shape
    unit = channels // arch.array.act_width
    walk = {"walk": Walk.ACT, "run": window.width * unit, "jump": (pitch - window.width) * unit}
    walk |= {"act_stride": window.stride * unit, "acc_stride": fields["tile_cols"], "first": 1, "last": 1}
    for y, x in np.ndindex(shape[0], -(-shape[1] // PIXELS)):
        pixels = min(PIXELS, shape[1] - x * PIXELS)
        place = (window.top + y * window.stride) * pitch + window.left + x * PIXELS * window.stride
        rows = (pixels - 1) * arch.array.rows + count
        tile = command(Opcode.TENSOR, **fields, **walk, act_addr=place * unit, tile_rows=pixels, rows=rows)
        first = y * shape[1] + x * PIXELS
        stores = [store_pixel(arch, fields["tile_cols"], count, p, first + p, shape) for p in range(pixels)]
        run(machine, tile, *stores)
    size = count * shape[0] * shape[1] * bits.shape[1] * 4
    data = fp32_from_bytes(machine.memory.read(OUT, size), arch, count * shape[0] * shape[1], bits.shape[1])
    return data.reshape(count, *shape, -1)


def store_pixel(arch: Arch, words: int, count: int, block: int, pixel: int, shape):
    """The command that stores row block `block` of a tile: pixel number `pixel` of every image."""
    size = words * arch.array.cols * 4
    place = {"dram_addr": OUT + pixel * size, "row_stride": shape[0] * shape[1] * size}
    block = {"addr": block * arch.array.rows * words, "stride": words, "rows": count, "words": words}
    return command(Opcode.STORE, format=Format.FP32, lanes=arch.array.cols, **place, **block)


def pruning(bits: np.ndarray, arch: Arch, ratio) -> np.ndarray:
    """Weights `[K, S]` that n:m keeps."""
    dtype = {"fp16": np.float16}[arch.array.operand]
    return nm_mask(bits.view(dtype), *ratio, axis=0)


def weight_gradient(arch: Arch, x: np.ndarray, dy: np.ndarray, shape, stride: int) -> np.ndarray:
    """FP32 bits `[Co, 9 * Ci]` of the gradient of the weights; `dy` is `[N, rows, pitch, Co]` with a border of zeros.

    The pixels of `dy` that are not in `shape` count as zeros; `x` is no narrower than `dy`.
    """
    machine = machine_with(arch, {X: x, DY: dy})
    channels, outputs, blocks = x.shape[3], dy.shape[3], x.shape[3] // arch.array.cols
    most = arch.array.interleave_max * arch.array.rows // max(outputs, arch.array.rows)
    lines = min(TAPS, most // (TAPS * blocks))
    for first in range(0, TAPS, lines):
        rows = min(lines, TAPS - first)
        tile_cols = rows * TAPS * blocks
        for n in range(len(x)):
            loads = [load_transposed(arch, dy, n, shape), *load_pixels(arch, x, n, stride)]
            ends = {"first": int(n == 0), "last": int(n == len(x) - 1)}
            run(machine, *loads, gradient_tile(arch, x, dy, shape, stride, first, tile_cols, **ends))
        place = {"dram_addr": OUT + first * TAPS * channels * 4, "row_stride": TAPS * TAPS * channels * 4}
        block = {"rows": outputs, "words": tile_cols, "stride": tile_cols, "lanes": arch.array.cols}
        run(machine, command(Opcode.STORE, format=Format.FP32, **place, **block))
    size = outputs * TAPS * TAPS * channels * 4
    return fp32_from_bytes(machine.memory.read(OUT, size), arch, outputs, TAPS * TAPS * channels)


def bank_words(arch: Arch, dy: np.ndarray, shape) -> int:
    """Activation words that a channel of the gradient takes."""
    return -(-shape[0] * dy.shape[2] // arch.array.cols)


def load_transposed(arch: Arch, dy: np.ndarray, n: int, shape):
    """The command that loads channel `r` of image `n` into bank `r`, pixel by pixel; further channels lie behind."""
    _, rows, pitch, channels = dy.shape
    pixel = channels * 2
    place = {"dram_addr": DY + ((n * rows + 1) * pitch + 1) * pixel, "row_stride": pixel}
    size = {"rows": shape[0] * pitch, "beats": pixel // arch.beat_bytes, "stride": bank_words(arch, dy, shape)}
    return command(Opcode.LOAD, target=Target.ACT_CHUNKS, chunk_log2=0, **place, **size)


def load_pixels(arch: Arch, x: np.ndarray, n: int, stride: int) -> list:
    """Commands that load image `n` as weight words: word `p*blocks + b` is channel block `b` of pixel `p`.

    With lanes, each word also holds the pixels that are `stride`, ... further on, as the next products take them.
    """
    _, rows, pitch, channels = x.shape
    pixel, blocks = channels * 2, channels // arch.array.cols
    start = X + n * rows * pitch * pixel
    if arch.array.lanes == 1:
        # Rows of pixels as they are; the last pixel is border, which needs no reading.
        size = {"rows": rows, "beats": (pitch - 1) * blocks, "pad": blocks, "stride": pitch * blocks}
        return [command(Opcode.LOAD, target=Target.WGT, **size, dram_addr=start, row_stride=pitch * pixel)]
    size = {"rows": rows * pitch, "beats": 1, "planes": arch.array.lanes, "stride": blocks}
    strides = {"row_stride": pixel, "plane_stride": stride * pixel}
    places = [{"addr": b, "dram_addr": start + b * arch.beat_bytes} for b in range(blocks)]
    return [command(Opcode.LOAD, target=Target.WGT, **size, **strides, **place) for place in places]


def gradient_tile(arch: Arch, x, dy, shape, stride: int, line: int, tile_cols: int, **ends: int):
    """The TENSOR command for kernel rows from `line` on: a walk over the pixels of one image."""
    array, pitch = arch.array, x.shape[2]
    blocks, outputs = x.shape[3] // array.cols, dy.shape[3]
    run_groups = dy.shape[2] // array.lanes
    walk = {"walk": Walk.WGT, "step": array.lanes * stride * blocks, "run": run_groups}
    walk |= {"jump": stride * (pitch - dy.shape[2]) * blocks, "wgt_addr": line * pitch * blocks}
    walk |= {"col_step": 1, "col_run": TAPS * blocks, "col_jump": pitch * blocks}
    size = {"tile_cols": tile_cols, "tile_rows": -(-outputs // array.rows), "rows": outputs}
    size |= {"groups": shape[0] * run_groups, "act_stride": bank_words(arch, dy, shape), "acc_stride": tile_cols}
    return command(Opcode.TENSOR, **walk, **size, **ends)

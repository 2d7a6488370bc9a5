"""Dropout masks that the accelerator draws: a xorshift generator in every column of a row of state words.

Marsaglia's generator with shifts 13, 17 and 5 runs through all 2**32 - 1 numbers but 0 in each column. Every chunk of a
mask advances as many state words as it has, so where a number goes depends on how masks are cut: `draw` repeats it.
"""

import numpy as np
from numpy.typing import NDArray

from hwgen.arch import Arch
from hwgen.arch.isa import Format, Operation
from scheduler.training.kernels.channels import clear_padding
from scheduler.training.kernels.emitter import Emitter, Feature
from scheduler.training.memory import Row

SHIFTS = ((13, False), (17, True), (5, False))
"""Places, and whether to the right."""
ONE, FRACTION_SHIFT = 0x3F800000, 9
"""The pattern of 1.0, and the places by which a state becomes the fraction of a number in 1 .. 2."""


def state_words(arch: Arch, mask: Feature) -> int:
    """Words of state that `dropout_mask` needs for a mask."""
    return min(_limit(Emitter(arch)), mask.n * mask.image_words)


def seeds(seed: int, stream: int, words: int, cols: int) -> NDArray[np.uint32]:
    """State [words, cols] before the first step; `stream` numbers the masks of a graph."""
    return np.random.default_rng((seed, stream)).integers(1, 1 << 32, (words, cols), dtype=np.uint32)


def dropout_mask(em: Emitter, mask: Feature, state: Row, p: float) -> None:
    """Draw 0 with probability p, else 1 / (1 - p), for every value, and keep the state for the next step. 6 passes.

    A value is 0 if 1 + (state >> 9) / 2**23 is at most 1 + p, so the probability is right to 2**-23.
    """
    words = em.load_block(em.keep(1, state.words), state.address, 0, state.region, wide=True)
    for chunk in em.chunks(mask, state.words):
        count = chunk.pixels * mask.words
        numbers = words.columns(0, count)
        for places, right in SHIFTS:
            em.vector(Operation.XOR, numbers, numbers, numbers, shift=places, right=right)
        block = em.take(1, count, apart=words)
        em.vector(Operation.OR, block, ONE, numbers, shift=FRACTION_SHIFT, right=1)
        em.vector(Operation.SUB, block, block, 1.0 + p)
        em.vector(Operation.POSITIVE, block, block, 1.0 / (1.0 - p))
        pixels = block.reshape(chunk.pixels, mask.words)
        clear_padding(em, pixels, mask.c)
        em.put(mask, chunk, pixels)
    em.store(words, state.address, 0, state.region, Format.FP32)


def draw(
    arch: Arch, mask: Feature, state: NDArray[np.uint32], p: float
) -> tuple[NDArray[np.float32], NDArray[np.uint32]]:
    """What `dropout_mask` draws, before it is rounded to operands, [N, H, W, C], and the state after it."""
    state, cols = state.copy(), arch.array.cols
    values = np.zeros((mask.n, mask.h, mask.w, mask.words * cols), np.float32)
    for chunk in Emitter(arch).chunks(mask, len(state)):
        numbers = state[: chunk.pixels * mask.words]
        for places, right in SHIFTS:
            numbers ^= numbers >> np.uint32(places) if right else numbers << np.uint32(places)
        uniform = (np.uint32(ONE) | numbers >> np.uint32(FRACTION_SHIFT)).view(np.float32)
        kept = np.where(uniform > np.float32(1 + p), np.float32(1 / (1 - p)), np.float32(0))
        images, rows = slice(chunk.image, chunk.image + chunk.images), slice(chunk.h, chunk.h + chunk.rows)
        part = values[images, rows, chunk.w : chunk.w + chunk.width]
        part[:] = kept.reshape(part.shape)
    return values[..., : mask.c], state


def _limit(em: Emitter) -> int:
    """Words of a chunk, and so of the state: room for two chunks in a bank, and for other things beside the state."""
    return min(em.statics[-1].depth // 2, em.limit(1))

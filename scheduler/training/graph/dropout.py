"""Dropout masks: the same for everyone who knows the seed."""

import numpy as np
from numpy.typing import NDArray

from scheduler.training.graph.shapes import Shape


def dropout_mask(shape: Shape, p: float, seed: int, stream: int, step: int) -> NDArray[np.float32]:
    """Mask of one `DropoutMask` in one step: 0 with probability `p`, else `1 / (1 - p)`.

    A value stays if its number is at least `p * 2**32`. The numbers are 32 bits each of NumPy's Philox 4x64 generator
    (a counter in, random bits out: no step depends on another), low halves first, with key (seed, stream) and the step
    as the highest word of the counter.
    """
    count = int(np.prod(shape))
    generator = np.random.Philox(key=np.array([seed, stream], np.uint64), counter=np.array([0, 0, 0, step], np.uint64))
    words = generator.random_raw((count + 1) // 2)
    numbers = np.stack([words & np.uint64(0xFFFFFFFF), words >> np.uint64(32)], axis=1).reshape(-1)[:count]
    return np.where(numbers >= np.uint64(p * 2**32), np.float32(1 / (1 - p)), np.float32(0)).reshape(shape)

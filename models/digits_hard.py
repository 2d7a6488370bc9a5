"""A harder set made from the digits: each one rotated, scaled and shifted on a 16 x 16 canvas, with noise.

The plain digits cannot tell training methods apart: all of them reach 98 to 99 %.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import affine_grid, grid_sample

from models.digits import Digits, digits

SIDE = 16
"""Pixels along each side of the canvas."""
COPIES = 3
"""Variants that are made of each digit."""
ROTATION, SHIFT, NOISE = 0.5, 2.0, 0.2
"""Largest rotation in radians, largest shift in pixels along each axis, standard deviation of the noise."""
SIZES = (9.0, 15.0)
"""Range of the side of a drawn digit, in pixels."""
_INK = 8
"""Pixels along each side of a digit as it comes."""


def hard_digits(seed: int = 0) -> Digits:
    """`COPIES` variants of each image of `digits(seed)`: 4,311 images for training, 1,080 for testing, 256 values each.

    Variants of one digit are all on the same side of the split. Values are 0..1 plus noise.
    """
    plain = digits(seed)
    rng = np.random.default_rng(seed)
    train, train_labels, test, test_labels = (
        np.repeat(part, COPIES, axis=0)
        for part in (plain.train_images, plain.train_labels, plain.test_images, plain.test_labels)
    )
    return Digits(place(train, rng), train_labels, place(test, rng), test_labels)


def place(images: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw 8 x 8 images `[count, 64]` at random on canvases `[count, 256]`."""
    count = len(images)
    angle = rng.uniform(-ROTATION, ROTATION, count)
    size = rng.uniform(*SIZES, count)
    shift = rng.uniform(-SHIFT, SHIFT, (count, 2))
    # A grid maps places on the canvas to places in the image; both run from -1 to 1.
    scale = SIDE / size
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    turn = np.stack([cosine, -sine, sine, cosine], axis=1).reshape(count, 2, 2)
    offset = -turn @ (2 / SIDE * shift)[:, :, None]
    matrices = torch.from_numpy(np.concatenate([turn, offset], axis=2).astype(np.float32))
    grid = affine_grid(matrices, [count, 1, SIDE, SIDE], align_corners=False)
    drawn = grid_sample(torch.from_numpy(images).reshape(-1, 1, _INK, _INK), grid, align_corners=False)
    noise = rng.normal(0, NOISE, (count, SIDE * SIDE)).astype(np.float32)
    return drawn.numpy().reshape(count, -1) + noise

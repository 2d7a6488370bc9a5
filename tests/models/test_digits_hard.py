"""The harder set of images: seeded, with the split of the plain digits, and drawn where it says."""

import numpy as np

from models.digits import digits
from models.digits_hard import COPIES, NOISE, SIDE, hard_digits, place


def test_sizes_and_split():
    plain, hard = digits(3), hard_digits(3)
    assert hard.train_images.shape == (1437 * COPIES, SIDE * SIDE)
    assert hard.test_images.shape == (360 * COPIES, SIDE * SIDE)
    assert hard.train_images.dtype == np.float32
    np.testing.assert_array_equal(hard.test_labels, np.repeat(plain.test_labels, COPIES))
    np.testing.assert_array_equal(hard.train_labels, np.repeat(plain.train_labels, COPIES))


def test_seeds_decide():
    first, again, other = hard_digits(0), hard_digits(0), hard_digits(1)
    np.testing.assert_array_equal(first.train_images, again.train_images)
    np.testing.assert_array_equal(first.test_images, again.test_images)
    assert not np.array_equal(first.train_images, other.train_images)


def test_variants_differ():
    images = hard_digits(0).test_images
    assert all(np.abs(images[0] - images[i]).max() > NOISE for i in range(1, COPIES))


def test_images_are_turned_scaled_and_shifted_as_said():
    """A full square keeps its area up to its size, and its centre of mass moves by the shift."""
    seed, count = 5, 2000
    print(f"seed {seed}")
    canvas = place(np.ones((count, 64), np.float32), np.random.default_rng(seed)).reshape(count, SIDE, SIDE)
    centres = np.arange(SIDE) - (SIDE - 1) / 2
    mass = canvas.sum(axis=(1, 2))
    x, y = (canvas.sum(axis=axis) @ centres / mass for axis in (1, 2))
    draws = np.random.default_rng(seed)
    draws.uniform(size=count)
    side = draws.uniform(9, 15, count)
    shift = draws.uniform(-2, 2, (count, 2))
    whole = side < 10  # so small that nothing is cut off at any angle
    assert whole.sum() > 200
    np.testing.assert_allclose(mass[whole], side[whole] ** 2, atol=5 * NOISE * SIDE)
    np.testing.assert_allclose(np.stack([x, y], axis=1)[whole], shift[whole], atol=1.0)
    assert np.corrcoef(x[whole], shift[whole, 0])[0, 1] > 0.95
    assert np.corrcoef(y[whole], shift[whole, 1])[0, 1] > 0.95

"""Strided views compute what NumPy's own strides do, for random chains of views."""

import math
import random

import numpy as np
import pytest

from scheduler.training.graph.layout import Layout
from scheduler.training.graph.views import View, canonical, moved, permutation, refine, regroup, row_major, standard


def shown(view: View, memory: np.ndarray) -> np.ndarray:
    """The values that a view shows, read one by one from memory."""
    factors = [factor for dim in view.dims for factor in dim]
    places = np.zeros((), int)
    for size, stride in factors:
        places = places[..., None] + np.arange(size) * stride
    return memory.reshape(-1)[places].reshape(view.sizes)


def random_sizes(rng: random.Random, total: int) -> tuple[int, ...]:
    sizes = []
    while total > 1 and rng.random() < 0.8:
        size = rng.choice([size for size in range(1, total + 1) if total % size == 0])
        sizes.append(size)
        total //= size
    return (*sizes, total)


@pytest.mark.parametrize("round_", range(40))
def test_chains_of_views(round_, seed):
    rng = random.Random(seed + round_)
    sizes = random_sizes(rng, rng.choice([24, 60, 36, 7]))
    memory = np.arange(math.prod(sizes))
    view, values = View("t", row_major(sizes)), memory.reshape(sizes)
    for _ in range(8):
        if rng.random() < 0.5:
            order = rng.sample(range(values.ndim), values.ndim)
            view, values = View("t", tuple(view.dims[dim] for dim in order)), values.transpose(order)
        else:
            wanted = random_sizes(rng, values.size)
            dims = regroup(view.dims, wanted)
            if dims is not None:
                view, values = View("t", dims), values.reshape(wanted)
        assert np.array_equal(shown(view, memory), values)


@pytest.mark.parametrize("round_", range(40))
def test_moving_to_another_order(round_, seed):
    rng = random.Random(seed + round_)
    sizes = random_sizes(rng, rng.choice([24, 60, 36, 7]))
    order = rng.sample(range(len(sizes)), len(sizes))
    own = row_major(tuple(sizes[dim] for dim in order))
    source = View("t", tuple(own[order.index(dim)] for dim in range(len(sizes))))
    memory = np.arange(math.prod(sizes))
    pairs = refine(source.dims, row_major(sizes))
    split, places = permutation(pairs) if pairs else ((1,), (0,))
    assert np.array_equal(memory.reshape(split).transpose(places).reshape(sizes), shown(source, memory))
    target = View("t", tuple(moved(dim, pairs) for dim in source.dims))
    assert target == View("t", row_major(sizes))


def test_a_view_that_mixes_values_needs_them_moved():
    transposed = (((4, 1),), ((3, 4),))
    assert regroup(transposed, (3, 4)) is None
    assert regroup(transposed, (2, 2, 3)) == (((2, 2),), ((2, 1),), ((3, 4),))


def test_canonical_factors():
    assert canonical(((2, 6), (3, 2), (1, 9), (2, 1))) == ((12, 1),)
    assert canonical(((2, 0), (3, 0))) == ((6, 0),)
    assert canonical(((2, 1), (3, 2))) == ((2, 1), (3, 2))


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ((), (1, 1, 1, 1)),
        ((5,), (1, 1, 1, 5)),
        ((2, 5), (2, 1, 1, 5)),
        ((2, 3, 5), (2, 1, 3, 5)),
        ((2, 3, 4, 5), (2, 4, 5, 3)),
        ((2, 3, 1, 4, 5), (1, 1, 1, 120)),
    ],
)
def test_standard_places(sizes, shape):
    dims, found = standard(sizes)
    assert (found, View("t", dims).sizes) == (shape, sizes)
    values = np.arange(math.prod(sizes)).reshape(sizes)
    placed = Layout(shape, dims).from_torch(values)
    assert np.array_equal(Layout(shape, dims).to_torch(placed), values)
    if len(sizes) == 4:
        assert np.array_equal(placed, values.transpose(0, 2, 3, 1))


def test_layouts_check_the_shape():
    with pytest.raises(ValueError, match=r"^an array of shape \[2, 5\] is needed, not \[5, 2\]$"):
        Layout((2, 1, 1, 5), standard((2, 5))[0]).from_torch(np.ones((5, 2)))

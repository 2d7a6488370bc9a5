"""Which tensors are lists of pixels, and which share memory."""

import itertools

import pytest
import torch

from models.zoo_train import Vit
from scheduler.training.capture import capture_training
from scheduler.training.memory import MemoryMap
from scheduler.training.places import PIXELS, place_features
from tests.scheduler.training.machine_support import arch8


@pytest.fixture(scope="module")
def found():
    """Features of a small vision transformer: 16 images of 2 x 2 patches of 16 channels, 2 heads."""
    module, arch = Vit(side=8, patch=4, width=16, layers=1, hidden=24, heads=2), arch8()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    graph = capture_training(module, "cross_entropy", (torch.randn(16, 3, 8, 8),), torch.arange(16) % 10, optimizer)
    names = [name for name, tensor in graph.tensors.items() if tensor.kind in PIXELS]
    return place_features(graph, arch, MemoryMap(arch), names)


def shape(feature):
    return feature.n, feature.h, feature.w, feature.c


def test_tensors_under_windows_keep_their_rows(found):
    assert shape(found["x"]) == (16, 8, 8, 3)
    assert shape(found["patch.product"]) == shape(found["patch.biased"]) == (16, 2, 2, 16)


def test_tensors_without_windows_are_lists_of_pixels(found):
    assert shape(found["concat"]) == shape(found["layers.0.query.product"]) == (16 * 5, 1, 1, 16)
    assert shape(found["layers.0.up.biased"]) == shape(found["layers.0.gelu_grad"]) == (16 * 5, 1, 1, 24)
    assert shape(found["layers.0.scores"]) == (16 * 2 * 5, 1, 1, 5)


def test_reshapes_of_whole_words_share_memory_and_the_finest_numbers(found):
    for one, other, units in (("concat", "reshape_1", 10), ("biased", "reshape_2", 10), ("patch.biased", "reshape", 8)):
        assert found[one].address == found[other].address
        assert found[one].unit == found[other].unit
        assert sorted((found[one].span, found[other].span)) == [0, units]


def test_all_others_have_memory_of_their_own(found):
    places = sorted((item.address, item.address + item.n * item.image_words * 16) for item in found.values())
    ends = [(end, start) for (_, end), (start, _) in itertools.pairwise(places)]
    assert sum(start < end for end, start in ends) == sum(item.span > 0 for item in found.values())

"""Multiply-accumulates by stage: those of the published models, and what PyTorch's own counter counts."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hwgen.arch import UserError
from models.zoo_train import ZOO_TRAIN, build_training
from scheduler.training.convert.joint import fake_mode
from scheduler.training.graph.work import ATTENTION, bound, total
from tests.scheduler.training.support import capture
from tests.scheduler.training.test_steps import Vit, images

SLOW = pytest.mark.slow
PUBLISHED = [
    ("resnet9", 0.379, 2.27, (1.50, 1.99, 2.39)),
    pytest.param("vgg19", 0.398, 2.39, (1.50, 1.99, 2.39), marks=SLOW),
    ("resnet18", 0.555, 3.33, (1.50, 2.00, 2.39)),
    pytest.param("resnet18_64", 2.222, 13.32, (1.50, 2.00, 2.39), marks=SLOW),
    pytest.param("resnet18_224", 1.814, 10.65, (1.47, 1.92, 2.26), marks=SLOW),
    pytest.param("resnet50_224", 4.089, 24.30, (1.49, 1.96, 2.34), marks=SLOW),
    ("vit", 0.615, 3.84, (1.47, 1.92, 2.27)),
]


@pytest.mark.parametrize(("name", "forward", "flops", "bounds"), PUBLISHED)
def test_work_of_the_published_models(name, forward, flops, bounds):
    """GMAC of the forward pass, GFLOP of training, and bounds of 2:4, 2:8 and 2:16, for one image."""
    batch = 2
    with fake_mode():
        module, inputs, labels = build_training(name, batch)
        graph = capture(module, inputs, (labels,))
    sums = total(graph)
    assert sums["FF"] / batch / 1e9 == pytest.approx(forward, abs=5e-4)
    assert 2 * sum(sums.values()) / batch / 1e9 == pytest.approx(flops, abs=5e-3)
    assert [bound(graph, 2, m) for m in (4, 8, 16)] == pytest.approx(bounds, abs=5e-3)
    assert graph.values == {}


class Net(nn.Module):
    """Filters with stride and padding, rectangular ones, and a classifier."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 8, (1, 3)), nn.Linear(8 * 4 * 2, 5)

    def forward(self, x):
        return self.fc(self.b(torch.relu(self.a(x))).flatten(1))


@pytest.mark.parametrize("make", [Net, lambda: Vit("explicit")], ids=["net", "vit"])
def test_work_is_what_pytorch_counts(make):
    module = make()
    (inputs, targets), *_ = images(0, (3, 3, 8, 8), classes=5)
    counter = FlopCounterMode(display=False)
    with counter:
        F.cross_entropy(module(*inputs), *targets).backward()
    sums = total(capture(module, inputs, targets))
    assert 2 * sum(sums.values()) == counter.get_total_flops()
    assert (sums[ATTENTION] > 0) == isinstance(module, Vit)


def test_dense_layers_lower_the_bound():
    module, inputs, labels = build_training("mlp", 4)
    graph = capture(module, inputs, (labels,))
    first, other = 64 * 128, 128 * 128 + 128 * 10
    assert bound(graph, 2, 8) == pytest.approx((2 * first + 3 * other) / (2 * first + 1.5 * other))
    assert bound(graph, 2, 8, dense=("fc2.weight", "fc3.weight")) == 1


@pytest.mark.parametrize("name", ["mlp", "digits_cnn"])
def test_equal_seeds_give_equal_models(name):
    one, other = build_training(name, 2, seed=3), build_training(name, 2, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(one[0].parameters(), other[0].parameters()))
    assert torch.equal(one[1][0], other[1][0])
    assert one[0](*one[1]).shape == (2, ZOO_TRAIN[name].classes)


def test_unknown_models_and_batches_are_refused():
    with pytest.raises(UserError, match=r"^unknown model 'alexnet': models to train are mlp, digits_cnn, "):
        build_training("alexnet", 2)
    with pytest.raises(UserError, match=r"^a batch must be at least 1, not 0$"):
        build_training("mlp", 0)

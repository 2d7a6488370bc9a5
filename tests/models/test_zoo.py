"""The model zoo and the digits: seeded, and accurate enough to be worth accelerating."""

import numpy as np
import pytest
import torch

from hwgen.arch import UserError
from models import zoo
from models.digits import accuracy, digits, train_mlp
from models.sparsity import nm_mask


@pytest.mark.parametrize("name", zoo.ZOO)
def test_models_are_reproducible_and_run(name):
    (first, inputs), (second, _), (third, _) = (zoo.build(name, seed=seed) for seed in (4, 4, 5))
    assert not first.training
    with torch.no_grad():
        assert torch.equal(first(*inputs), second(*inputs))
        assert not torch.equal(first(*inputs), third(*inputs))


def test_building_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    zoo.build("mlp")
    assert torch.equal(torch.rand(3), expected)


def test_names_give_settings_and_defaults():
    assert zoo.names()["linear"].endswith("(rows=64, inputs=128, outputs=96, bias=1)")


def test_unknown_models_and_settings_are_refused():
    with pytest.raises(UserError, match=r"^unknown model 'cnn': the zoo has mlp, residual_mlp, linear$"):
        zoo.build("cnn")
    with pytest.raises(UserError, match=r"^setting batch of model mlp must be in 1\.\.65536, not 0$"):
        zoo.build("mlp", batch=0)


def test_the_split_is_stratified_and_seeded():
    data, again, other = digits(1), digits(1), digits(2)
    assert (len(data.train_images), len(data.test_images)) == (1437, 360)
    assert 0 <= data.train_images.min() < data.train_images.max() == 1
    assert np.abs(np.bincount(data.test_labels) - 36).max() <= 2
    np.testing.assert_array_equal(data.test_images, again.test_images)
    assert not np.array_equal(data.test_labels, other.test_labels)


@pytest.mark.parametrize("pattern", [None, (2, 8)])
def test_training_reaches_96_percent_with_the_pattern_in_every_layer(pattern):
    module, data = train_mlp(pattern, seed=0), digits(0)
    with torch.no_grad():
        logits = module(torch.from_numpy(data.test_images)).numpy()
    assert accuracy(logits, data.test_labels) >= 0.96
    for layer in module.children() if pattern else ():
        weights = layer.weight.detach().numpy()
        np.testing.assert_array_equal(weights, np.where(nm_mask(weights, *pattern, axis=1), weights, 0))
        assert (weights.reshape(len(weights), -1, pattern[1]) != 0).sum(axis=2).max() <= pattern[0]

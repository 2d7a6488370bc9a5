"""Recipes on whole models: what `sparsify`, `step`, `finish` and `rewind` do to them, and that they train."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from hwgen.arch import UserError
from models import sparsity
from models.cnn import DigitsCnn
from models.recipes import RECIPES, Choice, Operand, Pattern, Recipe, SparsityPolicy, recipe, rewind, sparsify
from models.recipes.experiment import Run, run
from models.recipes.layers import SPARSE, SparseConv2d
from models.recipes.schedule import structure_decay

POLICY = SparsityPolicy(Pattern(2, 8))
PRUNED = ("conv2", "conv3")


def model(seed: int = 0) -> DigitsCnn:
    torch.manual_seed(seed)
    return DigitsCnn()


def batch(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(16, 1, 8, 8, generator=generator), torch.randint(0, 10, (16,), generator=generator)


def descend(module: nn.Module, steps: int = 3, training=None) -> None:
    """A few steps of momentum SGD."""
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    images, labels = batch()
    for done in range(steps):
        if training is not None:
            training.step(done / steps)
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(images), labels).backward()
        optimizer.step()


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().items(), second.state_dict().items())
    return all(a == b and torch.equal(left, right) for (a, left), (b, right) in pairs)


def test_dense_recipe_is_plain_pytorch_to_the_bit():
    plain, other = model(), model()
    training = sparsify(other, recipe("dense"), POLICY)
    descend(plain)
    descend(other, training=training)
    assert same(plain, training.finish())


@pytest.mark.parametrize("method", [name for name in RECIPES if name not in ("dense", "sdgp", "lottery")])
def test_finish_hands_back_plain_layers_with_the_pattern(method):
    module = model()
    training = sparsify(module, recipe(method), POLICY)
    names = list(module.state_dict())
    descend(module, training=training)
    before, images = copy.deepcopy(module), batch()[0]
    assert training.finish() is module
    assert list(module.state_dict()) == names
    assert not any(type(layer) in SPARSE.values() for layer in module.modules())
    for name in PRUNED:
        weight = module.get_submodule(name).weight.detach().numpy()
        dense = before.get_submodule(name).weight.detach().numpy()
        if RECIPES[method].choice is Choice.LARGEST:
            np.testing.assert_array_equal(weight, np.where(sparsity.nm_mask(dense, 2, 8, axis=1), dense, 0))
        kept = np.moveaxis(weight != 0, 1, -1).reshape(-1, 8).sum(axis=1)
        assert kept.max() <= 2
    assert torch.equal(module.conv1.weight, before.conv1.weight)
    for layer in (before.conv2, before.conv3):
        layer.sparsity.stage = RECIPES[method].schedule(POLICY.pattern, 1.0)
    assert torch.equal(module.eval()(images), before.eval()(images))


def test_gradient_pruning_leaves_the_weights_dense():
    module = model()
    training = sparsify(module, recipe("sdgp"), POLICY)
    assert type(module.conv2) is SparseConv2d
    descend(module)
    dense = module.conv2.weight.detach().clone()
    assert torch.equal(training.finish().conv2.weight, dense)


@pytest.mark.parametrize("method", ["srste", "sdgp", "bdwp", "bimask", "mdgf", "sdgf", "random", "lottery"])
def test_every_recipe_changes_what_is_learnt(method):
    module, plain = model(), model()
    training = sparsify(module, recipe(method), POLICY)
    training.step(1.0)
    descend(module)
    descend(plain)
    assert not torch.equal(module.conv2.weight, plain.conv2.weight)


def test_decay_shrinks_pruned_weights_only():
    """With a loss of zero gradient only the SR-STE term moves weights."""
    module = model()
    sparsify(module, recipe("srste", decay=0.25), POLICY)
    (module(batch()[0]) * 0).sum().backward()
    for name in PRUNED:
        layer = module.get_submodule(name)
        weight = layer.weight.detach()
        mask = torch.from_numpy(sparsity.nm_mask(weight.numpy(), 2, 8, axis=1))
        assert torch.equal(layer.weight.grad, torch.where(mask, 0.0, 0.25 * weight))


def test_optimizers_state_and_hooks_survive():
    module, calls = model(), []
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module.conv2.register_forward_hook(lambda *_: calls.append(1))
    before = module.conv2.weight.detach().clone()
    training = sparsify(module, recipe("bdwp"), POLICY)
    nn.functional.cross_entropy(module(batch()[0]), batch()[1]).backward()
    optimizer.step()
    training.finish()
    module(batch()[0])
    assert len(calls) == 2
    assert not torch.equal(module.conv2.weight, before)
    model(5).load_state_dict(module.state_dict())


def test_random_masks_are_fixed_seeded_and_complete():
    module, again = model(), model()
    for one in (module, again):
        torch.manual_seed(11)
        sparsify(one, recipe("random"), POLICY)
    mask = module.conv2.sparsity.fixed
    assert torch.equal(mask, again.conv2.sparsity.fixed)
    assert (mask.movedim(1, -1).reshape(-1, 8).sum(1) == 2).all()
    assert not torch.equal(mask, model().conv2.weight.abs() > 0)
    descend(module)
    assert torch.equal(mask, module.conv2.sparsity.fixed)
    pruned = module.conv2.weight[~mask]
    assert torch.equal(pruned, model().conv2.weight[~mask])


def test_tickets_are_masks_of_the_trained_weights_on_the_first_ones():
    module, trained = model(), model()
    descend(trained)
    training = rewind(module, descend, recipe("lottery"), POLICY)
    assert same(module, model())
    for name in PRUNED:
        weight = trained.get_submodule(name).weight.detach().numpy()
        fixed = module.get_submodule(name).sparsity.fixed.numpy()
        np.testing.assert_array_equal(fixed, sparsity.nm_mask(weight, 2, 8, axis=1))
    training.finish()


def test_schedule_reaches_every_layer():
    module = model()
    training = sparsify(module, recipe("bdwp", schedule=structure_decay), POLICY)
    seen = []
    for progress in (0, 0.1, 0.5, 1):
        training.step(progress)
        seen.append({str(module.get_submodule(name).sparsity.stage.pattern) for name in PRUNED})
    assert seen == [{"None"}, {"7:8"}, {"4:8"}, {"2:8"}]


def test_plan_says_what_happens_to_each_layer():
    training = sparsify(model(), recipe("bdwp"), POLICY)
    assert {name: decision.reason for name, decision in training.plan.items()} == {
        "conv1": "first convolution",
        "conv2": "",
        "conv3": "",
        "classifier": "classifier",
    }


def test_bad_use_is_refused_in_one_sentence():
    module = model()
    training = sparsify(module, recipe("bdwp"), POLICY)
    fields = "forward, backward, prune_gradient, straight_through, decay, choice, schedule"
    sides = "the forward operand must be dense or N:M along input channels"
    for call, text in [
        (
            lambda: sparsify(module, recipe("bdwp"), POLICY),
            "layer 'conv2' follows a recipe already: call finish() first",
        ),
        (lambda: training.step(1.5), "the share of training that is done must be in 0..1, not 1.5"),
        (lambda: training.step(float("nan")), "the share of training that is done must be in 0..1, not nan"),
        (
            lambda: rewind(model(), descend, recipe("bdwp"), POLICY),
            "only masks that are chosen once can be rewound, not largest magnitudes, in every step",
        ),
        (lambda: recipe("BDWP"), f"unknown recipe 'BDWP': there are {', '.join(RECIPES)}"),
        (lambda: recipe("bdwp", lamda=0), f"a recipe has no setting 'lamda': it has {fields}"),
        (lambda: recipe("bdwp", decay=-1), "the decay of pruned weights must be in 0..1, not -1"),
        (lambda: Recipe(forward=Operand.OUTPUT), f"{sides}, not N:M along output channels"),
        (
            lambda: Recipe(backward=Operand.INPUT),
            "the backward operand cannot have input channels in groups of its own: use FORWARD",
        ),
    ]:
        with pytest.raises(UserError) as caught:
            call()
        assert str(caught.value) == text


@pytest.mark.parametrize(("method", "wraps"), [("srste", False), ("sdgp", True), ("bdwp", True), ("bimask", True)])
def test_layers_that_a_recipe_does_not_touch_stay_plain(method, wraps):
    """Of the first convolution, with its one input channel, only the output channels make groups."""
    module = model()
    sparsify(module, recipe(method), SparsityPolicy(Pattern(2, 8), first_conv=True))
    assert (type(module.conv1) is SparseConv2d) == wraps


def test_mixed_precision():
    module, plain = model(), model()
    sparsify(module, recipe("mdgf"), POLICY)  # nothing is pruned yet
    for one in (module, plain):
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.cross_entropy(one(batch()[0]), batch()[1])
        loss.backward()
    for name in PRUNED:
        got, want = (one.get_submodule(name).weight.grad for one in (module, plain))
        assert torch.linalg.norm(got - want) < 0.02 * torch.linalg.norm(want)


def test_diverging_weights_are_named():
    module = model()
    sparsify(module, recipe("bdwp"), POLICY)
    with torch.no_grad():
        module.conv2.weight[3, 1, 0, 2] = float("inf")
    with pytest.raises(UserError, match=r"^values to prune must be finite: element \[3, 1, 0, 2\] is inf$"):
        module(batch()[0])


def test_bdwp_at_2_of_8_learns_the_digits_nearly_as_well_as_dense():
    dense, pruned = (run(Run("digits", *kind, seed=0, epochs=6)) for kind in (("dense", "dense"), ("bdwp", "2:8")))
    assert dense.accuracy > 0.95
    assert pruned.accuracy > dense.accuracy - 0.04
    assert pruned.train_loss < 0.2

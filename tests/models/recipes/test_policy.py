"""Which layers are pruned, and the reason that is given for each that is not."""

import pytest
import torch
from torch import nn

from hwgen.arch import UserError
from models.cnn import DigitsCnn
from models.recipes import Decision, Pattern, SparsityPolicy

YES = Decision(True, True)


def plan(module: nn.Module, pattern: str = "2:8", **settings) -> dict[str, Decision]:
    return SparsityPolicy(Pattern.parse(pattern), **settings).plan(module)


def test_first_convolution_and_classifier_stay_dense():
    assert plan(DigitsCnn()) == {
        "conv1": Decision(False, False, "first convolution"),
        "conv2": YES,
        "conv3": YES,
        "classifier": Decision(False, False, "classifier"),
    }


def test_exceptions_can_be_lifted_and_then_groups_must_divide():
    assert plan(DigitsCnn(), first_conv=True, classifier=True) == {
        "conv1": Decision(False, True, "1 input channels do not divide into groups of 8"),
        "conv2": YES,
        "conv3": YES,
        "classifier": Decision(True, False, "10 output channels do not divide into groups of 8"),
    }


def test_user_names_layers():
    policy = SparsityPolicy(Pattern(2, 8), dense=("conv3",))
    assert policy.plan(DigitsCnn())["conv3"] == Decision(False, False, "named in the policy")
    assert policy.dense_layers(DigitsCnn()) == ("conv1", "conv3", "classifier")
    with pytest.raises(UserError) as caught:
        SparsityPolicy(Pattern(2, 8), dense=("conv9",)).plan(DigitsCnn())
    assert str(caught.value) == (
        "the policy keeps 'conv9' dense, a layer that is not among conv1, conv2, conv3, classifier"
    )


def test_no_pattern_no_pruning():
    assert set(plan(DigitsCnn(), "dense").values()) == {Decision(False, False, "no pattern")}


def test_channels_that_do_not_divide():
    layers = nn.Sequential(nn.Linear(24, 20), nn.Linear(20, 16), nn.Linear(16, 10))
    reason = "20 input channels do not divide into groups of 16"
    assert plan(layers, "2:16") == {
        "0": Decision(False, False, "24 input and 20 output channels do not divide into groups of 16"),
        "1": Decision(False, True, reason),
        "2": Decision(False, False, "classifier"),
    }


def test_channels_of_a_grouped_convolution_are_counted_in_its_groups():
    layers = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 32, 3, groups=4), nn.Conv2d(32, 32, 3, groups=32))
    assert plan(layers, "2:4")["1"] == YES
    assert plan(layers, "2:8")["1"] == Decision(False, True, "4 input channels do not divide into groups of 8")
    assert plan(layers, "2:4")["2"] == Decision(
        False, False, "1 input and 1 output channels do not divide into groups of 4"
    )


def test_layers_that_compute_something_of_their_own_stay_dense():
    layers = nn.Sequential(
        nn.Conv2d(8, 8, 3),
        nn.Conv2d(8, 8, 3, padding="same"),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular"),
        nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)),
        nn.MultiheadAttention(8, 2),
        nn.Linear(8, 8),
    )
    reasons = {name: decision.reason for name, decision in plan(layers).items()}
    assert reasons == {
        "0": "first convolution",
        "1": "padding 'same' with zeros is not supported",
        "2": "padding (1, 1) with circular is not supported",
        "3": "ParametrizedLinear may compute something of its own",
        "4.out_proj": "MultiheadAttention reads its weights itself",
        "5": "classifier",
    }


def test_attention_as_the_whole_model():
    assert plan(nn.MultiheadAttention(8, 2))["out_proj"].reason == "MultiheadAttention reads its weights itself"


def test_a_plan_leaves_the_module_alone():
    module = DigitsCnn()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    plan(module)
    assert type(module.conv2) is nn.Conv2d
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())

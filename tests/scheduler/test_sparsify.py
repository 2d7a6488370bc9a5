"""Pruning by policy, rounding to operands, and the weights that are refused."""

import numpy as np
import pytest
import torch
from torch import nn

from hwgen.arch import UserError, load
from models import zoo
from models.formats import encode
from models.pattern import Pattern
from models.sparsity import nm_mask
from scheduler.capture import capture
from scheduler.lower import lower
from scheduler.options import Options
from tests.scheduler.support import captured, options, variant


def lowered(module, inputs, preset="tiny", **choices):
    return lower(capture(module, inputs), load(preset), options(**choices))


def test_every_group_along_the_reduction_keeps_the_largest():
    state = lower(captured("mlp", batch=2)[2], load("tiny"), options("2:8"))
    for layer in state.layers:
        values = state.graph.constants[layer.weight]
        mask = nm_mask(values, 2, 8, axis=0)
        expected = np.where(mask, encode(values, "fp16"), 0)
        np.testing.assert_array_equal(state.weights[layer.name].bits, expected)
        assert mask.reshape(-1, 8, values.shape[1]).sum(axis=1).max() == 2


def test_layers_of_the_policy_and_small_layers_stay_dense_and_say_so():
    module = nn.Sequential(nn.Linear(6, 32), nn.Linear(32, 32), nn.Linear(32, 3), nn.Linear(3, 8)).eval()
    state = lowered(module, (torch.ones(2, 6),), pattern="2:8", dense=("1",))
    assert [state.weights[layer.name].note for layer in state.layers] == [
        "kept dense: 6 inputs are fewer than a group of 8",
        "kept dense by the policy",
        "kept dense: 3 outputs are fewer than a group of 8",
        "kept dense: 3 inputs are fewer than a group of 8",
    ]
    assert "dense (kept dense by the policy)" in state.program.listing()


@pytest.mark.parametrize(
    ("value", "problem"),
    [(np.nan, "every weight must be finite"), (-np.inf, "every weight must be finite"), (7e4, "it overflows fp16")],
)
def test_weights_that_are_not_finite_are_refused_with_their_place(value, problem):
    module, inputs = zoo.build("mlp", batch=2)
    module.fc2.weight.data[5, 3] = value
    expected = rf"^parameter fc2\.weight: the weight from input 3 to output 5 is -?[\w.]+: {problem}$"
    with pytest.raises(UserError, match=expected):
        lowered(module, inputs, pattern="2:8")


def test_a_bias_that_is_not_finite_is_refused_with_its_place():
    module, inputs = zoo.build("mlp", batch=2)
    module.fc2.bias.data[7] = np.inf
    with pytest.raises(UserError, match=r"^parameter fc2\.bias: element 7 is inf: every bias must be finite$"):
        lowered(module, inputs)


def test_bf16_takes_what_fp16_cannot():
    module, inputs = zoo.build("linear")
    module[0].weight.data[0, 0] = 1e5
    state = lower(capture(module, inputs), variant("tiny", array={"operand": "bf16"}))
    assert state.weights["0"].bits[0, 0] == encode(np.float32(1e5), "bf16")


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"pattern": "2:32"}, r"^sparsity 2:32 needs groups of 32, array\.group_max is 16$"),
        ({"pattern": "8:2"}, r"^a sparsity pattern N:M needs 1 <= N <= M, not 8:2$"),
        ({"pattern": "0:2"}, r"^a sparsity pattern N:M needs 1 <= N <= M, not 0:2$"),
        ({"pattern": "sparse"}, r"^a sparsity pattern must be N:M, such as 2:8, or dense, not 'sparse'$"),
        (
            {"pattern": "2:8", "dense": ("fc9",)},
            r"^the sparsity policy keeps fc9 dense, but the linear layers are fc1, fc2, fc3$",
        ),
        ({"dataflow": "is"}, r"^dataflow must be auto, os or ws, not 'is'$"),
        ({"output": "int8"}, r"^output format must be fp32 or operand, not 'int8'$"),
    ],
)
def test_bad_options_give_one_sentence(choices, message):
    with pytest.raises(UserError, match=message):
        lower(captured("mlp", batch=2)[2], load("tiny"), options(**choices))


def test_patterns_read_and_print_alike():
    assert str(Pattern.parse("2:8")) == "2:8"
    assert Pattern.parse("dense") is None
    assert Options().sparsity.pattern is None

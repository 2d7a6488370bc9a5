"""The small convolutional network: shapes, and only operators that the accelerator is meant to run."""

import pytest
import torch

from models.cnn import DigitsCnn

OPERATORS = {"conv2d", "batch_norm", "relu", "max_pool2d", "add", "adaptive_avg_pool2d", "flatten", "linear"}


@pytest.mark.parametrize("side", [8, 16])
def test_shapes(side):
    assert DigitsCnn(width=8)(torch.randn(3, 1, side, side)).shape == (3, 10)


def test_channels_are_multiples_of_16():
    module = DigitsCnn()
    assert {layer.weight.shape[:2] for layer in (module.conv2, module.conv3)} == {(32, 16), (32, 32)}


def test_operators():
    program = torch.export.export(DigitsCnn().eval(), (torch.randn(2, 1, 8, 8),))
    names = {node.target.__name__.split(".")[0] for node in program.graph.nodes if node.op == "call_function"}
    assert names == OPERATORS

"""The yardstick: distances on known arrays, and the defined order close to PyTorch's float32."""

import numpy as np
import pytest

from models.formats import fp32_values
from models.matmul import matmul
from models.reference import Error, chain_errors, error, float32_matmul
from tests.models.support import SEED, normal_operands


def test_distance():
    assert error(np.array([1.0, -4.5]), np.array([1.5, -4.0])) == Error(0.5, 0.125)
    assert error(np.zeros(3), np.zeros(3)) == Error(0.0, 0.0)
    assert error(np.zeros((0, 3)), np.zeros((0, 3))) == Error(0.0, 0.0)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"^arrays must have one shape, not \(2,\) and \(1, 2\)$"):
        error(np.zeros(2), np.zeros((1, 2)))


@pytest.mark.parametrize("operand", ["fp16", "bf16"])
def test_defined_order_is_close_to_pytorch(operand):
    rng = np.random.default_rng(SEED)
    a, w = normal_operands(rng, (31, 300), operand), normal_operands(rng, (300, 17), operand)
    # 300 roundings of at most 2**-24 of a partial sum each; measured about 3e-7.
    assert error(fp32_values(matmul(a, w, operand)), float32_matmul(a, w, operand)).relative < 2e-6


def test_rounding_of_operands_costs_far_more_than_the_order():
    chain, torch_order, rounding = chain_errors(256, "fp16")
    assert 0 < chain.relative < 1e-5
    assert 0 < torch_order.relative < 1e-5
    assert rounding.relative > 20 * chain.relative

"""The function that prunes against the definition of the hardware and against a loop."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hwgen.arch import UserError
from models import sparsity
from models.recipes import Pattern, nm_mask

# Few distinct magnitudes, so that nearly every group has ties.
VALUES = hnp.arrays(
    st.sampled_from([np.float16, np.float32, np.float64]),
    hnp.array_shapes(min_dims=1, max_dims=4, max_side=19),
    elements=st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 2.0, -2.0]),
)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(values=VALUES, data=st.data())
def test_equals_the_definition_of_the_hardware(values, data):
    m = data.draw(st.integers(1, 16))
    n = data.draw(st.integers(1, m))
    dim = data.draw(st.integers(-values.ndim, values.ndim - 1))
    np.testing.assert_array_equal(
        nm_mask(torch.from_numpy(values), Pattern(n, m), dim).numpy(), sparsity.nm_mask(values, n, m, dim)
    )


@pytest.mark.parametrize("pattern", ["2:4", "2:8", "1:4", "1:8", "2:16", "3:5"])
def test_equals_it_on_weights(pattern):
    seed = 7
    print(f"seed {seed}")
    weights = np.random.default_rng(seed).standard_normal((48, 32, 3, 3), dtype=np.float32)
    chosen = Pattern.parse(pattern)
    for dim in (0, 1):
        mask = nm_mask(torch.from_numpy(weights), chosen, dim).numpy()
        np.testing.assert_array_equal(mask, sparsity.nm_mask(weights, chosen.n, chosen.m, dim))


def test_ties_keep_the_lower_index():
    mask = nm_mask(torch.tensor([1.0, -1, 1, 1, 0, -0.0, 0, 3]), Pattern(2, 4), 0)
    assert mask.tolist() == [True, True, False, False, True, False, False, True]


def test_bfloat16_and_gradients_of_the_weights_do_not_matter():
    weights = torch.randn(4, 8, generator=torch.Generator().manual_seed(1)).bfloat16().requires_grad_()
    mask = nm_mask(weights, Pattern(2, 8), 1)
    assert not mask.requires_grad
    assert mask.sum(1).tolist() == [2] * 4


@pytest.mark.parametrize(
    ("values", "dim", "text"),
    [
        (torch.zeros(4, 4), 2, "dim must name one of the 2 dimensions of the values, not 2"),
        (torch.tensor(1.0), 0, "dim must name one of the 0 dimensions of the values, not 0"),
        (
            torch.tensor([[0.0, 1.0], [float("nan"), 2.0]]),
            1,
            "values to prune must be finite: element [1, 0] is nan",
        ),
        (torch.tensor([0.0, float("-inf")]), 0, "values to prune must be finite: element [1] is -inf"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(values, dim, text):
    with pytest.raises(UserError) as caught:
        nm_mask(values, Pattern(1, 2), dim)
    assert str(caught.value) == text


@pytest.mark.parametrize("text", ["3:2", "0:4", "2-4", "2:4 ", "", "sparse", "2:1000"])
def test_bad_patterns_are_refused(text):
    with pytest.raises(UserError, match="pattern"):
        Pattern.parse(text)


def test_patterns_read_and_write():
    assert Pattern.parse("2:16") == Pattern(2, 16)
    assert str(Pattern(2, 16)) == "2:16"
    assert Pattern.parse("dense") is None

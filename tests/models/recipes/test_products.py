"""The three products of a wrapped layer against loops and against autograd of the formulas, in double precision."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, linear

from models.recipes import Decision, Pattern, Recipe, recipe
from models.recipes.layers import wrap
from models.recipes.schedule import Stage

PATTERN = Pattern(2, 4)
BOTH = Decision(True, True)


def loop_mask(weight: torch.Tensor, pattern: Pattern, axis: int) -> torch.Tensor:
    """Groups of consecutive channels along `axis` at every other position, one weight chosen at a time."""
    mask = torch.zeros(weight.shape, dtype=torch.bool)
    others = [range(size) if d != axis else range(0, size, pattern.m) for d, size in enumerate(weight.shape)]
    for place in itertools.product(*others):
        group = [(*place[:axis], place[axis] + i, *place[axis + 1 :]) for i in range(pattern.m)]
        for chosen in sorted(group, key=lambda at: (-abs(weight[at].item()), at[axis]))[: pattern.n]:
            mask[chosen] = True
    return mask


def layers(seed: int) -> dict[str, tuple[nn.Module, torch.Tensor]]:
    torch.manual_seed(seed)
    made = {
        "linear": (nn.Linear(8, 12), torch.randn(5, 8)),
        "linear without bias, rows in two dimensions": (nn.Linear(8, 12, bias=False), torch.randn(2, 3, 8)),
        "convolution": (nn.Conv2d(8, 4, 3, padding=1), torch.randn(2, 8, 5, 5)),
        "strided, dilated, grouped": (
            nn.Conv2d(16, 8, (3, 2), stride=2, padding=(1, 0), dilation=(1, 2), groups=2, bias=False),
            torch.randn(2, 16, 6, 7),
        ),
    }
    return {name: (layer.double(), x.double()) for name, (layer, x) in made.items()}


def product(layer: nn.Module, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The layer's product with another weight, by PyTorch and its autograd."""
    if isinstance(layer, nn.Linear):
        return linear(x, weight, layer.bias)
    return conv2d(x, weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)


def measured(layer: nn.Module, x: torch.Tensor, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Output, input gradient, weight gradient and bias gradient of a layer."""
    x = x.clone().requires_grad_()
    layer.zero_grad()
    output = layer(x)
    output.backward(gradient)
    return output.detach(), x.grad, layer.weight.grad, None if layer.bias is None else layer.bias.grad


def expected(layer, x, gradient, forward, backward, pruned, factor, decay) -> tuple[torch.Tensor, ...]:
    """The same of formulas: each product by autograd of the plain one with the operands that it should take."""

    def gradients(weight, of_output):
        leaf, variable = x.clone().requires_grad_(), weight.detach().clone().requires_grad_()
        bias = () if layer.bias is None else (layer.bias,)
        return torch.autograd.grad(product(layer, leaf, variable), (leaf, variable, *bias), of_output)

    weight = layer.weight.detach()
    output = product(layer, x, forward).detach()
    _, dense, *of_bias = gradients(weight, gradient)
    return output, gradients(backward, pruned)[0], dense * factor + decay, of_bias[0] if of_bias else None


def wrapped(layer: nn.Module, chosen: Recipe, stage: Stage) -> nn.Module:
    wrap(layer, chosen, BOTH, PATTERN)
    layer.sparsity.stage = stage
    return layer


NAMES = list(layers(0))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", ["srste", "sdgp", "bdwp", "bimask", "mdgf", "sdgf"])
def test_products_take_the_operands_of_the_recipe(name, method):
    seed = 100 + NAMES.index(name)
    print(f"seed {seed}")
    layer, x = layers(seed)[name]
    weight = layer.weight.detach()
    into, out = loop_mask(weight, PATTERN, 1), loop_mask(weight, PATTERN, 0)
    gradient = torch.randn_like(layer(x))
    channels = gradient.ndim - 1 if isinstance(layer, nn.Linear) else 1
    leak = 0.25 if method == "mdgf" else 0.0
    faded = torch.where(into, 1.0, leak)
    twice = loop_mask(weight * into, PATTERN, 0)
    operands = {  # forward, backward, output gradient, factor of the weight gradient, its decay term
        "srste": (weight * into, weight * into, gradient, 1, 2e-4 * ~into * weight),
        "sdgp": (weight, weight, gradient * loop_mask(gradient, PATTERN, channels), 1, 0),
        "bdwp": (weight * into, weight * out, gradient, 1, 2e-4 * ~into * weight),
        "bimask": (weight * into, weight * into * twice, gradient, 1, 2e-4 * ~into * weight),
        "mdgf": (weight * faded, weight * faded, gradient, faded, 0),
        "sdgf": (weight * into, weight * into, gradient, into, 0),
    }[method]
    result = expected(layer, x, gradient, *operands)
    actual = measured(wrapped(layer, recipe(method), Stage(PATTERN, leak)), x, gradient)
    for want, got, what in zip(result, actual, ("output", "input gradient", "weight gradient", "bias gradient")):
        assert (want is None) == (got is None), what
        if want is not None:
            torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12, msg=lambda text, what=what: f"{what}: {text}")


@pytest.mark.parametrize("name", NAMES)
def test_stage_without_a_pattern_and_full_leak_are_dense(name):
    plain, x = layers(3)[name]
    gradient = torch.randn_like(plain(x))
    want = measured(plain, x, gradient)
    for stage in (Stage(None), Stage(PATTERN, 1.0)):
        got = measured(wrapped(layers(3)[name][0], recipe("mdgf"), stage), x, gradient)
        for one, other in zip(want, got):
            assert one is other is None or torch.allclose(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("decision", "method", "forward", "backward"),
    [
        (Decision(True, False, "odd"), "bdwp", True, False),
        (Decision(False, True, "odd"), "bdwp", False, True),
        (Decision(False, True, "odd"), "bimask", False, True),
        (Decision(True, False, "odd"), "sdgp", False, False),
    ],
)
def test_sides_that_the_policy_keeps_dense_stay_dense(decision, method, forward, backward):
    layer, x = layers(5)["linear"]
    weight = layer.weight.detach()
    wrap(layer, recipe(method), decision, PATTERN)
    gradient = torch.randn_like(layer(x))
    output, of_input, _, _ = measured(layer, x, gradient)
    operand = weight * loop_mask(weight, PATTERN, 1) if forward else weight
    torch.testing.assert_close(output, linear(x, operand, layer.bias.detach()))
    torch.testing.assert_close(of_input, gradient @ (weight * loop_mask(weight, PATTERN, 0) if backward else weight))


def test_gradients_that_nobody_needs_are_not_computed():
    layer, x = layers(6)["convolution"]
    wrapped(layer, recipe("bdwp"), Stage(PATTERN))
    layer(x).sum().backward()
    assert x.grad is None
    layer.weight.requires_grad_(False).grad = None
    layer(x.requires_grad_()).sum().backward()
    assert layer.weight.grad is None
    assert x.grad is not None


def test_weight_that_changes_before_the_backward_pass_is_noticed():
    layer, x = layers(8)["linear"]
    wrapped(layer, recipe("bdwp"), Stage(PATTERN))
    output = layer(x.requires_grad_())
    with torch.no_grad():
        layer.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()

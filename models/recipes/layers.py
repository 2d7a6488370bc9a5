"""Linear and convolution layers whose three products take the operands of a recipe."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import conv2d, linear

from models.pattern import Pattern
from models.recipes.policy import Decision
from models.recipes.prune import INPUT, OUTPUT, nm_mask
from models.recipes.recipe import Choice, Operand, Recipe
from models.recipes.schedule import Stage


@dataclass
class LayerSparsity:
    """Makes the operands of one layer from its dense weight. A mask of None keeps everything."""

    recipe: Recipe
    decision: Decision
    stage: Stage
    fixed: Tensor | None = None
    """Mask of recipes that choose once; groups along input channels."""

    def forward_mask(self, weight: Tensor) -> Tensor | None:
        """Mask of the forward operand."""
        if self.recipe.forward is Operand.DENSE or not self.decision.input or self.stage.pattern is None:
            return None
        return nm_mask(weight, self.stage.pattern, INPUT) if self.fixed is None else self.fixed.to(weight.device)

    def masked(self, values: Tensor, mask: Tensor | None) -> Tensor:
        """The values with those that are pruned faded to what the stage leaves of them."""
        return values if mask is None else torch.where(mask, values, self.stage.leak * values)

    def backward_operand(self, weight: Tensor, mask: Tensor | None) -> Tensor:
        """What output gradients are multiplied by; `mask` is that of the forward operand."""
        kind = self.recipe.backward
        base = weight if kind in (Operand.DENSE, Operand.OUTPUT) else self.masked(weight, mask)
        if kind in (Operand.OUTPUT, Operand.FORWARD_OUTPUT) and self._prunes_output():
            return self.masked(base, nm_mask(base, self.stage.pattern, OUTPUT))
        return base

    def backward_gradient(self, gradient: Tensor, channels: int) -> Tensor:
        """The output gradients of the backward product, `channels` being their dimension of output channels."""
        if not (self.recipe.prune_gradient and self._prunes_output()):
            return gradient
        return self.masked(gradient, nm_mask(gradient, self.stage.pattern, channels))

    def weight_gradient(self, weight: Tensor, mask: Tensor | None, gradient: Tensor) -> Tensor:
        """What the optimizer gets, made of the gradient of the forward operand: all or masked, with SR-STE's term."""
        if mask is None:
            return gradient
        if not self.recipe.straight_through:
            gradient = self.masked(gradient, mask)
        return gradient + self.recipe.decay * ~mask * weight if self.recipe.decay else gradient

    def _prunes_output(self) -> bool:
        return self.decision.output and self.stage.pattern is not None


class _Products(torch.autograd.Function):
    """One layer: forward, backward and weight gradient product, each with its own operands."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, layer: "SparseLinear | SparseConv2d") -> Tensor:
        mask = layer.sparsity.forward_mask(weight)
        ctx.layer = layer
        ctx.save_for_backward(x, weight, mask)
        return layer.product(x, layer.sparsity.masked(weight, mask), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mask = ctx.saved_tensors
        x, gradient = x.to(weight.dtype), gradient.to(weight.dtype)  # under autocast they are not
        layer, rule = ctx.layer, ctx.layer.sparsity
        of_input = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            pruned = rule.backward_gradient(gradient, layer.channels)
            of_input = layer.input_gradient(x, rule.backward_operand(weight, mask), pruned)
        if ctx.needs_input_grad[1]:
            of_weight = rule.weight_gradient(weight, mask, layer.dense_gradient(x, weight, gradient))
        if ctx.needs_input_grad[2]:
            of_bias = gradient.movedim(layer.channels, 0).flatten(1).sum(1)
        return of_input, of_weight, of_bias, None


class SparseLinear(nn.Linear):
    """A `Linear` whose products take the operands that `sparsity` makes: `[..., in]` -> `[..., out]`."""

    sparsity: LayerSparsity
    channels = -1
    """Dimension of the channels in activations and their gradients."""

    def forward(self, x: Tensor) -> Tensor:
        """As in `Linear`, with the forward operand of the recipe."""
        return _Products.apply(x, self.weight, self.bias, self)

    product = staticmethod(linear)

    @staticmethod
    def input_gradient(x: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
        """Gradient of the input `x`, in its shape."""
        return gradient @ weight

    @staticmethod
    def dense_gradient(x: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
        """Gradient of the weight, in its shape, of unpruned operands."""
        return gradient.flatten(0, -2).T @ x.flatten(0, -2)


class SparseConv2d(nn.Conv2d):
    """A `Conv2d` whose products take the operands that `sparsity` makes: `[batch, in, h, w]` -> `[batch, out, ...]`."""

    sparsity: LayerSparsity
    channels = 1

    def forward(self, x: Tensor) -> Tensor:
        """As in `Conv2d`, with the forward operand of the recipe."""
        return _Products.apply(x, self.weight, self.bias, self)

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Convolution with the settings of the layer."""
        return conv2d(x, weight, bias, *self._settings)

    def input_gradient(self, x: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
        """Gradient of the input `x`, in its shape."""
        return nn.grad.conv2d_input(x.shape, weight, gradient, *self._settings)

    def dense_gradient(self, x: Tensor, weight: Tensor, gradient: Tensor) -> Tensor:
        """Gradient of the weight, in its shape, of unpruned operands."""
        return nn.grad.conv2d_weight(x, weight.shape, gradient, *self._settings)

    @property
    def _settings(self) -> tuple:
        return self.stride, self.padding, self.dilation, self.groups


SPARSE = {nn.Linear: SparseLinear, nn.Conv2d: SparseConv2d}
"""Plain layer class -> class with the same parameters and names that takes a recipe's operands."""


def wrap(layer: nn.Module, recipe: Recipe, decision: Decision, pattern: Pattern) -> None:
    """Turn a plain layer into its sparse class, in place: parameters, their names and all references to it stay."""
    fixed = None
    if decision.input and recipe.choice is not Choice.LARGEST:
        scores = torch.rand_like(layer.weight) if recipe.choice is Choice.RANDOM else layer.weight
        fixed = nm_mask(scores, pattern, INPUT)
    layer.sparsity = LayerSparsity(recipe, decision, recipe.schedule(pattern, 0.0), fixed)
    layer.__class__ = SPARSE[type(layer)]


def unwrap(layer: SparseLinear | SparseConv2d) -> None:
    """Turn a sparse layer back into its plain class, with the forward operand as its weight."""
    weight = layer.weight.data
    layer.weight.data = layer.sparsity.masked(weight, layer.sparsity.forward_mask(weight))
    del layer.sparsity
    layer.__class__ = next(plain for plain, sparse in SPARSE.items() if sparse is type(layer))

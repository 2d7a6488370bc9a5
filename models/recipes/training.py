"""A recipe applied to a model: wrap its layers, follow the schedule, hand back a plain model."""

import copy
from collections.abc import Callable

import torch
from torch import nn

from hwgen.arch import UserError
from models.recipes.layers import SPARSE, unwrap, wrap
from models.recipes.policy import SparsityPolicy
from models.recipes.recipe import Choice, Operand, Recipe


class SparseTraining:
    """The layers of `module` that take the operands of `recipe`; what `sparsify` returns."""

    def __init__(self, module: nn.Module, recipe: Recipe, policy: SparsityPolicy) -> None:
        self.module, self.recipe, self.policy = module, recipe, policy
        self.plan = policy.plan(module)
        """Name of every linear and 2-D convolution layer -> decision, with a reason where it stays dense."""
        self._layers = [module.get_submodule(name) for name in self.plan if self._takes_part(name)]
        for layer, name in zip(self._layers, filter(self._takes_part, self.plan)):
            wrap(layer, recipe, self.plan[name], policy.pattern)

    def step(self, progress: float) -> None:
        """Follow the schedule; `progress` is the share of training that is done, 0 to 1. Raises `UserError` outside."""
        if not 0 <= progress <= 1:
            raise UserError(f"the share of training that is done must be in 0..1, not {progress}")
        for layer in self._layers:
            layer.sparsity.stage = self.recipe.schedule(self.policy.pattern, progress)

    def finish(self) -> nn.Module:
        """Follow the schedule to its end and make the layers plain again, forward operands as their weights."""
        self.step(1.0)
        while self._layers:
            unwrap(self._layers.pop())
        return self.module

    def _takes_part(self, name: str) -> bool:
        recipe, decision = self.recipe, self.plan[name]
        along_output = recipe.prune_gradient or recipe.backward in (Operand.OUTPUT, Operand.FORWARD_OUTPUT)
        return (decision.input and recipe.forward is not Operand.DENSE) or (decision.output and along_output)


def sparsify(module: nn.Module, recipe: Recipe, policy: SparsityPolicy) -> SparseTraining:
    """Let the layers of `module` that `policy` prunes take the operands of `recipe`, in place.

    Optimizers, state dictionaries and hooks are not affected: parameters stay the same dense ones under the same names.
    `Choice.RANDOM` draws from PyTorch's global generator. Raises `UserError` if layers are wrapped already, or if the
    policy names a layer that does not exist.
    """
    for name, layer in module.named_modules():
        if type(layer) in SPARSE.values():
            raise UserError(f"layer {name!r} follows a recipe already: call finish() first")
    return SparseTraining(module, recipe, policy)


def rewind(
    module: nn.Module, train: Callable[[nn.Module], None], recipe: Recipe, policy: SparsityPolicy
) -> SparseTraining:
    """Lottery ticket: `train` the dense module, choose masks from the result, put everything back to the start.

    Parameters and buffers are put back; `train` must use an optimizer of its own. Raises `UserError` for a recipe that
    does not choose its masks once from magnitudes.
    """
    if recipe.choice is not Choice.ONCE:
        raise UserError(f"only masks that are chosen once can be rewound, not {recipe.choice.value}")
    start = copy.deepcopy(module.state_dict())
    train(module)
    training = sparsify(module, recipe, policy)
    with torch.no_grad():
        module.load_state_dict(start)
    return training

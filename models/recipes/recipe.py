"""The recipes: which operands the three products of a layer take, from one dense weight that the optimizer updates.

Forward: output = input x weight. Backward: input gradient = output gradient x weight. Weight gradient: input x output
gradient, always of dense operands.
"""

from dataclasses import dataclass, fields, replace
from enum import Enum

from hwgen.arch import UserError
from models.recipes.schedule import (
    Schedule,
    constant,
    exponential_mask_decay,
    linear_mask_decay,
    structure_decay,
)

SR_STE_DECAY = 2e-4
"""Strength of the SR-STE term in the public code of its authors."""


class Operand(Enum):
    """A weight operand; N:M along the channels that the product reduces over is what the accelerator skips."""

    DENSE = "dense"
    INPUT = "N:M along input channels"
    OUTPUT = "N:M along output channels"
    FORWARD = "the forward operand"
    FORWARD_OUTPUT = "the forward operand, N:M along output channels"


class Choice(Enum):
    """When the kept weights are chosen, and by what."""

    LARGEST = "largest magnitudes, in every step"
    ONCE = "largest magnitudes, when the layers are wrapped"
    RANDOM = "at random, when the layers are wrapped"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One way to train with N:M weights."""

    forward: Operand = Operand.DENSE
    """DENSE or INPUT."""
    backward: Operand = Operand.DENSE
    prune_gradient: bool = False
    """The backward product takes output gradients that are N:M along output channels."""
    straight_through: bool = True
    """The weight gradient reaches all weights; False: it is masked, and faded, as the forward operand is."""
    decay: float = 0.0
    """`decay * weight` is added to the gradient of weights that the forward operand lacks (SR-STE)."""
    choice: Choice = Choice.LARGEST
    schedule: Schedule = constant

    def __post_init__(self) -> None:
        if self.forward not in (Operand.DENSE, Operand.INPUT):
            raise UserError(f"the forward operand must be dense or N:M along input channels, not {self.forward.value}")
        if self.backward is Operand.INPUT:
            raise UserError("the backward operand cannot have input channels in groups of its own: use FORWARD")
        if not 0 <= self.decay < 1:
            raise UserError(f"the decay of pruned weights must be in 0..1, not {self.decay}")


_MASKED = Recipe(forward=Operand.INPUT, backward=Operand.FORWARD, straight_through=False)
"""What autograd does with a masked weight."""

RECIPES = {
    # Nothing is pruned: plain PyTorch.
    "dense": Recipe(),
    # Zhou et al., "Learning N:M fine-grained structured sparse neural networks from scratch", ICLR 2021.
    "srste": Recipe(forward=Operand.INPUT, backward=Operand.FORWARD, decay=SR_STE_DECAY),
    # McDanel et al., "Accelerating DNN training with structured data gradient pruning", arXiv 2202.00774.
    "sdgp": Recipe(prune_gradient=True),
    # Fang et al., "Efficient N:M sparse DNN training using algorithm, architecture and dataflow co-design", 2309.13015.
    "bdwp": Recipe(forward=Operand.INPUT, backward=Operand.OUTPUT, decay=SR_STE_DECAY),
    # After Zhang et al., "Bi-directional masks for efficient N:M sparse training", ICML 2023; without its permutation.
    "bimask": Recipe(forward=Operand.INPUT, backward=Operand.FORWARD_OUTPUT, decay=SR_STE_DECAY),
    # Bambhaniya et al., "Progressive gradient flow for robust N:M sparsity training in transformers", arXiv 2402.04744.
    "mdgf": replace(_MASKED, schedule=exponential_mask_decay),
    "mdgf_linear": replace(_MASKED, schedule=linear_mask_decay),
    "sdgf": replace(_MASKED, schedule=structure_decay),
    # A mask without any information, to see what choosing is worth.
    "random": replace(_MASKED, choice=Choice.RANDOM),
    # Frankle and Carbin, "The lottery ticket hypothesis", ICLR 2019; with N:M tickets. Goes with `rewind`.
    "lottery": replace(_MASKED, choice=Choice.ONCE),
}
"""Recipes by name."""


def recipe(name: str, **changes) -> Recipe:
    """The recipe of that name, with fields of `Recipe` changed: `recipe("bdwp", decay=0, schedule=structure_decay)`.

    Raises `UserError` for an unknown name or field.
    """
    if name not in RECIPES:
        raise UserError(f"unknown recipe {name!r}: there are {', '.join(RECIPES)}")
    settings = [field.name for field in fields(Recipe)]
    for key in changes:
        if key not in settings:
            raise UserError(f"a recipe has no setting {key!r}: it has {', '.join(settings)}")
    return replace(RECIPES[name], **changes)

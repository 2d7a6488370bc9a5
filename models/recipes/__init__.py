"""Recipes for training with N:M weights, in plain PyTorch."""

from models.pattern import Pattern
from models.recipes.policy import Decision, SparsityPolicy
from models.recipes.prune import nm_mask
from models.recipes.recipe import RECIPES, Choice, Operand, Recipe, recipe
from models.recipes.training import SparseTraining, rewind, sparsify

__all__ = [
    "RECIPES",
    "Choice",
    "Decision",
    "Operand",
    "Pattern",
    "Recipe",
    "SparseTraining",
    "SparsityPolicy",
    "nm_mask",
    "recipe",
    "rewind",
    "sparsify",
]

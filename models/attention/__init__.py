"""SpAtten's pruning in PyTorch: cascades of tokens and heads, local values, progressive quantisation."""

from models.attention.policy import PruningPolicy, Schedule
from models.attention.quantize import SPLITS, Quantization
from models.attention.wrapper import PrunedModel, prune

__all__ = ["SPLITS", "PrunedModel", "PruningPolicy", "Quantization", "Schedule", "prune"]

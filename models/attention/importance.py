"""Importance of tokens and heads: sums of fixed-point numbers, so that no order of additions changes a bit.

Token score: unsigned, 32 bits, 16 of them fraction: the sum of probabilities over heads, queries and layers.
Head score: unsigned, 32 bits, 8 of them fraction: the sum of output magnitudes over queries and features.
Each addend is rounded once, to nearest, ties up; sums saturate at `SCORE_MAX`. A token can saturate only if it gathers
65,536 in all: of Q queries, H heads and L layers at most Q H L / 65,536 tokens do, and rank first, by index.
Scores rank as unsigned integers (`topk`); `PROTECTED` is above every score.
"""

import torch
from torch import Tensor

from models.attention.policy import FORGETTING_STEPS

TOKEN_FRACTION = 16
HEAD_FRACTION = 8
PROTECTED = 2**32 - 1
SCORE_MAX = PROTECTED - 1


def fixed_point(values: Tensor, fraction: int) -> Tensor:
    """Unsigned fixed-point integers (int64) of FP32 values >= 0, to nearest, ties up, saturated at `SCORE_MAX`.

    In float64 value x 2^fraction + 1/2 is exact wherever the addition could change the integer part.
    """
    return torch.floor(values.double() * 2**fraction + 0.5).clamp(max=SCORE_MAX).to(torch.int64)


def token_addend(probabilities: Tensor) -> Tensor:
    """Sum over heads and queries [batch, keys] of probabilities [batch, heads, queries, keys], in fixed point."""
    return fixed_point(probabilities, TOKEN_FRACTION).sum((1, 2))


def head_addend(output: Tensor) -> Tensor:
    """Sum over queries and features [batch, heads] of |output| [batch, heads, queries, features], in fixed point."""
    return fixed_point(output.abs(), HEAD_FRACTION).sum((2, 3))


def accumulate(score: Tensor, addend: Tensor) -> Tensor:
    """Saturating sum."""
    return (score + addend).clamp(max=SCORE_MAX)


def forget(score: Tensor, factor: float) -> Tensor:
    """Scores times `factor` (a multiple of 1/256), rounded down."""
    return score * round(factor * FORGETTING_STEPS) // FORGETTING_STEPS


def protect(score: Tensor, protected: Tensor) -> Tensor:
    """Scores with `PROTECTED` where the mask says so."""
    return torch.where(protected, PROTECTED, score)

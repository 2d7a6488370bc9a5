"""Linear symmetric quantisation in two planes: most and least significant bits, stored and fetched apart.

A tensor has one scale for each head, known before the layer runs: largest magnitude of the first pass of the sequence
(an encoder: of the sequence; a decoder: of its prompt), or calibrated. Later tokens saturate. The engine works head by
head, so a scale for each head is one constant in the descriptor of that head (it also holds 1/sqrt(D)) and costs
nothing; a scale for each token would have to be stored beside every key, and a scale for the whole tensor
wastes bits in quiet heads. Scales cannot follow the data of a decoder, whose keys are quantised before later ones
exist.
"""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from hwgen.arch import UserError

SPLITS = ((4, 4), (6, 4), (8, 4), (10, 4), (12, 4))
"""Bits of the MSB and the LSB plane."""
VALUE_LSB = ("never", "with_keys", "always")


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """Bit split and when LSBs are fetched; queries have all their bits at once.

    Raises `UserError` for splits that are not in `SPLITS`, and for other values that are out of range.
    """

    msb: int = 6
    lsb: int = 4
    threshold: float = 0.1
    """Rows (queries of a head) whose largest probability is below it fetch LSBs of keys and are computed again.

    0: none; above 1: all, at once, so that no first pass with MSBs alone is needed.
    """
    cutoff: float | None = None
    """None: all keys of such a row. Else only keys whose probability may reach `cutoff`, whatever their LSBs are."""
    value_lsb: str = "always"
    """When LSBs of values are fetched, one of `VALUE_LSB`; with_keys: in rows that fetch those of keys."""

    def __post_init__(self) -> None:
        if (self.msb, self.lsb) not in SPLITS:
            allowed = ", ".join(f"{msb}+{lsb}" for msb, lsb in SPLITS)
            raise UserError(f"bits must be split as one of {allowed}, not {self.msb}+{self.lsb}")
        if not 0 <= self.threshold < math.inf:
            raise UserError(
                f"the threshold of the largest probability must be a number, 0 or more, not {self.threshold}"
            )
        if self.cutoff is not None and not 0 < self.cutoff < 1:
            raise UserError(f"the probability that still matters must be between 0 and 1, not {self.cutoff}")
        if self.value_lsb not in VALUE_LSB:
            raise UserError(f"value_lsb must be one of {', '.join(VALUE_LSB)}, not {self.value_lsb!r}")

    @classmethod
    def parse(cls, text: str, **others: object) -> Self:
        """`"6+4"` -> Quantization(msb=6, lsb=4). Raises `UserError` on anything else."""
        try:
            msb, lsb = map(int, text.split("+"))
        except ValueError:
            raise UserError(f"a bit split is written MSB+LSB, such as 6+4, not {text!r}") from None
        return cls(msb=msb, lsb=lsb, **others)

    def __str__(self) -> str:
        return f"{self.msb}+{self.lsb}"

    @property
    def one_pass(self) -> bool:
        """Whether all rows have all bits at once."""
        return self.threshold > 1 and self.cutoff is None

    @property
    def bits(self) -> int:
        """Bits of both planes."""
        return self.msb + self.lsb


def scale_of(magnitude: Tensor, bits: int) -> Tensor:
    """FP32 step for a largest magnitude: magnitude / (2^(bits - 1) - 1), one rounding; 1 where it is 0."""
    return torch.where(magnitude > 0, magnitude.float() / (2 ** (bits - 1) - 1), 1.0)


def quantize(values: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Integers (int32) from -(2^(bits-1) - 1) to 2^(bits-1) - 1: value x (1 / scale) in FP32, to nearest even."""
    limit = 2 ** (bits - 1) - 1
    return torch.round(values.float() * (1.0 / scale)).clamp(-limit, limit).to(torch.int32)


def planes(integers: Tensor, lsb: int) -> tuple[Tensor, Tensor]:
    """MSB plane (signed: arithmetic shift) and LSB plane (unsigned)."""
    return integers >> lsb, integers & (2**lsb - 1)


def join(msb: Tensor, lsb_plane: Tensor, lsb: int) -> Tensor:
    """The integers of two planes."""
    return (msb << lsb) + lsb_plane


def middle(msb: Tensor, lsb: int) -> Tensor:
    """Integers for MSBs alone: the middle of the interval, rounded up: LSBs as 10...0."""
    return (msb << lsb) + 2 ** (lsb - 1)


def products(query: Tensor, key: Tensor) -> Tensor:
    """Exact integer products [..., queries, keys] as float64: below 2^53 for D up to 2^21."""
    return query.double() @ key.double().transpose(-1, -2)


def margin(query: Tensor, lsb: int) -> Tensor:
    """Largest distance [..., queries, 1] between q.k and q.middle(k): LSBs differ from 10...0 by 2^(lsb-1) at most."""
    return query.double().abs().sum(-1, keepdim=True) * 2 ** (lsb - 1)


def may_reach(probability: Tensor, score_margin: Tensor, cutoff: float) -> Tensor:
    """Whether the exact probability can be `cutoff` or more when every score is off by `score_margin` at most.

    At worst the key's own score is larger by the margin and all others smaller, which multiplies its probability by
    exp(2 margin) at most: one limit for each row.
    """
    return probability >= cutoff / torch.exp(2 * score_margin)

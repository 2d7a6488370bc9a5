"""The float32 yardstick: how far the defined arithmetic is from PyTorch's float32 and from float64.

`python -m models.reference` prints the table of models/README.md.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from models.formats import FORMATS, decode, encode, fp32_values
from models.matmul import matmul

_SEED = 2024
_SIDE = 64


@dataclass(frozen=True)
class Error:
    """Distance of one array from another."""

    absolute: float
    """Largest difference of two elements."""
    relative: float
    """The same, over the largest magnitude of the expected array; 0 if both arrays are zero."""


def error(actual: NDArray[np.floating], expected: NDArray[np.floating]) -> Error:
    """Distance of finite arrays of one shape, computed in float64. Raises `ValueError` if the shapes differ."""
    if actual.shape != expected.shape:
        raise ValueError(f"arrays must have one shape, not {actual.shape} and {expected.shape}")
    absolute = float(np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max(initial=0.0))
    scale = float(np.abs(expected.astype(np.float64)).max(initial=0.0))
    return Error(absolute, absolute / scale if scale else absolute)


def float32_matmul(a_bits: NDArray[np.uint16], w_bits: NDArray[np.uint16], operand: str) -> NDArray[np.float32]:
    """PyTorch's float32 product of activations `[P, K]` and weights `[K, S]`, both operand bit patterns."""
    return (torch.from_numpy(decode(a_bits, operand)) @ torch.from_numpy(decode(w_bits, operand))).numpy()


def chain_errors(depth: int, operand: str) -> tuple[Error, Error, Error]:
    """Errors of one random 64 x `depth` x 64 product of rounded standard normal operands, all against float64.

    Of the defined arithmetic, of PyTorch's float32, and of the defined arithmetic on operands before they were rounded
    (what the operand format costs).
    """
    rng = np.random.default_rng(_SEED)
    left = rng.standard_normal((_SIDE, depth), dtype=np.float32)
    right = rng.standard_normal((depth, _SIDE), dtype=np.float32)
    a_bits, w_bits = encode(left, operand), encode(right, operand)
    exact = decode(a_bits, operand).astype(np.float64) @ decode(w_bits, operand).astype(np.float64)
    result = fp32_values(matmul(a_bits, w_bits, operand))
    unrounded = left.astype(np.float64) @ right.astype(np.float64)
    return error(result, exact), error(float32_matmul(a_bits, w_bits, operand), exact), error(result, unrounded)


def _main() -> None:
    print("| operands | K | defined order | PyTorch float32 | rounding of operands included |")
    print("| --- | --- | --- | --- | --- |")
    for operand in FORMATS:
        for depth in (64, 512, 1152, 4608):
            errors = " | ".join(f"{one.relative:.1e}" for one in chain_errors(depth, operand))
            print(f"| {operand.upper()} | {depth} | {errors} |")


if __name__ == "__main__":
    _main()

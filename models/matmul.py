"""The defined matrix arithmetic: one FP32 sum per output, addends in ascending reduction order, one rounding for each.

`chain` is the readable definition in numpy. `accumulate_dense` and `accumulate_gathered` are compiled kernels that give
the same bits; they run over rows of activations side by side, which leaves the order of every single sum alone.
No kernel uses fastmath: the compiler may neither reorder sums nor fuse a product into a sum.
"""

import numba
import numpy as np
from numpy.typing import NDArray

from models.formats import decode, fp32_bits, fp32_values


def chain(
    a_bits: NDArray[np.uint16], w_bits: NDArray[np.uint16], operand: str, start: NDArray[np.uint32] | None = None
) -> NDArray[np.uint32]:
    """Product of activations `[P, K]` and weights `[K, S]`, both operand bit patterns, as FP32 bit patterns `[P, S]`.

    Sums begin at +0, or at `start` (`[P, S]` FP32 bit patterns), and take the products of k = 0, 1, ... in turn.
    """
    activations, weights = decode(a_bits, operand), decode(w_bits, operand)
    shape = (activations.shape[0], weights.shape[1])
    sums = np.zeros(shape, dtype=np.float32) if start is None else fp32_values(start).copy()
    with np.errstate(all="ignore"):
        for k in range(weights.shape[0]):
            sums += activations[:, k, None] * weights[k]
    return fp32_bits(sums)


@numba.njit(cache=True)
def accumulate_dense(activations: NDArray[np.float32], weights: NDArray[np.float32], sums: NDArray[np.float32]) -> None:
    """Add to `sums` `[S, P]` the products of activations `[K, P]` and weights `[K, S]`, in place, k ascending.

    All three must be C-contiguous float32.
    """
    depth, columns = weights.shape
    rows = activations.shape[1]
    whole = depth - depth % 4
    for column in range(columns):
        total = sums[column]
        # Four addends a pass save loads and stores of the sum; Python's left-to-right order is the order of additions.
        for k in range(0, whole, 4):
            w0, w1, w2, w3 = (
                weights[k, column],
                weights[k + 1, column],
                weights[k + 2, column],
                weights[k + 3, column],
            )
            a0, a1, a2, a3 = activations[k], activations[k + 1], activations[k + 2], activations[k + 3]
            for p in range(rows):
                total[p] = (((total[p] + a0[p] * w0) + a1[p] * w1) + a2[p] * w2) + a3[p] * w3
        for k in range(whole, depth):
            w0, a0 = weights[k, column], activations[k]
            for p in range(rows):
                total[p] += a0[p] * w0


@numba.njit(cache=True)
def accumulate_gathered(
    activations: NDArray[np.float32],
    weights: NDArray[np.float32],
    places: NDArray[np.uint32],
    sums: NDArray[np.float32],
) -> None:
    """Add to `sums` `[S, P]` the products of weights `[T, S]` and activations `[K, P]`, in place, t ascending.

    `places` `[T, S]` names the activation row of each weight. C-contiguous; every place must be below K (not checked).
    """
    depth, columns = weights.shape
    rows = activations.shape[1]
    whole = depth - depth % 2
    for column in range(columns):
        total = sums[column]
        for t in range(0, whole, 2):
            w0, w1 = weights[t, column], weights[t + 1, column]
            a0, a1 = activations[places[t, column]], activations[places[t + 1, column]]
            for p in range(rows):
                total[p] = (total[p] + a0[p] * w0) + a1[p] * w1
        for t in range(whole, depth):
            w0, a0 = weights[t, column], activations[places[t, column]]
            for p in range(rows):
                total[p] += a0[p] * w0


def matmul(
    a_bits: NDArray[np.uint16], w_bits: NDArray[np.uint16], operand: str, start: NDArray[np.uint32] | None = None
) -> NDArray[np.uint32]:
    """`chain`, computed by the compiled kernel: same arguments, same bits."""
    activations = np.ascontiguousarray(decode(a_bits, operand).T)
    weights = np.ascontiguousarray(decode(w_bits, operand))
    shape = (weights.shape[1], activations.shape[1])
    sums = np.zeros(shape, dtype=np.float32) if start is None else np.array(fp32_values(start).T, order="C")
    accumulate_dense(activations, weights, sums)
    return fp32_bits(sums.T)

"""How a tensor of PyTorch lies in a tensor of ours: a strided view of its values in row-major order.

A PyTorch dimension may be spread over several of our axes: after `flatten`, the features of an image are its channels,
rows and columns in PyTorch's order, but rows, columns and channels in ours. So each dimension is a list of *factors*
(size, stride), the outermost first; a stride of 0 repeats a value.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwgen.arch import UserError

Factor = tuple[int, int]
Dim = tuple[Factor, ...]


@dataclass(frozen=True)
class Layout:
    """Dimensions of a PyTorch tensor over `shape`, our `[N, H, W, C]`; strides count values in row-major order."""

    shape: tuple[int, int, int, int]
    dims: tuple[Dim, ...]
    classes: int = 0
    """If not 0, PyTorch's tensor holds class labels (or token numbers), and ours one-hot rows of that many channels."""

    @property
    def torch_shape(self) -> tuple[int, ...]:
        """Shape of the PyTorch tensor."""
        return tuple(size_of(dim) for dim in self.dims)

    def from_torch(self, values: NDArray) -> NDArray:
        """Our array, of PyTorch's; raises `UserError` for a label that is no class."""
        if tuple(values.shape) != self.torch_shape:
            raise ValueError(f"an array of shape {list(self.torch_shape)} is needed, not {list(values.shape)}")
        factors, order = self._order()
        rows = values.reshape([size for size, _ in factors]).transpose(order)
        if self.classes:
            wrong = rows[(rows < 0) | (rows >= self.classes)]
            if wrong.size:
                raise UserError(f"labels and tokens must be in 0..{self.classes - 1}, not {wrong[0]}")
            return np.eye(self.classes, dtype=np.float32)[rows.reshape(-1)].reshape(self.shape)
        return np.ascontiguousarray(rows).reshape(self.shape)

    def to_torch(self, values: NDArray) -> NDArray:
        """PyTorch's array, of ours."""
        factors, order = self._order()
        rows = values.argmax(axis=-1) if self.classes else values
        ordered = rows.reshape([factors[place][0] for place in order])
        return ordered.transpose(np.argsort(order)).reshape(self.torch_shape)

    def _order(self) -> tuple[list[Factor], list[int]]:
        """Factors in PyTorch's order, and their places from the largest to the smallest stride."""
        factors = [factor for dim in self.dims for factor in dim]
        return factors, sorted(range(len(factors)), key=lambda place: -factors[place][1])


def size_of(dim: Dim) -> int:
    """Number of positions of a dimension."""
    return math.prod(size for size, _ in dim)

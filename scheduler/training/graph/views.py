"""Strided views: PyTorch's `view`, `permute`, `expand` and their like without moving a value.

A view has one list of *factors* (size, stride) for each dimension of PyTorch's tensor, the outermost factor first;
strides count values of our tensor in row-major order, and a stride of 0 repeats a value (`layout.py`).
"""

import math
from dataclasses import dataclass

from scheduler.training.graph.layout import Dim, Factor, size_of
from scheduler.training.graph.shapes import Shape

Dims = tuple[Dim, ...]
Triple = tuple[int, int, int]
"""Size, stride in one view, stride in another."""


@dataclass(frozen=True)
class View:
    """PyTorch's tensor as it lies in one of ours."""

    tensor: str
    dims: Dims

    def __post_init__(self) -> None:
        object.__setattr__(self, "dims", tuple(canonical(dim) for dim in self.dims))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Shape of PyTorch's tensor."""
        return tuple(size_of(dim) for dim in self.dims)

    @property
    def repeats(self) -> bool:
        """Whether a value stands in more than one place."""
        return any(stride == 0 for dim in self.dims for _, stride in dim)


def canonical(dim: Dim) -> Dim:
    """The shortest list of factors for a dimension."""
    merged: list[Factor] = []
    for size, stride in dim:
        if size == 1:
            continue
        if merged and merged[-1][1] == size * stride:
            merged[-1] = (merged[-1][0] * size, stride)
        else:
            merged.append((size, stride))
    return tuple(merged)


def row_major(sizes: tuple[int, ...]) -> Dims:
    """Dimensions that follow one another in memory."""
    strides = [math.prod(sizes[place + 1 :]) for place in range(len(sizes))]
    return tuple(canonical(((size, stride),)) for size, stride in zip(sizes, strides))


def standard(sizes: tuple[int, ...]) -> tuple[Dims, Shape]:
    """How a tensor of PyTorch lies in ours if nothing asks for anything else: images become channels-last."""
    if len(sizes) == 4:
        n, c, h, w = sizes
        dims = ((n, h * w * c),), ((c, 1),), ((h, w * c),), ((w, c),)
        return tuple(canonical(dim) for dim in dims), (n, h, w, c)
    shape = (1,) * (4 - len(sizes)) + sizes if len(sizes) < 4 else (1, 1, 1, math.prod(sizes))
    if len(sizes) in (2, 3):
        shape = (sizes[0], 1, sizes[1] if len(sizes) == 3 else 1, sizes[-1])
    return row_major(sizes), shape


def regroup(dims: Dims, sizes: tuple[int, ...]) -> Dims | None:
    """Dimensions of a `view` of other sizes, or None if the values would have to move."""
    left = list(canonical(tuple(factor for dim in dims for factor in dim)))
    result: list[Dim] = []
    for wanted in sizes:
        taken: list[Factor] = []
        while wanted > 1:
            size, stride = left.pop(0)
            if size > wanted:
                if size % wanted:
                    return None
                left.insert(0, (size // wanted, stride))
                size, stride = wanted, stride * (size // wanted)
            elif wanted % size:
                return None
            taken.append((size, stride))
            wanted //= size
        result.append(canonical(tuple(taken)))
    return tuple(result)


def refine(one: Dims, other: Dims) -> list[Triple] | None:
    """Common factors of two views of the same sizes, or None if there are none."""
    result: list[Triple] = []
    for left, right in zip(one, other, strict=True):
        mine, theirs = list(left), list(right)
        while mine and theirs:
            (a, stride_a), (b, stride_b) = mine.pop(0), theirs.pop(0)
            size = min(a, b)
            if a % size or b % size:
                return None
            if a > size:
                mine.insert(0, (a // size, stride_a))
            if b > size:
                theirs.insert(0, (b // size, stride_b))
            result.append((size, stride_a * (a // size), stride_b * (b // size)))
    return result


def moved(dim: Dim, pairs: list[Triple]) -> Dim:
    """A dimension after the values of a tensor have moved from the first to the second stride of each pair."""
    result: list[Factor] = []
    for size, stride in dim:
        inside = sorted((pair for pair in pairs if stride <= pair[1] < stride * size), key=lambda pair: -pair[1])
        result += [(part, new) for part, _, new in inside] if stride else [(size, 0)]
    return canonical(tuple(result))


def permutation(pairs: list[Triple]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """`split` and `order` of the `Permute` that moves values from the first to the second stride of each pair."""
    old = sorted(pairs, key=lambda pair: -pair[1])
    order = sorted(range(len(old)), key=lambda place: -old[place][2])
    runs = [[order[0]]]
    for place in order[1:]:
        if place == runs[-1][-1] + 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    ascending = sorted(runs)
    split = tuple(math.prod(old[place][0] for place in run) for run in ascending)
    return split, tuple(ascending.index(run) for run in runs)


def block(factors: Dim) -> Factor | None:
    """The one factor that these factors cover together in any order, or None."""
    whole = canonical(tuple(sorted(factors, key=lambda factor: -factor[1])))
    if not whole:
        return (1, 1)
    return whole[0] if len(whole) == 1 and whole[0][1] else None


def scaled(dim: Dim, above: int, numerator: int, denominator: int) -> Dim:
    """A dimension after what lies inside stride `above` has become longer or shorter by a ratio."""
    return tuple((size, stride * numerator // denominator if stride >= above else stride) for size, stride in dim)

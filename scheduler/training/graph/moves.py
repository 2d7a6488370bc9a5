"""Operators that move values without computing: what PyTorch's views become where strides do not express them."""

from dataclasses import dataclass

from scheduler.training.graph.base import Operator, Result, Source


@dataclass(frozen=True)
class Reshape(Operator):
    """The same values in the same row-major order under another shape."""

    output: Result
    input: Source


@dataclass(frozen=True)
class Permute(Operator):
    """The values as an array of shape `split`, its dimensions transposed to `order`, in the shape of the output."""

    output: Result
    input: Source
    split: tuple[int, ...]
    order: tuple[int, ...]


@dataclass(frozen=True)
class Broadcast(Operator):
    """The values repeated along the dimensions in which the input has size 1."""

    output: Result
    input: Source


@dataclass(frozen=True)
class Slice(Operator):
    """Positions `start` onwards of one axis (0..3 for N, H, W, C), as many as the output has."""

    output: Result
    input: Source
    axis: int
    start: int


@dataclass(frozen=True)
class Pad(Operator):
    """Gradient of `Slice`: the input at positions `start` onwards of one axis, zeros elsewhere."""

    output: Result
    input: Source
    axis: int
    start: int


@dataclass(frozen=True)
class Concat(Operator):
    """The inputs one after the other along one axis."""

    output: Result
    inputs: tuple[Source, ...]
    axis: int


Move = Reshape | Permute | Broadcast | Slice | Pad | Concat

"""Operators that the attention engine runs; all others of an encoder are those of a training step."""

from dataclasses import dataclass

from scheduler.training.graph.base import Operator, Result, Source
from scheduler.training.graph.shapes import Rules, Shapes


@dataclass(frozen=True)
class Attend(Operator):
    """`softmax(scale * query @ key^T) @ value` for each head; tensors are `[1, 1, T, heads * head_size]`.

    Keys and values may have fewer heads, `kv_heads`: query head h takes head h // (heads / kv_heads) of them. With
    `causal` token i sees tokens 0 .. i. `keep_heads`: first so many heads are chosen by their importance, and the
    output of all others is 0 here and in later layers; None: as many as before.
    """

    output: Result
    query: Source
    key: Source
    value: Source
    heads: int
    kv_heads: int
    scale: float
    causal: bool
    keep_heads: int | None = None


@dataclass(frozen=True)
class Gather(Operator):
    """The rows `[1, 1, keep, C]` of the most important tokens of `[1, 1, T, C]`, in their order.

    `again`: the tokens are those that the `Gather` before it chose.
    """

    output: Result
    input: Source
    again: bool = False


@dataclass(frozen=True)
class RmsNorm(Operator):
    """`output = input * gamma / sqrt(mean of squares + eps)`, each pixel over its channels."""

    output: Result
    input: Source
    gamma: Source | None
    eps: float


def _attend(item: Attend, shape: Shapes) -> bool:
    query, key = shape(item.query), shape(item.key)
    return (
        (shape(item.output), shape(item.value)) == (query, key)
        and query[:3] == key[:3]
        and query[3] % item.heads == key[3] % item.kv_heads == item.heads % item.kv_heads == 0
        and query[3] // item.heads == key[3] // item.kv_heads
    )


def _gather(item: Gather, shape: Shapes) -> bool:
    rows, kept = shape(item.input), shape(item.output)
    return rows[:2] == kept[:2] == (1, 1) and rows[3] == kept[3] and kept[2] < rows[2]


def _rms_norm(item: RmsNorm, shape: Shapes) -> bool:
    rows = shape(item.input)
    return shape(item.output) == rows and (item.gamma is None or shape(item.gamma) == (1, 1, 1, rows[3]))


RULES: Rules = {Attend: _attend, Gather: _gather, RmsNorm: _rms_norm}
"""What each operator asks of the shapes of its tensors."""

"""A pruning policy -> where rows leave the graph: the cascade of tokens and of heads, with counts known beforehand.

Between two attentions there is a value through which everything passes: the residual stream. Behind the first such
value rows of pruned tokens are dropped, and whatever follows has fewer rows. What stands there works row by row, so it
does not matter for the survivors that this is before the feed-forward part, also where the wrapper in PyTorch drops
rows behind it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hwgen.arch import UserError
from models.attention.policy import PruningPolicy, Schedule
from scheduler.attention.operators import RULES, Attend, Gather, RmsNorm
from scheduler.convert import free_name
from scheduler.training.graph.base import Operator
from scheduler.training.graph.ir import Kind, Tensor, TrainingGraph, verify_operators
from scheduler.training.graph.moves import Slice
from scheduler.training.graph.operators import Add, Bias, Conv, Gelu, LayerNorm, Mul, Relu, Scale, Silu

ROW_BY_ROW = (Add, Attend, Bias, Conv, Gelu, LayerNorm, Mul, Relu, RmsNorm, Scale, Silu)
"""Operators that give for some tokens what they give for all of them, and attention."""


@dataclass(frozen=True)
class Kept:
    """Tokens and heads that a layer keeps."""

    tokens: int
    heads: int


def attentions(graph: TrainingGraph) -> list[Attend]:
    """Attention of each layer."""
    return [item for item in graph.operators if isinstance(item, Attend)]


def kept_of(graph: TrainingGraph, policy: PruningPolicy) -> list[Kept]:
    """What each layer keeps. Raises `UserError` for a policy that does not fit the graph, or whose counts need data."""
    layers = attentions(graph)
    if not layers:
        raise UserError("the model has no attention: nothing calls scaled_dot_product_attention")
    for name in ("tokens", "heads", "values"):
        schedule = getattr(policy, name)
        if schedule is not None and schedule.thresholds:
            raise UserError(f"the schedule of {name} has thresholds: a program needs shares or caps")
    heads = layers[0].heads
    if any(item.heads != heads for item in layers):
        raise UserError("all layers must have as many heads")
    policy.check(len(layers), heads, layers[0].causal)
    length = graph.tensors[layers[0].output].shape[2]
    found = kept_for(policy, layers, length)
    if found[0].tokens != length:
        raise UserError("layer 0 must keep all tokens: before it runs no score is known")
    return found


def kept_for(policy: PruningPolicy, layers: Sequence[Attend], length: int) -> list[Kept]:
    """What each layer keeps of a sequence of so many tokens."""
    found, tokens, alive = [], length, layers[0].heads
    for number, item in enumerate(layers):
        least = min(tokens, policy.protect_first + (policy.recent if item.causal else 0))
        tokens = min(tokens, max(least, _count(policy.tokens, number, length)))
        alive = min(alive, _count(policy.heads, number, item.heads))
        found.append(Kept(tokens, alive))
    return found


def _count(schedule: Schedule | None, layer: int, n: int) -> int:
    return n if schedule is None else schedule.count(layer, n)


def prune(graph: TrainingGraph, kept: list[Kept]) -> TrainingGraph:
    """The graph with a `Gather` wherever a layer keeps fewer tokens, and with heads that are chosen.

    Raises `UserError` if rows cannot leave there.
    """
    cuts = _cuts(graph, kept)
    tensors, names, operators = dict(graph.tensors), {}, []
    layer, rows, length = -1, kept[0].tokens, kept[0].tokens
    for original in graph.operators:
        item = original.renamed(names)
        if rows < length:
            _shorten(tensors, item, length, rows)
        if isinstance(item, Attend):
            layer += 1
            if layer and kept[layer].heads < kept[layer - 1].heads:
                item = replace(item, keep_heads=kept[layer].heads)
        operators.append(item)
        for number, cut in enumerate(cuts.get(id(original), ())):
            rows, source = kept[layer + 1].tokens, names.get(cut, cut)
            names[cut] = name = free_name(f"{cut}.kept", tensors)
            tensors[name] = Tensor(name, (1, 1, rows, tensors[source].shape[3]), Kind.ACTIVATION)
            operators.append(Gather(name, source, again=number > 0))
    pruned = replace(graph, tensors=tensors, operators=tuple(operators))
    verify_operators(pruned, RULES)
    return pruned


def _shorten(tensors: dict[str, Tensor], item: Operator, length: int, rows: int) -> None:
    """Results of an operator behind a cut have fewer rows."""
    if not isinstance(item, ROW_BY_ROW) and not (isinstance(item, Slice) and item.axis == 3):
        raise UserError(f"tokens cannot be pruned: {type(item).__name__} behind them does not work row by row")
    for name in item.names("result"):
        shape = tensors[name].shape
        if shape[:3] != (1, 1, length):
            raise UserError(f"tokens cannot be pruned: {name} has no row for each of them")
        tensors[name] = replace(tensors[name], shape=(1, 1, rows, shape[3]))


def _cuts(graph: TrainingGraph, kept: list[Kept]) -> dict[int, tuple[str, ...]]:
    """Operators, by identity, behind which rows leave: the value through which everything passes there, then tables."""
    hidden, *tables = graph.of_kind(Kind.INPUT)
    last: dict[str, int] = dict.fromkeys(graph.outputs.values(), len(graph.operators))
    for place, item in enumerate(graph.operators):
        for name in item.names("source"):
            last[name] = max(last.get(name, 0), place)
    live = {hidden} & last.keys()
    cuts: dict[int, tuple[str, ...]] = {}
    layer, wanted = -1, False
    for place, item in enumerate(graph.operators):
        live |= {name for name in item.names("result") if name in last}
        live = {name for name in live if last[name] > place}
        if isinstance(item, Attend):
            if wanted:
                break
            layer += 1
            wanted = layer + 1 < len(kept) and kept[layer + 1].tokens < kept[layer].tokens
        if wanted and len(live) == 1:
            needed = [name for name in tables if last.get(name, 0) > place]
            cuts[id(item)], wanted = (*live, *needed), False
    if wanted:
        raise UserError(
            f"tokens cannot be pruned behind layer {layer}: no single value leads from there to the next attention"
        )
    return cuts

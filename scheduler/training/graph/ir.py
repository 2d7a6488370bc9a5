"""The training graph: one step of training (forward, backward, update) as operators on channels-last tensors.

Every tensor is `[N, H, W, C]`: feature maps as they are, rows `[B, K]` as `[B, 1, 1, K]`, tokens `[B, T, D]` as
`[B, 1, T, D]`, a weight as `[Co, ky, kx, Ci / groups]`. `operators.py`, `moves.py` and `updates.py` say
what each operator computes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from hwgen.arch import UserError
from scheduler.training.graph.base import Operator
from scheduler.training.graph.layout import Layout
from scheduler.training.graph.operators import Conv, ConvInputGrad, ConvWeightGrad
from scheduler.training.graph.shapes import SCALAR, Rules, Shape, fits
from scheduler.training.graph.updates import Update


class Kind(StrEnum):
    """What a tensor is to a training step."""

    INPUT = "input"
    """Given by the host in every step."""
    LABEL = "label"
    """Given by the host in every step: one-hot rows of class labels, or the target of a regression."""
    PARAMETER = "parameter"
    """Kept from step to step; trained if an update overwrites it."""
    STATE = "state"
    """Kept from step to step for the optimizer, shaped like its parameter."""
    STATISTIC = "statistic"
    """Kept from step to step: a running mean or variance, a channel vector."""
    ACTIVATION = "activation"
    """A value of the forward pass, or its gradient."""
    GRADIENT = "gradient"
    """Gradient of a parameter, shaped like it."""
    VECTOR = "vector"
    """Mean or inverse standard deviation of a normalisation, kept for the backward pass."""
    MASK = "mask"
    """A dropout mask."""
    SCALAR = "scalar"
    """A loss."""


GIVEN = (Kind.INPUT, Kind.LABEL)
KEPT = (Kind.PARAMETER, Kind.STATE, Kind.STATISTIC)


@dataclass(frozen=True)
class Tensor:
    """A value of the graph, `[N, H, W, C]`."""

    name: str
    shape: Shape
    kind: Kind


@dataclass(frozen=True)
class TrainingGraph:
    """Operators in an order in which they can run: forward, backward, updates.

    A step reads the tensors that are given and those that are kept, and overwrites the latter in place.
    """

    tensors: dict[str, Tensor]
    """All tensors, also those that are given or kept, by name."""
    operators: tuple[Operator, ...]
    outputs: dict[str, str]
    """`loss`, and `output` (or `output0`, `output1` ..): what the module returned, named as tensors."""
    gradients: dict[str, str]
    """Trained parameter -> its gradient."""
    scalars: dict[str, float]
    """Hyper-parameters by name (`lr`, `momentum` .., `lr.1` .. for further parameter groups), per step."""
    layouts: dict[str, Layout] = field(repr=False)
    """How PyTorch's arrays of given tensors, parameters, statistics and outputs lie in ours."""
    values: dict[str, NDArray[np.float32]] = field(repr=False)
    """Values of kept tensors before the next step; empty if the graph was captured without weights."""
    steps: int = 0
    """Optimizer steps that were already made."""

    def of_kind(self, *kinds: Kind) -> tuple[str, ...]:
        """Names of the tensors of some kinds."""
        return tuple(name for name, tensor in self.tensors.items() if tensor.kind in kinds)

    def phases(self) -> tuple[tuple[Operator, ...], tuple[Operator, ...], tuple[Operator, ...]]:
        """Forward operators up to the last loss or output, backward operators, updates."""
        steps = [item for item in self.operators if not isinstance(item, Update)]
        outputs = set(self.outputs.values())
        last = max(index for index, item in enumerate(steps) if outputs & set(item.names("result")))
        updates = tuple(item for item in self.operators if isinstance(item, Update))
        return tuple(steps[: last + 1]), tuple(steps[last + 1 :]), updates

    def listing(self) -> str:
        """One line for each given and kept tensor, operator and output, with shapes."""
        return "\n".join(_lines(self))


def stage(item: Operator) -> str | None:
    """`FF`, `BP` or `WU` for a product with a parameter, None for every other operator."""
    names = {Conv: "FF", ConvInputGrad: "BP", ConvWeightGrad: "WU"}
    return names.get(type(item))


def verify(graph: TrainingGraph) -> None:
    """Check definitions, shapes, kinds and updates; raises `UserError` that names the first operator that is wrong."""
    _check_interface(graph, verify_operators(graph))


def verify_operators(graph: TrainingGraph, others: Rules | None = None) -> set[str]:
    """The same but for the interface of a training step; gives all tensors that are defined.

    `others` are rules for the shapes of operators that no training step has.
    """
    for name, tensor in graph.tensors.items():
        if name != tensor.name or len(tensor.shape) != 4 or any(size < 1 for size in tensor.shape):
            raise UserError(f"tensor {name} has shape {list(tensor.shape)}, not four dimensions of at least 1")
    known = set(graph.of_kind(*GIVEN, *KEPT))
    overwritten: set[str] = set()
    for item in graph.operators:
        _check_names(graph, item, known, overwritten)
        if not fits(item, lambda name: graph.tensors[name].shape, others):
            raise UserError(f"operator does not fit its operands: {_line(graph, item)}")
        known |= set(item.names("result"))
        overwritten |= set(item.names("in place"))
    return known


def _check_names(graph: TrainingGraph, item: Operator, known: set[str], overwritten: set[str]) -> None:
    what = f"{type(item).__name__} {', '.join((*item.names('result'), *item.names('in place')))}"
    reads, results, changes = item.names("source", "in place"), item.names("result"), item.names("in place")
    unknown = [name for name in reads if name not in known]
    unknown += [name for name in item.names("scalar") if name not in graph.scalars]
    if unknown:
        raise UserError(f"{what} reads {', '.join(unknown)}, which nothing before it defines")
    repeated = [name for name in results if name in known or name not in graph.tensors]
    if repeated or len(set(results)) != len(results):
        raise UserError(f"{what} must define new tensors of the graph, not {', '.join(repeated or results)}")
    stale = [name for name in reads if name in overwritten]
    if stale:
        raise UserError(f"{what} reads {', '.join(stale)} after it was overwritten")
    fixed = [name for name in changes if graph.tensors[name].kind not in KEPT]
    if fixed:
        raise UserError(f"{what} overwrites {', '.join(fixed)}, which is not kept from step to step")


def _check_interface(graph: TrainingGraph, known: set[str]) -> None:
    missing = [name for name in (*graph.outputs.values(), *graph.gradients.values()) if name not in known]
    loss = graph.tensors.get(graph.outputs.get("loss", ""))
    if missing or loss is None or loss.shape != SCALAR:
        raise UserError(f"a training graph must compute a scalar loss and all outputs, missing: {missing or 'loss'}")
    updates = [item for item in graph.operators if isinstance(item, Update)]
    if {item.parameter: item.gradient for item in updates} != graph.gradients:
        raise UserError("every trained parameter must have one update, with its gradient")
    for name, values in graph.values.items():
        if name not in graph.tensors or graph.tensors[name].kind not in KEPT:
            raise UserError(f"{name} has values, but it is not kept from step to step")
        if values.shape != graph.tensors[name].shape or values.dtype != np.float32:
            raise UserError(
                f"values of {name} are {values.dtype} {list(values.shape)}, they must be float32 and fit it"
            )
    if graph.values and set(graph.values) != set(graph.of_kind(*KEPT)):
        raise UserError("a training graph has values for all tensors that it keeps, or for none")


def _lines(graph: TrainingGraph) -> Iterator[str]:
    for name in graph.of_kind(*GIVEN, *KEPT):
        tensor = graph.tensors[name]
        yield f"{tensor.kind} {name} {_shape(tensor.shape)}"
    for name, value in graph.scalars.items():
        yield f"hyper-parameter {name} = {value:g}"
    for title, items in zip(("forward", "backward", "update"), graph.phases()):
        yield f"{title}:"
        yield from (f"  {_line(graph, item)}" for item in items)
    yield from (f"output {label} = {name}" for label, name in graph.outputs.items())


def _line(graph: TrainingGraph, item: Operator) -> str:
    results = ", ".join(f"{name} {_shape(graph.tensors[name].shape)}" for name in item.names("result"))
    operands = ", ".join(item.names("source", "in place", "scalar"))
    settings = "".join(f" {name}={_setting(value)}" for name, value in item.settings().items())
    return f"{f'{results} = ' if results else ''}{type(item).__name__}({operands}){settings}"


def _shape(shape: Shape) -> str:
    return "x".join(str(size) for size in shape)


def _setting(value: object) -> str:
    if isinstance(value, tuple):
        return "x".join(str(part) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)

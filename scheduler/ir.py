"""The graph that the passes start from: named tensors, constants and five operators, nothing of any front end."""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hwgen.arch import UserError


@dataclass(frozen=True)
class Tensor:
    """A value that flows between operators. Everything but the last dimension counts as rows."""

    name: str
    shape: tuple[int, ...]

    @property
    def cols(self) -> int:
        """Length of a row: the last dimension (1 for a scalar)."""
        return self.shape[-1] if self.shape else 1

    @property
    def rows(self) -> int:
        """Product of all dimensions but the last."""
        return math.prod(self.shape[:-1])


@dataclass(frozen=True)
class Linear:
    """`output[p, s] = sum over k of input[p, k] * weight[k, s]`; the weight is a constant `[K, S]`."""

    output: str
    input: str
    weight: str


@dataclass(frozen=True)
class Bias:
    """`output[p, s] = input[p, s] + bias[s]`; the bias is a constant `[S]`."""

    output: str
    input: str
    bias: str


@dataclass(frozen=True)
class Relu:
    """`output = max(input, 0)`, elementwise."""

    output: str
    input: str


@dataclass(frozen=True)
class Add:
    """`output = left + right`, two tensors of one shape."""

    output: str
    left: str
    right: str


@dataclass(frozen=True)
class Reshape:
    """The same values in the same row-major order under another shape."""

    output: str
    input: str


Operator = Linear | Bias | Relu | Add | Reshape


@dataclass(frozen=True)
class Graph:
    """Operators in an order in which they can run.

    `inputs` and the values of `outputs` (result name -> tensor name) name entries of `tensors`; `constants` are
    float32.
    """

    inputs: tuple[str, ...]
    outputs: dict[str, str]
    tensors: dict[str, Tensor]
    constants: dict[str, NDArray[np.float32]] = field(repr=False)
    operators: tuple[Operator, ...]

    def listing(self) -> str:
        """One line for each input, operator and output, with shapes."""
        lines = [f"input  {name} {list(self.tensors[name].shape)}" for name in self.inputs]
        for item in self.operators:
            operands = [*sources(item), *([constant(item)] if constant(item) else [])]
            shape = list(self.tensors[item.output].shape)
            lines.append(f"{type(item).__name__.lower():6s} {item.output} {shape} = {', '.join(operands)}")
        lines += [f"output {name} = {tensor}" for name, tensor in self.outputs.items()]
        return "\n".join(lines)


def sources(item: Operator) -> tuple[str, ...]:
    """Tensors that an operator reads."""
    return (item.left, item.right) if isinstance(item, Add) else (item.input,)


def constant(item: Operator) -> str | None:
    """Constant that an operator reads, if it reads one."""
    if isinstance(item, Linear):
        return item.weight
    return item.bias if isinstance(item, Bias) else None


def verify(graph: Graph) -> None:
    """Check that every value is defined once, before its use, and that all shapes agree; raises `UserError` if not."""
    defined = set(graph.inputs)
    for name, tensor in graph.tensors.items():
        if name != tensor.name or any(size < 1 for size in tensor.shape):
            raise UserError(f"tensor {name} has shape {list(tensor.shape)}: every dimension must be at least 1")
    for item in graph.operators:
        unknown = [name for name in sources(item) if name not in defined]
        if unknown or item.output in defined or item.output not in graph.tensors:
            raise UserError(f"operator {item.output} must define a new tensor from known ones, not from {unknown}")
        if not _shapes_agree(graph, item):
            shapes = [list(graph.tensors[name].shape) for name in (*sources(item), item.output)]
            other = constant(item)
            shapes += [list(graph.constants[other].shape)] if other in graph.constants else []
            raise UserError(f"{type(item).__name__.lower()} {item.output} does not fit its operands: shapes {shapes}")
        defined.add(item.output)
    missing = [name for name in graph.outputs.values() if name not in defined]
    if missing or not graph.outputs:
        raise UserError(f"a graph must have outputs and compute them all, missing: {missing}")


def _shapes_agree(graph: Graph, item: Operator) -> bool:
    output = graph.tensors[item.output].shape
    operands = [graph.tensors[name].shape for name in sources(item)]
    if isinstance(item, Linear):
        weight = graph.constants.get(item.weight)
        depth = operands[0][-1:] or (1,)
        return weight is not None and depth + output[-1:] == weight.shape and operands[0][:-1] == output[:-1]
    if isinstance(item, Bias):
        bias = graph.constants.get(item.bias)
        return bias is not None and operands[0] == output and bias.shape == output[-1:]
    if isinstance(item, Reshape):
        return math.prod(operands[0]) == math.prod(output)
    return all(shape == output for shape in operands)

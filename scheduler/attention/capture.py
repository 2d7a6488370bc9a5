"""PyTorch module -> graph of its forward pass, with attention as one operator."""

import inspect

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export.graph_signature import InputKind, OutputKind

from hwgen.arch import UserError
from scheduler.attention.convert import HANDLERS
from scheduler.attention.operators import RULES
from scheduler.exporting import exporting
from scheduler.training.convert.aten import Converted, Given, convert
from scheduler.training.convert.joint import JointGraph, read_node
from scheduler.training.convert.tidy import live
from scheduler.training.graph.ir import KEPT, Kind, TrainingGraph, verify_operators
from scheduler.training.graph.layout import Layout
from scheduler.training.graph.views import View, standard
from scheduler.weights import as_float32

ATEN = torch.ops.aten
WHOLE = (ATEN.scaled_dot_product_attention.default, ATEN.rms_norm.default, ATEN.silu.default)
"""Operators that are not taken apart."""


def capture_encoder(module: torch.nn.Module, hidden: torch.Tensor, *tables: torch.Tensor) -> TrainingGraph:
    """Graph of `module(hidden, *tables)` for hidden states `[1, T, D]` of exactly this shape.

    `tables` `[1, T, C]` belong to the positions of the tokens (`Encoder.body.tables`). The module is left as it was.
    The graph has forward operators only, and one output. Raises `UserError` when the module cannot be exported, and
    when it needs operators that have no lowering, naming each with its module and source line.
    """
    if not isinstance(module, torch.nn.Module):
        raise UserError(f"a model must be a torch.nn.Module, not {type(module).__name__}")
    if not isinstance(hidden, torch.Tensor) or not hidden.is_floating_point() or hidden.dim() != 3:
        raise UserError("an encoder is captured with hidden states: a floating-point tensor [1, tokens, features]")
    graph, held = _read(_export(module, (hidden, *tables)))
    first = next(iter(inspect.signature(module.forward).parameters))
    names = [first, *(f"table {number}" for number in range(len(tables)))]
    given = [Given(name, Kind.INPUT, False) for name in names]
    integers = {name for name, value in held.items() if not value.is_floating_point()}
    same = {name: name for name in held}
    converted = convert(graph, given, same, integers, what="model", others=HANDLERS)
    return _assemble(converted, held, dict(zip(names[1:], tables)))


def _export(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.export.ExportedProgram:
    """The module in evaluation mode, as operators that have lowerings."""
    operators = torch.export.default_decompositions()
    for operator in WHOLE:
        operators.pop(operator, None)
    with exporting(module, f"{type(module).__name__} cannot be exported"), torch.no_grad():
        return torch.export.export(module.eval(), inputs).run_decompositions(operators)


def _read(program: torch.export.ExportedProgram) -> tuple[JointGraph, dict[str, torch.Tensor]]:
    """The nodes, and what the module holds by name."""
    signature, nodes = program.graph_signature, list(program.graph.nodes)
    sizes = {node.name: tuple(node.meta["val"].shape) for node in nodes if node.op == "placeholder"}
    places = {kind: {} for kind in InputKind}
    for item in signature.input_specs:
        places[item.kind][item.arg.name] = item.target
    if any(item.kind != OutputKind.USER_OUTPUT for item in signature.output_specs) or len(signature.output_specs) != 1:
        raise UserError("an encoder must return hidden states and change nothing")
    buffers = places[InputKind.BUFFER] | places[InputKind.CONSTANT_TENSOR]
    graph = JointGraph(
        nodes=tuple(read_node(node) for node in nodes if node.op == "call_function"),
        sizes=sizes,
        parameters=places[InputKind.PARAMETER],
        buffers=buffers,
        given={name: number for number, name in enumerate(places[InputKind.USER_INPUT])},
        tangents=frozenset(),
        outputs=tuple(item.arg.name for item in signature.output_specs),
        gradients={},
        changed={},
    )
    names = {*graph.parameters.values(), *buffers.values()}
    return graph, {name: _held(program, name) for name in names}


def _held(program: torch.export.ExportedProgram, name: str) -> torch.Tensor:
    return program.constants[name] if name in program.constants else program.state_dict[name]


def _assemble(converted: Converted, held: dict[str, torch.Tensor], tables: dict[str, torch.Tensor]) -> TrainingGraph:
    """What the output needs, with the values of the module and of the tables."""
    builder = converted.builder
    output = _as_rows(converted)
    operators, tensors = live(builder.operators, builder.tensors, {output.tensor, *converted.given})
    views: dict[str, View] = {**converted.given, **converted.kept, output.tensor: output}
    layouts = {name: Layout(tensors[name].shape, view.dims) for name, view in views.items() if name in tensors}
    values: dict[str, NDArray[np.float32]] = {}
    for name, tensor in tensors.items():
        if tensor.kind in KEPT:
            constant = builder.constants.get(name)
            values[name] = layouts[name].from_torch(as_float32(held[name], name) if constant is None else constant)
    values |= {name: layouts[name].from_torch(as_float32(table, name)) for name, table in tables.items()}
    graph = TrainingGraph(
        tensors=tensors,
        operators=tuple(operators),
        outputs={"output": output.tensor},
        gradients={},
        scalars={},
        layouts=layouts,
        values=values,
    )
    verify_operators(graph, RULES)
    return graph


def _as_rows(converted: Converted) -> View:
    """The output, which must be rows `[1, 1, T, D]` as the input is."""
    (output,) = converted.outputs
    dims, shape = standard(output.sizes)
    if len(output.sizes) != 3 or output.dims != View("", dims).dims or converted.builder.shape(output) != shape:
        raise UserError(f"an encoder must return hidden states [1, tokens, features], not {list(output.sizes)}")
    return output

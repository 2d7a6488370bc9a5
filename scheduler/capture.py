"""PyTorch module -> our graph, through `torch.export`."""

from typing import Any

import torch
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Node as FxNode

from hwgen.arch import UserError
from scheduler.aten import AtenGraph, Node, Ref, source_line
from scheduler.convert import convert
from scheduler.exporting import exporting
from scheduler.ir import Graph
from scheduler.weights import FLOATS, as_float32


def capture(module: torch.nn.Module, example_inputs: tuple[torch.Tensor, ...]) -> Graph:
    """Graph of `module` in evaluation mode for inputs of exactly these shapes; the module's mode is left as it was.

    Raises `UserError` when the module cannot be exported, naming PyTorch's reason, and when it needs operators that
    have no lowering, naming each with its module and source line.
    """
    if not isinstance(module, torch.nn.Module):
        raise UserError(f"a model must be a torch.nn.Module, not {type(module).__name__}")
    _check_inputs(example_inputs)
    with exporting(module, f"{type(module).__name__} cannot be exported"), torch.no_grad():
        program = torch.export.export(module.eval(), example_inputs).run_decompositions({})
    return convert(read_exported(program))


def read_exported(program: torch.export.ExportedProgram) -> AtenGraph:
    """ATen graph of an exported program. Raises `UserError` on inputs or parameters that are not real numbers."""
    signature, nodes = program.graph_signature, tuple(program.graph.nodes)
    placeholders = {node.name: node for node in nodes if node.op == "placeholder"}
    inputs, constants = {}, {}
    for spec in signature.input_specs:
        if spec.kind == InputKind.USER_INPUT:
            inputs[spec.arg.name] = _input_shape(placeholders[spec.arg.name])
            continue
        held = program.constants if spec.target in program.constants else program.state_dict
        if placeholders[spec.arg.name].users:
            constants[spec.arg.name] = (spec.target, as_float32(held[spec.target], spec.target))
    changed = [spec.target for spec in signature.output_specs if spec.kind != OutputKind.USER_OUTPUT]
    if changed:
        raise UserError(
            f"the model changes {', '.join(str(name) for name in changed)} as it runs, which has no lowering"
        )
    outputs = tuple(spec.arg.name for spec in signature.output_specs)
    calls = tuple(_node(node) for node in nodes if node.op == "call_function")
    return AtenGraph(inputs, constants, calls, outputs)


def _check_inputs(example_inputs: tuple[torch.Tensor, ...]) -> None:
    if not isinstance(example_inputs, tuple) or not example_inputs:
        raise UserError("example inputs must be a tuple with at least one tensor")
    for number, value in enumerate(example_inputs):
        if not isinstance(value, torch.Tensor) or value.dtype not in FLOATS:
            found = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
            raise UserError(f"example input {number} must be a floating-point tensor of at most 32 bits, not {found}")
        if 0 in value.shape:
            raise UserError(f"example input {number} has shape {list(value.shape)}: every dimension must be at least 1")


def _input_shape(node: FxNode) -> tuple[int, ...]:
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or not all(isinstance(size, int) for size in value.shape):
        raise UserError(f"input {node.name} must be a tensor of fixed shape")
    return tuple(value.shape)


def _node(node: FxNode) -> Node:
    value = node.meta.get("val")
    fixed = isinstance(value, torch.Tensor) and all(isinstance(size, int) for size in value.shape)
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return Node(
        name=node.name,
        target=str(node.target),
        args=_named_arguments(node),
        shape=tuple(value.shape) if fixed else None,
        module=stack[-1][0] if stack else "",
        source=source_line(node.meta.get("stack_trace")),
    )


def _named_arguments(node: FxNode) -> dict[str, Any]:
    schema = getattr(node.target, "_schema", None)
    names = [argument.name for argument in schema.arguments] if schema else [str(i) for i in range(len(node.args))]
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    return {name: Ref(value.name) if isinstance(value, FxNode) else value for name, value in given.items()}

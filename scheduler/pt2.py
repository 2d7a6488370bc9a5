"""Reader of `.pt2` files (`torch.export.save`) that runs nothing of what is in them: JSON graph and raw weights only.

`torch.export.load` executes code from the file in four ways (pickled sample inputs, pickled weights, shape expressions,
guard code), so it is never called; a file with any of the four is refused.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwgen.arch import UserError
from scheduler.aten import AtenGraph, Node, Ref, source_line
from scheduler.convert import convert
from scheduler.ir import Graph
from scheduler.pt2_archive import DTYPES, Archive, Json, TensorMeta
from scheduler.weights import check_weights

SCHEMA_MAJOR = 8
"""Major version of the JSON schema that this reader knows."""
_PLAIN = {"as_int": int, "as_float": float, "as_bool": bool, "as_string": str}
_LISTS = {"as_ints": int, "as_floats": float, "as_bools": bool}
_IGNORED = {"as_memory_format", "as_device", "as_scalar_type", "as_layout"}


class _Argument(Json):
    name: str
    arg: dict[str, Any]


class _NodeEntry(Json):
    target: str
    inputs: list[_Argument]
    outputs: list[dict[str, Any]]
    metadata: dict[str, str] = {}


class _GraphEntry(Json):
    nodes: list[_NodeEntry]
    tensor_values: dict[str, TensorMeta]


class _Signature(Json):
    input_specs: list[dict[str, dict[str, Any]]]
    output_specs: list[dict[str, dict[str, Any]]]


class _GraphModule(Json):
    graph: _GraphEntry
    signature: _Signature


class _SchemaVersion(Json):
    major: int
    minor: int


class _ModelEntry(Json):
    graph_module: _GraphModule
    schema_version: _SchemaVersion
    range_constraints: dict[str, Any] = {}
    guards_code: list[str] = []


def load_pt2(path: str | Path, weights: Mapping[str, NDArray[np.float32]] | None = None) -> Graph:
    """Graph of a `.pt2` file, with its own parameters or with `weights` (name -> values) in their place.

    Raises `UserError`, one sentence, for a file that is missing, damaged, hostile, of another version, of dynamic
    shape, or whose operators have no lowering.
    """
    archive = Archive(Path(path))
    try:
        model: _ModelEntry = archive.json("models/model.json", _ModelEntry)
        _check_model(archive.path, model)
        tensors = _tensors(archive, model.graph_module, weights)
    finally:
        archive.close()
    return convert(_read(archive.path, model.graph_module, tensors))


def _check_model(path: Path, model: _ModelEntry) -> None:
    if model.schema_version.major != SCHEMA_MAJOR:
        raise UserError(
            f"{path} has schema version {model.schema_version.major}.{model.schema_version.minor}, "
            f"only {SCHEMA_MAJOR}.* is read: save it with PyTorch 2.13"
        )
    if model.guards_code:
        raise UserError(f"{path} carries guard code, which would be executed; it is refused")
    if model.range_constraints:
        raise UserError(f"{path} has dynamic shapes, which have no lowering: export the model for a fixed batch")


def _tensors(
    archive: Archive, module: _GraphModule, weights: Mapping[str, NDArray[np.float32]] | None
) -> dict[str, NDArray[np.float32]]:
    """Values of the parameters and literals that nodes read, by node name."""
    read = {
        item.arg["as_tensor"].get("name")
        for node in module.graph.nodes
        for item in node.inputs
        if isinstance(item.arg.get("as_tensor"), dict)
    }
    entries, literals = archive.entries("weights"), archive.entries("constants")
    if weights is not None:
        check_weights(weights, {name: entry.tensor_meta.shape(name) for name, entry in entries.items()})
    found = {}
    for spec in module.signature.input_specs:
        for kind, content in spec.items():
            name, target = _signature_entry(archive.path, kind, content)
            if kind == "user_input" or name not in read:
                continue
            if target in entries:
                own = weights is None
                found[name] = archive.tensor("weights", target, entries[target]) if own else weights[target]
            elif target in literals:
                found[name] = archive.tensor("constants", target, literals[target])
            else:
                raise UserError(f"{archive.path}: parameter {target} has no values in the file")
    return found


def _read(path: Path, module: _GraphModule, tensors: dict[str, NDArray[np.float32]]) -> AtenGraph:
    inputs, constants = {}, {}
    for spec in module.signature.input_specs:
        for kind, content in spec.items():
            name, target = _signature_entry(path, kind, content)
            if kind == "user_input":
                inputs[name] = _input_shape(path, name, module.graph.tensor_values)
            elif name in tensors:
                constants[name] = (target, tensors[name])
    outputs = []
    for spec in module.signature.output_specs:
        for kind, content in spec.items():
            if kind != "user_output":
                raise UserError(f"{path}: the model changes its own state ({kind}), which has no lowering")
            outputs.append(_signature_entry(path, kind, content)[0])
    nodes = tuple(_node(path, entry, module.graph.tensor_values) for entry in module.graph.nodes)
    return AtenGraph(inputs, constants, nodes, tuple(outputs))


def _signature_entry(path: Path, kind: str, content: dict[str, Any]) -> tuple[str, str]:
    """Node name and parameter name of an input or output of the graph."""
    arg = content.get("arg")
    if isinstance(arg, dict) and kind in ("user_input", "user_output"):
        arg = arg.get("as_tensor")
    targets = {"parameter": "parameter_name", "buffer": "buffer_name", "tensor_constant": "tensor_constant_name"}
    target = content.get(targets.get(kind, ""), "")
    if not isinstance(arg, dict) or not isinstance(arg.get("name"), str) or not isinstance(target, str):
        raise UserError(f"{path}: input or output of kind {kind} is not a tensor, which has no lowering")
    return arg["name"], target


def _input_shape(path: Path, name: str, tensors: dict[str, TensorMeta]) -> tuple[int, ...]:
    if name not in tensors or tensors[name].dtype not in DTYPES:
        raise UserError(f"{path}: input {name} must be a floating-point tensor of at most 32 bits")
    return tensors[name].shape(f"{path}: input {name}")


def _node(path: Path, entry: _NodeEntry, tensors: dict[str, TensorMeta]) -> Node:
    first = entry.outputs[0].get("as_tensor") if entry.outputs else None
    name = first.get("name") if isinstance(first, dict) else None
    if not isinstance(name, str):
        # Not one tensor; the target has no lowering then, and is named with its place.
        name = f"{entry.target}:{id(entry)}"
    known = name in tensors
    stack = entry.metadata.get("nn_module_stack", "").split(";")[-1].split(",")
    return Node(
        name=name,
        target=entry.target.removeprefix("torch.ops."),
        args={item.name: _argument(path, entry, item) for item in entry.inputs},
        shape=tensors[name].shape(f"{path}: tensor {name}") if known else None,
        module=stack[1] if len(stack) > 1 else "",
        source=source_line(entry.metadata.get("stack_trace")),
    )


def _argument(path: Path, entry: _NodeEntry, item: _Argument) -> Any:
    """Value of an argument: `Ref` for a tensor, plain Python values, None for what no lowering looks at."""
    for kind, value in item.arg.items():
        if kind == "as_tensor" and isinstance(value, dict) and isinstance(value.get("name"), str):
            return Ref(value["name"])
        if kind in _PLAIN and isinstance(value, _PLAIN[kind]):
            return value
        if kind in _LISTS and isinstance(value, list) and all(isinstance(part, _LISTS[kind]) for part in value):
            return value
        if kind in _IGNORED or kind == "as_none":
            return None
        if kind.startswith("as_sym") or kind == "as_expr":
            raise UserError(f"{path}: {entry.target} has a dynamic shape, which has no lowering: export a fixed batch")
    # Lists of tensors and the like: kept as they are, for operators that will be reported as having no lowering.
    return item.arg

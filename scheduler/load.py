"""What a user may name as a model: a zoo entry, a function in a Python file, or a `.pt2` file."""

import contextlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hwgen.arch import UserError
from models import zoo
from scheduler.boundary import Boundary
from scheduler.capture import capture
from scheduler.ir import Graph
from scheduler.pt2 import load_pt2
from scheduler.weights import check_weights, read_weights

_FUNCTION = re.compile(r"(?P<file>.+\.py):(?P<name>\w+)")
_ZOO = re.compile(r"(?P<name>\w+)(:(?P<settings>\w+=-?\d+(,\w+=-?\d+)*))?")
EXPECTED = "a zoo name (such as mlp or linear:rows=8,inputs=16), path/to/file.py:function, or path/to/file.pt2"


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for `lower`, with inputs to run it on."""

    name: str
    graph: Graph
    inputs: dict[str, NDArray[np.float32]] = field(repr=False)
    """Example inputs by name; random ones for a `.pt2` file, which has none that we read."""
    module: torch.nn.Module | None
    """The PyTorch module, for comparison in float32; None for a `.pt2` file."""


def load_model(spec: str, *, weights: str | Path | None = None, seed: int = 0) -> LoadedModel:
    """Load the model that `spec` names, with its parameters replaced from a `.safetensors` file if one is given.

    A Python file is executed, as the user asked by naming it; nothing else is. Raises `UserError`, one sentence, for
    everything that is wrong with the name, the file, the code in it, the weights or the operators.
    """
    values = None if weights is None else read_weights(weights)
    if spec.endswith(".pt2"):
        graph = load_pt2(spec, values)
        random = np.random.default_rng(seed)
        shapes = {name: graph.tensors[name].shape for name in graph.inputs}
        inputs = {name: random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
        return LoadedModel(Path(spec).stem, graph, inputs, None)
    made, entry = load_function(spec), _ZOO.fullmatch(spec)
    if made:
        module, examples = made
    elif entry:
        module, examples = zoo.build(entry["name"], seed=seed, **_settings(entry["settings"] or ""))
    else:
        raise UserError(f"cannot tell what model {spec!r} is: give {EXPECTED}")
    if values is not None:
        _replace_weights(module, values)
    graph = capture(module, examples)
    inputs = {
        name: value.detach().to(torch.float32).numpy() for name, value in zip(graph.inputs, examples, strict=True)
    }
    return LoadedModel(entry["name"] if entry else spec.rpartition(":")[2], graph, inputs, module)


def _settings(text: str) -> dict[str, int]:
    """`"rows=8,inputs=16"` -> values by name; raises `UserError` for a name that comes twice."""
    settings: dict[str, int] = {}
    for name, value in (pair.split("=") for pair in text.split(",") if pair):
        if name in settings:
            raise UserError(f"setting {name} of the model is given twice, {settings[name]} and {value}")
        settings[name] = int(value)
    return settings


def load_function(spec: str) -> zoo.Model | None:
    """Module and example inputs of `path/to/file.py:function`, which is executed; None for another kind of name."""
    made = call_function(spec)
    if made is None:
        return None
    module, examples = made
    if isinstance(examples, torch.Tensor):
        return module, (examples,)
    if not isinstance(examples, tuple | list):
        raise UserError(
            f"{spec} must return example inputs as a tensor or a tuple of tensors, not {type(examples).__name__}"
        )
    return module, tuple(examples)


def call_function(spec: str) -> tuple[torch.nn.Module, Any] | None:
    """The same, with the example inputs as the function returns them."""
    function = _FUNCTION.fullmatch(spec)
    return _run_file(Path(function["file"]), function["name"]) if function else None


def _run_file(path: Path, name: str) -> tuple[torch.nn.Module, Any]:
    """Execute the file and call the function in it."""
    if not path.is_file():
        raise UserError(f"cannot read {path}: there is no such file")
    location = str(path.resolve())
    spec = importlib.util.spec_from_file_location(path.stem, location)
    code = importlib.util.module_from_spec(spec)
    with Boundary(str(path), location), _importable(path.resolve().parent):
        spec.loader.exec_module(code)
        if not callable(getattr(code, name, None)):
            raise UserError(f"{path} has no function {name}")
        made = getattr(code, name)()
    if not isinstance(made, tuple) or len(made) != 2 or not isinstance(made[0], torch.nn.Module):
        raise UserError(f"{path}:{name} must return a torch.nn.Module and its example inputs")
    return made


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let a file import its neighbours while it runs, as a script may."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _replace_weights(module: torch.nn.Module, values: dict[str, NDArray[np.float32]]) -> None:
    state = module.state_dict()
    check_weights(values, {name: tuple(value.shape) for name, value in state.items()})
    module.load_state_dict({name: torch.from_numpy(value).to(state[name].dtype) for name, value in values.items()})

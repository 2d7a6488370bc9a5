"""ATen operators as both front ends deliver them (`capture`, `pt2`), before they become our graph (`convert`)."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_LIBRARIES = ("/site-packages/torch/", "/scheduler/training/convert/")
"""Code that stands between a user's line and the operator; ours is that which calls model and loss of a step."""


@dataclass(frozen=True)
class Ref:
    """An argument that is the value of another node."""

    name: str


@dataclass(frozen=True)
class Node:
    """One call of an operator: target such as `aten.linear.default`, arguments by the names of its schema."""

    name: str
    target: str
    args: dict[str, Any]
    shape: tuple[int, ...] | None
    """Shape of the result; None if it is not one tensor."""
    module: str
    """Path of the module that made the call, empty for the outermost one."""
    source: str
    """`file:line` of the call in the user's code, or empty."""

    def where(self, reason: str = "") -> str:
        """Operator, place in the model and reason, for an error sentence."""
        place = f" in {self.module}" if self.module else ""
        notes = "; ".join(text for text in (self.source, reason) if text)
        return f"{self.target}{place}{f' ({notes})' if notes else ''}"


@dataclass(frozen=True)
class AtenGraph:
    """What a front end read: inputs and nodes by name, constants with the name of their parameter."""

    inputs: dict[str, tuple[int, ...]]
    constants: dict[str, tuple[str, NDArray[np.float32]]] = field(repr=False)
    """Node name -> parameter name and values."""
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]


def source_line(stack_trace: str | None) -> str:
    """`file:line` of the innermost frame of a stack trace that is outside of `_LIBRARIES`, or of the innermost."""
    frames = _FRAME.findall(stack_trace or "")
    own = [frame for frame in frames if not any(part in frame[0].replace("\\", "/") for part in _LIBRARIES)]
    if not frames:
        return ""
    path, line = (own or frames)[-1]
    return f"{Path(path).name}:{line}"

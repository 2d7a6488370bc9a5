"""How tensors lie in external memory: feature maps of image rows, plain rows of pixels, and other shapes of the same.

A tensor that no window looks at is a list of pixels: one *image* each, so that products take any of them together and
hazards are told apart pixel block by pixel block. Reshapes that move nothing are feature maps on the same memory.
"""

from collections.abc import Iterable
from dataclasses import replace
from math import prod

from hwgen.arch import Arch
from scheduler.training.graph.base import Filter, Operator, Window
from scheduler.training.graph.ir import Kind, Tensor, TrainingGraph
from scheduler.training.graph.moves import Move, Reshape
from scheduler.training.graph.operators import DropoutMask, MatMul
from scheduler.training.kernels.emitter import Feature
from scheduler.training.memory import MemoryMap

PIXELS = (Kind.INPUT, Kind.LABEL, Kind.ACTIVATION, Kind.MASK)
"""Kinds of tensors that are feature maps."""


def place_features(graph: TrainingGraph, arch: Arch, memory: MemoryMap, names: Iterable[str]) -> dict[str, Feature]:
    """Feature maps for some tensors of a graph."""
    names = list(names)
    flat = _without_windows(graph)
    shapes = {name: _listed(graph.tensors[name]) if name in flat else graph.tensors[name] for name in names}
    units = {name: memory.units_of(tensor.shape) for name, tensor in shapes.items()}
    found: dict[str, Feature] = {}
    for group in _same_memory(graph, arch, names):
        base = max(group, key=lambda name: units[name])
        found[base] = memory.feature(shapes[base], graph.tensors[base].kind)
        for name in group:
            if name != base:
                n, h, w, c = shapes[name].shape
                words = -(-c // arch.array.cols)
                found[name] = replace(found[base], name=name, n=n, h=h, w=w, c=c, words=words, span=units[base])
    return found


def _listed(tensor: Tensor) -> Tensor:
    """The tensor with an image for each pixel."""
    return replace(tensor, shape=(prod(tensor.shape[:3]), 1, 1, tensor.shape[3]))


def _without_windows(graph: TrainingGraph) -> set[str]:
    """Tensors that are read and written pixel by pixel, and so are all others that must lie as they do."""
    sets = _Sets(graph.tensors)
    windowed: set[str] = set()
    for item in graph.operators:
        names = [name for name in item.names("source", "result") if graph.tensors[name].kind in PIXELS]
        if isinstance(item, Window) and not _is_linear(item):
            windowed |= set(names)
        elif not isinstance(item, Move | MatMul | DropoutMask):
            for other in names[1:]:
                if graph.tensors[other].shape[:3] == graph.tensors[names[0]].shape[:3]:
                    sets.join(names[0], other)
    bound = {sets.of(name) for name in windowed}
    return {name for name in graph.tensors if sets.of(name) not in bound}


def _is_linear(item: Operator) -> bool:
    return isinstance(item, Filter) and item.kernel == item.stride == (1, 1) and item.padding == (0, 0)


def is_same_memory(item: Reshape, graph: TrainingGraph, arch: Arch) -> bool:
    """Whether a reshape leaves every word where it is."""
    old, new = (graph.tensors[name].shape[3] for name in (item.input, item.output))
    return old == new or old % arch.array.cols == new % arch.array.cols == 0


def _same_memory(graph: TrainingGraph, arch: Arch, names: list[str]) -> list[list[str]]:
    """Tensors that share memory, in groups."""
    sets, known = _Sets(names), set(names)
    for item in graph.operators:
        if isinstance(item, Reshape) and {item.input, item.output} <= known and is_same_memory(item, graph, arch):
            sets.join(item.input, item.output)
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(sets.of(name), []).append(name)
    return list(groups.values())


class _Sets:
    """Disjoint sets of names."""

    def __init__(self, names: Iterable[str]) -> None:
        self.parent = {name: name for name in names}

    def of(self, name: str) -> str:
        """The name that stands for the set."""
        while self.parent[name] != name:
            name = self.parent[name]
        return name

    def join(self, one: str, other: str) -> None:
        """Make one set of two."""
        self.parent[self.of(one)] = self.of(other)

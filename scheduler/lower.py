"""The lowering: what happens to a model, in order."""

from collections.abc import Callable

import torch

from hwgen.arch import Arch
from scheduler.capture import capture
from scheduler.ir import Graph, verify
from scheduler.options import Options
from scheduler.passes import emit, fuse, place, sparsify, tile
from scheduler.program import Program
from scheduler.state import Lowering

Pass = Callable[[Lowering], Lowering]

PASSES: tuple[Pass, ...] = (
    fuse.run,  # operators -> layers that run tile by tile
    sparsify.run,  # weights pruned to N:M and rounded to operands
    tile.run,  # dataflow, tile shape, interleave and loop order by the cost model
    place.run,  # weights packed, everything gets an address
    emit.run,  # instructions, and tokens from their reads and writes
)


def lower(graph: Graph, arch: Arch, options: Options | None = None) -> Lowering:
    """Run all passes; the result holds what every pass made, and the program.

    Raises `UserError` when the model, the options and the architecture do not fit together; nothing has run then.
    """
    verify(graph)
    state = Lowering(arch=arch, options=options or Options(), graph=graph)
    for step in PASSES:
        state = step(state)
    return state


def compile_graph(graph: Graph, arch: Arch, options: Options | None = None) -> Program:
    """Program of a graph."""
    return lower(graph, arch, options).program


def compile_module(
    module: torch.nn.Module, example_inputs: tuple[torch.Tensor, ...], arch: Arch, options: Options | None = None
) -> Program:
    """Program of a PyTorch module for inputs of the shapes of `example_inputs`."""
    return compile_graph(capture(module, example_inputs), arch, options)

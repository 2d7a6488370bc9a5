"""Training graph -> training program: kernels, offline schedule, tokens, addresses."""

from dataclasses import replace
from math import ceil

from hwgen.arch import INSTRUCTION_BYTES, Arch
from scheduler.training.emitter import Emitter
from scheduler.training.fuse import groups
from scheduler.training.ir import TrainingGraph
from scheduler.training.kernels import emit
from scheduler.training.lower import Step, TrainingOptions, begin, generate, load_constants
from scheduler.training.order import list_order
from scheduler.training.program import Code, TrainingProgram
from scheduler.training.rules import LOSS_SCALE, STEP
from scheduler.training.windows import Rings


def compile_step(graph: TrainingGraph, arch: Arch, options: TrainingOptions | None = None) -> TrainingProgram:
    """Program of a training step for one architecture.

    Raises `UserError` when graph, options and architecture do not fit together; nothing has run then.
    """
    step = begin(graph, arch, options or TrainingOptions())
    load_constants(step)
    for group in groups(step.graph):
        emit(step, group)
    start = replace(step, em=Emitter(arch), rings=Rings(arch))
    if step.options.pregenerate:
        for weights in step.weights.values():
            generate(start, weights)
    unit = max(INSTRUCTION_BYTES, arch.beat_bytes)
    first = _code(start, ceil(step.memory.end / unit) * unit)
    second = _code(step, ceil((first.address + first.size) / unit) * unit)
    return TrainingProgram(arch=arch, graph=step.graph, places=step, start=first, step=second, scalars=_scalars(step))


def _code(step: Step, address: int) -> Code:
    """Order and tokens."""
    recorder, limit = step.em.recorder, (1 << step.arch.control.token_bits) - 1
    if step.options.overlap:
        return Code(recorder.finish(limit, list_order(recorder, step.arch)), address)
    for position in range(1, len(recorder.commands)):
        recorder.dependencies[position].add(position - 1)
    return Code(recorder.finish(limit), address)


def _scalars(step: Step) -> dict[str, float]:
    """Values of the scalars from which those of the first step follow."""
    return dict(step.graph.scalars) | {LOSS_SCALE: step.options.loss_scale, STEP: step.graph.steps + 1}

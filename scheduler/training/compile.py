"""Training graph -> training program: kernels, offline schedule, tokens, addresses."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import ceil

import numpy as np

from hwgen.arch import INSTRUCTION_BYTES, Arch
from hwgen.arch.arrays import engines
from scheduler.training.graph.ir import TrainingGraph
from scheduler.training.kernels.emitter import Emitter
from scheduler.training.kernels.rules import LOSS_SCALE, STEP
from scheduler.training.kernels.table import emit_all
from scheduler.training.lower import Step, TrainingOptions, begin, load_constants
from scheduler.training.products.masters import generate
from scheduler.training.products.resident import Rings
from scheduler.training.program import Code, TrainingProgram
from scheduler.training.schedule.order import Durations, ListScheduler, Order, durations

ROUNDS = 2
"""Orders by measured durations that are tried."""
Measure = Callable[[Code], tuple[int, Durations]]
"""Runs a program through a cycle model: cycles in all, and the durations of its instructions."""


def compile_step(
    graph: TrainingGraph, arch: Arch, options: TrainingOptions | None = None, *, measure: Measure | None = None
) -> TrainingProgram:
    """Program of a training step for one architecture.

    The offline schedule goes by estimated durations; with `measure`, it is made again by measured ones, and the fastest
    is taken. Raises `UserError` when graph, options and architecture do not fit together.
    """
    with _collector_paused():
        return _compile(begin(graph, arch, options or TrainingOptions()), measure)


@contextmanager
def _collector_paused() -> Iterator[None]:
    """A step is millions of small objects and no cycles of them: looking for some takes as long as making them."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def _compile(step: Step, measure: Measure | None) -> TrainingProgram:
    arch = step.arch
    load_constants(step)
    emit_all(step)
    start = replace(step, em=Emitter(arch), rings=Rings(arch))
    if step.options.pregenerate:
        for weights in step.weights.values():
            generate(start, weights)
    unit = max(INSTRUCTION_BYTES, arch.beat_bytes)
    first = schedule(start, ceil(step.memory.end / unit) * unit)
    second = schedule(step, ceil((first.address + first.size) / unit) * unit, measure)
    return TrainingProgram(arch=arch, graph=step.graph, places=step, start=first, step=second, scalars=_scalars(step))


def schedule(step: Step, address: int, measure: Measure | None = None) -> Code:
    """What kernels have recorded, in the order of the offline schedule and with tokens."""
    recorder = step.em.recorder
    if step.options.overlap:
        scheduler = ListScheduler(recorder)
        code = _in_order(step, address, scheduler.order(durations(recorder.commands, step.arch)))
        return code if measure is None else _measured(step, scheduler, code, measure)
    for position in range(1, len(recorder.commands)):
        recorder.dependencies[position].add(position - 1)
    return _in_order(step, address, Order(range(len(recorder.commands)), engines(recorder.commands)))


def _in_order(step: Step, address: int, order: Order) -> Code:
    """The recorded instructions in another order, with tokens."""
    limit = (1 << step.arch.control.token_bits) - 1
    return Code(step.em.recorder.finish(limit, order.positions, order.engines), address, order.positions)


def _measured(step: Step, scheduler: ListScheduler, code: Code, measure: Measure) -> Code:
    """The fastest of the order by estimates and those that follow, one from the other, from measured durations."""
    best, (least, found) = code, measure(code)
    for _ in range(ROUNDS):
        code = _in_order(step, code.address, scheduler.order(found.at(np.argsort(code.origins))))
        cycles, found = measure(code)
        if cycles < least:
            best, least = code, cycles
    return best


def _scalars(step: Step) -> dict[str, float]:
    """Values of the scalars from which those of the first step follow."""
    return dict(step.graph.scalars) | {LOSS_SCALE: step.options.loss_scale, STEP: step.graph.steps + 1}

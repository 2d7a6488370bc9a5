"""Kernels of products of activations, and of operators that only move values."""

from math import prod

from hwgen.arch import UserError
from scheduler.training.graph.moves import Broadcast, Concat, Pad, Permute, Reshape, Slice
from scheduler.training.kernels.copies import Copy, copy, part, permuted, repeated, reverse
from scheduler.training.kernels.emitter import Feature
from scheduler.training.kernels.stages import Kernel
from scheduler.training.kernels.transposes import transpose_all
from scheduler.training.lower import Step, clear
from scheduler.training.memory import Row
from scheduler.training.places import is_same_memory
from scheduler.training.products.matmul import head_product
from scheduler.training.schedule.fuse import Group


def emit_matmul(step: Step, group: Group) -> None:
    """A product for each image and head, with its chain."""
    kernel, item = Kernel(step, group), group.main
    features = {item.output: kernel.target} | {name: step.features[name] for name in (item.left, item.right)}
    shapes = {name: step.graph.tensors[name].shape for name in features}
    product = head_product(step.em, step.rings, step.memory, item, features, shapes)
    product.emit(kernel.row_epilogue(), step.decide(item.output, "attention", product.choices()))
    kernel.finish()


def emit_move(step: Step, group: Group) -> None:
    """Copies from one feature map (or channel vector) to another."""
    step.em.begin_kernel()
    item, target = group.main, step.features[group.main.output]
    shapes = {name: step.graph.tensors[name].shape for name in (item.output, *item.names("source"))}
    new, cols = shapes[item.output], step.arch.array.cols
    match item:
        case Slice():
            moves = part(item.output, new, shapes[item.input], item.axis, item.start, cols)
            copy(step.em, _source(step, item.input), target, moves)
        case Pad():
            clear(step.em, target)
            moves = part(item.output, shapes[item.input], new, item.axis, item.start, cols)
            copy(step.em, _source(step, item.input), target, reverse(moves))
        case Broadcast():
            copy(step.em, _source(step, item.input), target, repeated(item.output, shapes[item.input], new, cols))
        case Concat():
            _concat(step, item, target)
        case Permute():
            _permute(step, item, target)
        case Reshape():
            _reshape(step, item, target)


def _source(step: Step, name: str) -> Feature | Row:
    return step.features[name] if name in step.features else step.rows[name]


def _concat(step: Step, item: Concat, target: Feature) -> None:
    new, start = step.graph.tensors[item.output].shape, 0
    for name in item.inputs:
        shape = step.graph.tensors[name].shape
        moves = part(item.output, shape, new, item.axis, start, step.arch.array.cols)
        copy(step.em, _source(step, name), target, reverse(moves))
        start += shape[item.axis]


def _permute(step: Step, item: Permute, target: Feature) -> None:
    shapes = tuple(step.graph.tensors[name].shape for name in (item.input, item.output))
    moves = permuted(item.output, shapes, item.split, item.order, step.arch.array.cols)
    if isinstance(moves, Copy):
        copy(step.em, _source(step, item.input), target, moves)
    else:
        transpose_all(step.em, step.features[item.input], target, moves)


def _reshape(step: Step, item: Reshape, target: Feature) -> None:
    """Nothing to do where the values stay where they are; a channel vector becomes operands."""
    if not is_same_memory(item, step.graph, step.arch):
        old, new = (step.graph.tensors[name].shape for name in (item.input, item.output))
        raise UserError(
            f"{item.output}: pixels of {old[3]} channels become pixels of {new[3]}; both must be multiples "
            f"of array.cols ({step.arch.array.cols})"
        )
    if item.input in step.rows:
        words = prod(step.graph.tensors[item.output].shape[:3]) * target.words
        copy(step.em, step.rows[item.input], target, Copy((), words))

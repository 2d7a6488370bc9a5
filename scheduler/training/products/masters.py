"""Weights as FP32 masters: weight gradients with the update of each tile, and operand copies made from the masters."""

from collections.abc import Callable
from dataclasses import replace
from math import ceil

from hwgen.arch.isa import Dataflow, Operation
from scheduler.hazards import Region
from scheduler.training.graph.operators import ConvWeightGrad
from scheduler.training.graph.updates import Sgd, Update
from scheduler.training.kernels.emitter import Banks, Block
from scheduler.training.lower import Step
from scheduler.training.products.decisions import Choice
from scheduler.training.products.gradient_plans import GradientPlan, GradientTile, engine_cycles
from scheduler.training.products.gradients import TILE_SUMS, WeightGradient
from scheduler.training.products.weights import Master, Weights, write_copies


def weight_gradient(step: Step, item: ConvWeightGrad, update: Callable[..., None]) -> None:
    """WU, and the update of each tile as soon as its gradient is complete."""
    weights, rule = step.weights[item.weight], step.updates[item.output]
    offsets, pattern = weights.offsets(step.arch), weights.forward.pattern
    dropped = (pattern, step.options.decay) if pattern and step.options.decay else None

    def apply(gradient: Block, tile: GradientTile) -> None:
        blocks = {master.name: load_master(step, master, offsets[tile], tile) for master in weights.masters}
        if weights.mask is not None:
            step.em.vector(Operation.MUL, gradient, gradient, load_master(step, weights.mask, offsets[tile], tile))
        update(step.em, rule, blocks, gradient, scaled=step.scaled, dropped=dropped)
        for master in weights.masters:
            store_master(step, master, offsets[tile], blocks[master.name])
        if step.options.pregenerate:
            write_copies(step.em, weights, blocks[weights.name], tile)

    beside = step.em.apart and _fits_beside(step, weights, rule) and not dropped
    if step.em.apart:
        step.rings.divide()
    if beside:
        step.em.choose_banks(Banks.GRADIENTS)
    product = WeightGradient(
        step.em, step.rings.gradients, step.features[item.input], step.features[item.gradient], weights.kernel
    )
    ways = [gradient_choice(step, product, weights, plan) for plan in (weights.plan, weights.runner_up) if plan]
    step.note(item.output, "WU", *ways)
    product.emit(weights.plan, apply, in_parts=beside)


def _fits_beside(step: Step, weights: Weights, rule: Update) -> bool:
    """Whether the banks for weight gradients have room for a tile in parts and for its update."""
    plan, masters = weights.plan, len(weights.masters) + (weights.mask is not None)
    room = step.em.room(Banks.GRADIENTS, plan.rows * plan.taps * plan.blocks)
    return isinstance(rule, Sgd) and room >= TILE_SUMS + masters


def gradient_choice(step: Step, product: WeightGradient, weights: Weights, plan: GradientPlan) -> Choice:
    """A plan of a weight gradient as a choice."""
    array, dy = step.arch.array, product.dy
    pixels = dy.n * dy.h * dy.w
    extent = weights.channels, weights.taps, weights.inputs // array.cols
    tensor, load = (round(pixels * cycles) for cycles in engine_cycles(step.arch, plan, *extent))
    return Choice(
        dataflow=Dataflow.OUTPUT_STATIONARY,
        rows=plan.rows,
        cols=plan.taps * plan.blocks,
        depth=pixels,
        interleave=(ceil(plan.rows / array.rows), plan.taps * plan.blocks),
        order="output channels > input channels > kernel positions > images > rows",
        buffers="sums stay in the array",
        load=load,
        tensor=tensor,
    )


def generate(step: Step, weights: Weights, *, forward: bool = True, backward: bool = True) -> None:
    """Write the operand copies of a parameter from its master."""
    kept = weights if backward else replace(weights, phases=(), backward=())
    for tile, place in weights.offsets(step.arch).items():
        step.em.begin_chunk()
        write_copies(step.em, kept, load_master(step, weights.masters[0], place, tile), tile, forward=forward)


def load_master(step: Step, master: Master, place: tuple[int, int], tile: GradientTile) -> Block:
    """A tile of weights or of a state, as FP32."""
    (number, word), row = place, 4 * step.arch.array.cols
    block = step.em.take(tile.rows, tile.words)
    region = Region("dram", master.unit + number, master.unit + number + 1)
    line = block.reshape(1, tile.rows * tile.words)
    step.em.load_block(line, master.address + word * row, 0, region, wide=True)
    return block


def store_master(step: Step, master: Master, place: tuple[int, int], block: Block) -> None:
    """The inverse of `load_master`."""
    (number, word), row = place, 4 * step.arch.array.cols
    region = Region("dram", master.unit + number, master.unit + number + 1)
    line = block.reshape(1, block.rows * block.words)
    step.em.store(line, master.address + word * row, 0, region, 0)

"""Losses and their gradients: one FP32 word for the loss, in every column, and operands for the gradient."""

from hwgen.arch.isa import Format, Operation, Target
from scheduler.training.columns import fold_columns, padding_mask
from scheduler.training.emitter import Block, Emitter, Feature
from scheduler.training.functions import exp, log, reciprocal
from scheduler.training.memory import Row
from scheduler.training.sums import sum_rows

ADD, SUB, MUL, MAC, MAX = Operation.ADD, Operation.SUB, Operation.MUL, Operation.MAC, Operation.MAX


class LossKernel:
    """The walk that all losses share: chunk by chunk, the loss added up in a kept word."""

    def __init__(self, em: Emitter, row: Row, loss_scale: float) -> None:
        self.em, self.row, self.loss_scale = em, row, loss_scale
        self.total = em.keep(1, 1)
        em.load(Target.ACC16, self.total.addr, None, self.total.region, rows=1, pad=1)

    def add(self, losses: Block, scale: float) -> None:
        """Add the sum over the rows of one-word `losses`, times `scale`."""
        row = sum_rows(self.em, losses)
        self.em.vector(MAC, self.total, row, scale, self.total)

    def finish(self) -> None:
        """Store the loss."""
        self.em.store(self.total, self.row.address, 0, self.row.region, Format.FP32)


def cross_entropy(
    em: Emitter, logits: Feature, labels: Feature, gradient: Feature | None, row: Row, scale: float, loss_scale: float
) -> None:
    """Loss `-scale * sum(log(softmax(logits)) * labels)`; gradient `loss_scale * scale * (softmax(logits) - labels)`.

    About 20 passes over the logits. Columns beyond the classes take no part.
    """
    kernel = LossKernel(em, row, loss_scale)
    for chunk in em.chunks(logits, em.limit(6)):
        x, target = em.fetch(logits, chunk), em.fetch(labels, chunk)
        padding_mask(em, x, logits.c)
        em.vector(SUB, x, x, fold_columns(em, MAX, x))
        power = exp(em, x, em.take(x.rows, x.words))
        total = fold_columns(em, ADD, power)
        chosen = fold_columns(em, ADD, em.vector(MUL, x, x, target))
        losses = log(em, total, em.take(x.rows, 1))
        kernel.add(em.vector(SUB, losses, losses, chosen), scale)
        if gradient is not None:
            share = reciprocal(em, total, em.take(x.rows, 1))
            em.vector(MUL, power, power, share)
            em.vector(SUB, power, power, target)
            em.put(gradient, chunk, em.vector(MUL, power, power, scale * loss_scale))
    kernel.finish()


def mse(
    em: Emitter, output: Feature, target: Feature, gradient: Feature | None, row: Row, scale: float, loss_scale: float
) -> None:
    """Loss `scale * sum((output - target)**2)`, gradient `2 * loss_scale * scale * (output - target)`."""
    kernel = LossKernel(em, row, loss_scale)
    for chunk in em.chunks(output, em.limit(4)):
        x = em.fetch(output, chunk)
        em.vector(SUB, x, x, em.fetch(target, chunk))
        squares = em.vector(MUL, em.take(x.rows, x.words), x, x)
        kernel.add(fold_columns(em, ADD, squares), scale)
        if gradient is not None:
            em.put(gradient, chunk, em.vector(MUL, x, x, 2 * scale * loss_scale))
    kernel.finish()

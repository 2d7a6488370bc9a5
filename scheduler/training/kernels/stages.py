"""Kernels of groups of operators with products, normalisations of batches, and chains of pointwise operators."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from hwgen.arch.isa import Operation
from scheduler.training.graph.ir import stage
from scheduler.training.graph.operators import BatchNorm, Conv, Relu
from scheduler.training.kernels.emitter import Block, Chunk, Feature
from scheduler.training.kernels.epilogue import Collect, epilogue
from scheduler.training.kernels.normalise import (
    Affine,
    affine,
    backward_affine,
    batch_statistics,
    forward_affine,
    running,
)
from scheduler.training.kernels.pointwise import apply_chain
from scheduler.training.kernels.rows import RowEpilogue, row_epilogue
from scheduler.training.kernels.rules import apply_update
from scheduler.training.kernels.step_sums import Sums, load_row, load_sums, make_sums, store_row, sums_row
from scheduler.training.lower import Step, clear
from scheduler.training.products.linear import RowProduct
from scheduler.training.products.masters import generate, weight_gradient
from scheduler.training.products.resident import WeightImage
from scheduler.training.products.unroll import Unroll, selection_bytes, selection_pattern
from scheduler.training.products.windows import Progress, Window, WindowProduct, forward_window, used_values
from scheduler.training.schedule.fuse import Group, main_result

MUL, MAC, ADD = Operation.MUL, Operation.MAC, Operation.ADD


class Kernel:
    """One group: its channel vectors, its sums."""

    def __init__(self, step: Step, group: Group, *, paired: bool = False) -> None:
        self.step, self.group = step, group
        if not paired:
            step.em.begin_kernel()
        self._rows: dict[str, Block] = {}
        self.target = step.features.get(group.result)
        self.sums = Sums(step, group.sums, self.target.words, kernels=1 + paired) if group.sums else None

    def row(self, name: str) -> Block:
        """A channel vector of the graph, loaded once."""
        if name not in self._rows:
            self._rows[name] = load_row(self.step, self.step.rows[name])
        return self._rows[name]

    def optional(self, name: str | None) -> Block | None:
        """The same, or None for no vector."""
        return None if name is None else self.row(name)

    def emit_product(self, image: WeightImage, window: Window) -> None:
        """The product of a Conv or ConvInputGrad; over single pixels it needs no window."""
        step, main = self.step, self.group.main
        source = step.features[main.input if isinstance(main, Conv) else main.gradient]
        places, name = (step.em, step.rings, source, self.target), main_result(main)
        if source.h == source.w == self.target.h == self.target.w == 1 and window.taps == (1, 1):
            product = RowProduct(*places, image)
            product.emit(self.row_epilogue(), step.decide(name, stage(main), product.choices()))
            return
        for _ in self.parts(image, window):
            pass

    def parts(self, image: WeightImage, window: Window) -> Iterator[Progress]:
        """The same over windows, bit by bit."""
        step, main = self.step, self.group.main
        source = step.features[main.input if isinstance(main, Conv) else main.gradient]
        chain, collect = self._epilogue()
        run = epilogue(*chain, window.out_step[1], step.features, self.row, collect) if chain else None
        product = WindowProduct(step.em, step.rings, source, self.target, window)
        choice = step.decide(main_result(main), stage(main), product.choices(image))
        yield from product.parts(image, run, choice)

    def row_epilogue(self) -> RowEpilogue | None:
        """Chain and sums on rows of the product."""
        chain, collect = self._epilogue()
        return row_epilogue(*chain, self.step.features, self.row, collect) if chain else None

    def _epilogue(self) -> tuple[tuple, Collect]:
        """What epilogues begin with, nothing if there is nothing to do, and who collects sums."""
        collect = self.sums.collect if self.sums else lambda block, fetch, first: None
        chain = self.step.em, main_result(self.group.main), self.group.chain
        return chain if self.group.chain or self.sums else (), collect

    def over_chunks(
        self, source: Feature, begin: Callable[[Block, Callable[[str], Block]], None], name: str, done: int = 0
    ) -> None:
        """Load `source` chunk by chunk, run `begin`, the chain and the sums on it, store the result.

        `begin` makes tensor `name`; it has `done` the first operators of the chain.
        """
        step, em = self.step, self.step.em
        for chunk in em.chunks(source, step.limit_of(source)):
            block = em.fetch(source, chunk)
            fetch = self._fetcher(chunk, block)
            begin(block, fetch)
            apply_chain(em, block, name, self.group.chain[done:], fetch)
            if self.sums:
                self.sums.collect(block, fetch, 0)
            em.put(self.target, chunk, block)

    def _fetcher(self, chunk: Chunk, block: Block) -> Callable[[str], Block]:
        held: dict[str, Block] = {}

        def fetch(name: str) -> Block:
            if name not in held:
                features = self.step.features
                held[name] = (
                    self.step.em.fetch(features[name], chunk, source=True)
                    if name in features
                    else self.row(name).over_rows(block.rows)
                )
            return held[name]

        return fetch

    def finish(self) -> None:
        """Store the sums."""
        if self.sums:
            self.sums.finish()


def emit_conv(step: Step, group: Group) -> None:
    """FF with its chain."""
    kernel, weights = Kernel(step, group), step.weights[group.main.weight]
    if not step.options.pregenerate:
        generate(step, weights, forward=True, backward=False)
    kernel.emit_product(weights.forward, _window(group.main, kernel.target))
    kernel.finish()


def conv_parts(step: Step, group: Group) -> Iterator[Progress]:
    """FF over windows bit by bit, with its sums, in turns with another product."""
    kernel, weights = Kernel(step, group, paired=True), step.weights[group.main.weight]
    yield from kernel.parts(weights.forward, _window(group.main, kernel.target))
    kernel.finish()


def _window(main: Conv | Unroll, target: Feature) -> Window:
    return forward_window(main.kernel, main.stride, main.padding, target)


def emit_unroll(step: Step, group: Group) -> None:
    """The product with zeros and ones that makes channels of kernel columns."""
    for _ in unroll_parts(step, group):
        pass


def unroll_parts(step: Step, group: Group) -> Iterator[Progress]:
    """The same bit by bit, in turns with another product."""
    main, em = group.main, step.em
    source, target = step.features[main.input], step.features[main.output]
    filled, used = source.words * step.arch.array.cols, used_values(source, step.arch.array)
    pattern = selection_pattern(used, step.arch) if used < filled else None
    run, filled = ((used, filled), used) if pattern else (None, filled)
    image = step.memory.image(f"{main.output} (selection)", main.kernel[1] * filled, target.words, pattern)
    image = replace(image, run=run)
    step.data.append((image.address, selection_bytes(main, source.c, filled, pattern, step.arch)))
    product = WindowProduct(em, step.rings, source, target, _window(main, target))
    yield from product.parts(image, choice=step.decide(main.output, "FF", product.choices(image)))


def emit_input_gradient(step: Step, group: Group) -> None:
    """BP with its chain, one product for each phase of the stride."""
    kernel, weights = Kernel(step, group), step.weights[group.main.weight]
    if not step.options.pregenerate:
        generate(step, weights, forward=False, backward=True)
    if len(weights.phases) < weights.kernel.stride[0] * weights.kernel.stride[1]:
        clear(step.em, kernel.target)
    for phase, image in zip(weights.phases, weights.backward, strict=True):
        kernel.emit_product(image, phase.window)
    kernel.finish()


def emit_weight_gradient(step: Step, group: Group) -> None:
    """WU with the update of the weights."""
    step.em.begin_kernel()
    weight_gradient(step, group.main, apply_update)


def emit_batch_norm(step: Step, group: Group) -> None:
    """Parameters of the channels, then scale and shift with the chain; a sum of two normalisations is made at once."""
    kernel, em, beside = Kernel(step, group), step.em, group.beside
    rule = _forward_rule(kernel, group.main)
    other = _forward_rule(kernel, beside) if beside else None
    if other:
        em.vector(ADD, rule.shift, rule.shift, other.shift)
    done = 1 if beside else 0
    relu = len(group.chain) > done and isinstance(group.chain[done], Relu)
    done += relu

    def begin(block: Block, fetch: Callable[[str], Block]) -> None:
        affine(em, block, rule.scale, rule.shift, relu=relu and not other)
        if other:
            em.vector(MAC, block, fetch(beside.input), other.scale.over_rows(block.rows), block, relu=relu)

    made = (group.main, *group.chain)[done]
    kernel.over_chunks(step.features[group.main.input], begin, main_result(made), done)
    kernel.finish()


def _forward_rule(kernel: Kernel, main: BatchNorm) -> Affine:
    """Scale and shift of a batch normalisation; mean, deviation and running statistics are stored."""
    step, em = kernel.step, kernel.step.em
    source = step.features[main.input]
    count = source.n * source.h * source.w
    total, squares = load_sums(step, main)
    statistics = batch_statistics(em, total, squares, count, main.eps)
    for name, value, factor in (
        (main.running_mean, statistics.mean, 1.0),
        (main.running_var, statistics.var, count / (count - 1)),
    ):
        if name is not None:
            old = kernel.row(name)
            running(em, old, value, main.momentum, factor)
            store_row(step, step.rows[name], old)
    for name, value in ((main.mean, statistics.mean), (main.invstd, statistics.invstd)):
        store_row(step, step.rows[name], value)
    return forward_affine(em, statistics, kernel.optional(main.gamma), kernel.optional(main.beta))


def emit_batch_norm_grad(step: Step, group: Group) -> None:
    """Gradients of gamma and beta with their updates, then the gradient of the input."""
    kernel, main, em = Kernel(step, group), group.main, step.em
    source = step.features[main.gradient]
    count = source.n * source.h * source.w
    sums = load_sums(step, main)
    gamma = kernel.optional(main.gamma)
    rule = backward_affine(em, sums, kernel.row(main.mean), kernel.row(main.invstd), gamma, count)
    for name, value in ((main.gamma_grad, rule.gamma_grad), (main.beta_grad, rule.beta_grad)):
        update_row(step, kernel, name, value)
    if main.output is None:
        return

    def begin(block: Block, fetch: Callable[[str], Block]) -> None:
        rows = block.rows
        em.vector(MAC, block, block, rule.scale.over_rows(rows), rule.shift.over_rows(rows))
        em.vector(MAC, block, fetch(main.input), rule.slope.over_rows(rows), block)

    kernel.over_chunks(source, begin, main.output)
    kernel.finish()


def emit_bias_grad(step: Step, group: Group) -> None:
    """The update of a bias from the sum of its gradient, in parts: the bias may be as large as an image."""
    main, em = group.main, step.em
    em.begin_kernel()
    make_sums(step, main)
    rule = step.updates.get(main.output)
    if rule is None:
        return
    gradient, size = sums_row(step, main, 0), max(1, min(ring.depth for ring in em.statics) // 4)
    for first in range(0, gradient.words, size):
        em.begin_chunk()
        em.begin_kernel()
        place = first, min(size, gradient.words - first), 2 * step.arch.beat_bytes
        rows = {name: step.rows[name].part(*place) for name in rule.names("in place")}
        value = load_row(step, gradient.part(*place))
        blocks = {name: load_row(step, row) for name, row in rows.items()}
        apply_update(em, rule, blocks, value, scaled=step.scaled)
        for name, row in rows.items():
            store_row(step, row, blocks[name])


def emit_pointwise(step: Step, group: Group) -> None:
    """A chain on a tensor that lies in external memory."""
    source = group.main.names("source")[0]
    kernel = Kernel(step, Group(group.main, (group.main, *group.chain), group.sums))
    kernel.over_chunks(step.features[source], lambda block, fetch: None, source)
    kernel.finish()


def update_row(step: Step, kernel: Kernel, gradient: str | None, value: Block) -> None:
    """Run the update of a channel vector, if its gradient is wanted."""
    rule = step.updates.get(gradient or "")
    if rule is None:
        return
    blocks = {name: kernel.row(name) for name in rule.names("in place")}
    apply_update(step.em, rule, blocks, value, scaled=step.scaled)
    for name, block in blocks.items():
        store_row(step, step.rows[name], block)

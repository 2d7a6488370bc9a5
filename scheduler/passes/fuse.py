"""Pass 1: operators -> layers. Bias, ReLU and addition run on a tile before it leaves the accumulator scratchpad."""

from collections import Counter
from dataclasses import replace

from hwgen.arch import UserError
from scheduler.ir import Add, Bias, Graph, Linear, Operator, Relu, Reshape, sources
from scheduler.state import Buffer, Layer, Lowering, Step


def run(state: Lowering) -> Lowering:
    """Fill in `layers`, `buffers` and `results`. Raises `UserError` for a reshape that would have to move data."""
    names = _same_rows(state.graph)
    layers = _Fuser(state.graph, names).layers()
    buffers = _buffers(state, names, layers)
    results = {}
    for label, tensor in state.graph.outputs.items():
        name = names[tensor]
        results[label] = (buffers[name].base or name, state.graph.tensors[tensor].shape)
    return replace(state, layers=layers, buffers=buffers, results=results)


def _same_rows(graph: Graph) -> dict[str, str]:
    """Tensor -> the tensor whose matrix it is: a reshape that keeps the last dimension is only another name."""
    names = {name: name for name in graph.tensors}
    for item in graph.operators:
        if isinstance(item, Reshape) and graph.tensors[item.input].cols == graph.tensors[item.output].cols:
            names[item.output] = names[item.input]
    return names


class _Fuser:
    """Builds layers in operator order; a layer grows while its result has no other reader."""

    def __init__(self, graph: Graph, names: dict[str, str]) -> None:
        self.graph = graph
        self.names = names
        self.uses = Counter(names[tensor] for tensor in graph.outputs.values())
        for item in graph.operators:
            if names[item.output] == item.output:
                self.uses.update(names[tensor] for tensor in sources(item))
        self.built: list[Layer] = []

    def layers(self) -> tuple[Layer, ...]:
        """All layers, in an order in which they can run."""
        for item in self.graph.operators:
            if not isinstance(item, Reshape):
                self._take(item)
        return tuple(self.built)

    def _take(self, item: Operator) -> None:
        operands = [self.names[tensor] for tensor in sources(item)]
        if isinstance(item, Linear):
            self.built.append(Layer(item.output, operands[0], item.weight, (), item.output))
        elif isinstance(item, Add):
            number = max((self._open(tensor) for tensor in operands), default=-1)
            extended = self.built[number].output if number >= 0 else operands[0]
            other = operands[1] if extended == operands[0] else operands[0]
            if number >= 0 and self._producer(other) > number:
                number, extended, other = -1, operands[0], operands[1]
            self._append(number, extended, Step("add", other), item.output)
        elif isinstance(item, Bias):
            self._append(self._open(operands[0]), operands[0], Step("bias", item.bias), item.output)
        elif isinstance(item, Relu):
            self._append(self._open(operands[0]), operands[0], Step("copy", relu=True), item.output)

    def _append(self, number: int, tensor: str, step: Step, output: str) -> None:
        """Add a step to layer `number`, or begin a layer without a product if it is -1."""
        if number < 0:
            self.built.append(Layer(output, tensor, None, (step,), output))
            return
        layer = self.built[number]
        steps = (*layer.steps, step)
        if step.kind == "copy" and layer.steps:
            steps = (*layer.steps[:-1], replace(layer.steps[-1], relu=True))
        self.built[number] = replace(layer, steps=steps, output=output)

    def _open(self, tensor: str) -> int:
        """Number of the layer that makes `tensor`, if nothing else reads it; else -1."""
        return self._producer(tensor) if self.uses[tensor] == 1 else -1

    def _producer(self, tensor: str) -> int:
        return next((number for number, layer in enumerate(self.built) if layer.output == tensor), -1)


def _buffers(state: Lowering, names: dict[str, str], layers: tuple[Layer, ...]) -> dict[str, Buffer]:
    graph = state.graph
    read = {layer.input for layer in layers}
    read |= {step.operand for layer in layers for step in layer.steps if step.kind == "add"}
    buffers = {}
    for name in graph.inputs:
        buffers[name] = Buffer(name, graph.tensors[name].rows, graph.tensors[name].cols, source=name)
    for layer in layers:
        buffers[layer.output] = Buffer(layer.output, graph.tensors[layer.output].rows, graph.tensors[layer.output].cols)
    for item in graph.operators:
        if isinstance(item, Reshape) and names[item.output] == item.output:
            base = buffers[names[item.input]]
            buffers[item.output] = _view(state, item, buffers[base.base or base.name], item.output in read)
    operands = read | {buffers[name].base for name in read if buffers[name].base is not None}
    fp32 = state.options.output_format == "fp32"
    return {name: replace(item, fp32=fp32 and _is_result(item, operands)) for name, item in buffers.items()}


def _is_result(item: Buffer, operands: set[str]) -> bool:
    return item.source is None and item.name not in operands and item.base not in operands


def _view(state: Lowering, item: Reshape, base: Buffer, read: bool) -> Buffer:
    """Buffer of a reshape that changes the last dimension."""
    tensor, cols = state.graph.tensors[item.output], state.arch.array.cols
    if base.source is not None:
        return Buffer(item.output, tensor.rows, tensor.cols, source=base.source)
    whole = base.cols % cols == 0 and tensor.cols % cols == 0
    if read and not whole:
        raise UserError(
            f"reshape {item.output} turns rows of {base.cols} values into rows of {tensor.cols}: inside the model both "
            f"must be multiples of array.cols ({cols}), because rows in memory are filled up to whole words"
        )
    return Buffer(item.output, tensor.rows, tensor.cols, base=base.name)

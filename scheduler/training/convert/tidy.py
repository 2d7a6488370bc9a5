"""Last steps of the capture: what nobody reads goes, and gradients get their names."""

from collections import Counter
from dataclasses import replace

from scheduler.convert import free_name
from scheduler.training.graph.base import Operator
from scheduler.training.graph.ir import Kind, Tensor
from scheduler.training.graph.moves import Broadcast, Concat, Pad, Permute, Reshape
from scheduler.training.graph.operators import Add, AvgPoolGrad, BatchNorm, ConvWeightGrad, Scale, Softmax, SoftmaxGrad
from scheduler.training.graph.updates import Update

Tensors = dict[str, Tensor]


def pooling_gradients(operators: list[Operator], tensors: Tensors) -> list[Operator]:
    """A part of a value that is repeated over all pixels is the gradient of an average over them."""
    makers = {name: item for item in operators for name in item.names("result")}
    result: list[Operator] = []
    for item in operators:
        source = makers.get(item.input) if isinstance(item, Broadcast) else None
        if isinstance(source, Scale):
            small, large = tensors[item.input].shape, tensors[item.output].shape
            area = large[1] * large[2]
            if small == (large[0], 1, 1, large[3]) and source.factor == 1 / area:
                item = AvgPoolGrad(item.output, source.input, kernel=large[1:3], stride=large[1:3], padding=(0, 0))
        result.append(item)
    return result


def concatenations(operators: list[Operator], tensors: Tensors) -> list[Operator]:
    """Sums of parts that fill an axis side by side, as gradients of slices do, are the parts one after the other."""
    makers = {name: item for item in operators for name in item.names("result")}
    return [_concatenation(item, makers, tensors) if isinstance(item, Add) else item for item in operators]


def _concatenation(item: Add, makers: dict[str, Operator], tensors: Tensors) -> Operator:
    parts = sorted(_parts(item.output, makers), key=lambda part: part.start)
    axis, end = (parts[0].axis if parts else 0), 0
    for part in parts:
        if (part.axis, part.start) != (axis, end):
            return item
        end += tensors[part.input].shape[axis]
    whole = end == tensors[item.output].shape[axis]
    return Concat(item.output, tuple(part.input for part in parts), axis) if parts and whole else item


def _parts(name: str, makers: dict[str, Operator]) -> list[Pad]:
    """The parts that a sum of nothing else adds up."""
    item = makers.get(name)
    if not isinstance(item, Add):
        return [item] if isinstance(item, Pad) else []
    left, right = _parts(item.left, makers), _parts(item.right, makers)
    return left + right if left and right else []


def scaled_softmaxes(operators: list[Operator], kept: set[str]) -> list[Operator]:
    """Softmaxes take along the scale of what only they read, and their gradients the scale of their results."""
    makers = {name: item for item in operators for name in item.names("result")}
    users = Counter(name for item in operators for name in item.names("source"))
    result: list[Operator] = []
    for item in operators:
        source = makers.get(item.input) if isinstance(item, Softmax | Scale) else None
        alone = source is not None and users[item.input] == 1 and item.input not in kept
        if alone and isinstance(item, Softmax) and isinstance(source, Scale) and source.factor > 0:
            item = replace(item, input=source.input, scale=item.scale * source.factor)
        elif alone and isinstance(item, Scale) and isinstance(source, SoftmaxGrad):
            item = replace(source, output=item.output, scale=source.scale * item.factor)
        result.append(item)
    return result


def name_gradients(
    operators: list[Operator], tensors: Tensors, gradients: dict[str, str]
) -> tuple[list[Operator], dict[str, str]]:
    """Call each parameter's gradient `<parameter>.grad`, and tell its products which parameter they belong to."""
    makers = {name: item for item in operators for name in item.names("result")}
    names, owner = {}, {}
    for parameter, gradient in gradients.items():
        names[gradient] = free_name(f"{parameter}.grad", tensors)
        tensors[names[gradient]] = replace(tensors.pop(gradient), name=names[gradient], kind=Kind.GRADIENT)
        parts = [gradient]
        while parts:
            name = parts.pop()
            owner[name] = parameter
            if name in tensors:
                tensors[name] = replace(tensors[name], kind=Kind.GRADIENT)
            if isinstance(makers.get(name), Add | Reshape | Permute | Scale):
                parts += makers[name].names("source")
    done = []
    for item in operators:
        if isinstance(item, ConvWeightGrad):
            item = replace(item, weight=owner.get(item.output, item.weight))
        done.append(item.renamed(names))
    return done, {parameter: names[gradient] for parameter, gradient in gradients.items()}


def live(operators: list[Operator], tensors: Tensors, wanted: set[str]) -> tuple[list[Operator], Tensors]:
    """Operators that updates, running statistics or `wanted` tensors need, and their tensors."""
    needed, result = set(wanted), []
    for item in reversed(operators):
        acts = isinstance(item, Update) or (isinstance(item, BatchNorm) and item.running_mean is not None)
        if not acts and not needed & set(item.names("result")):
            continue
        item = item.reduced(needed)
        needed |= {*item.names("result"), *item.names("source"), *item.names("in place")}
        result.append(item)
    return result[::-1], {name: tensor for name, tensor in tensors.items() if name in needed}

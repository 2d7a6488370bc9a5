"""Pass 2: prune the weights of every linear layer to the pattern and round them to operands."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hwgen.arch import UserError
from models.formats import encode
from models.pattern import Pattern
from models.sparsity import nm_mask
from scheduler.state import Layer, Lowering, Weights


def run(state: Lowering) -> Lowering:
    """Fill in `weights` for every layer with a product.

    Raises `UserError` for a parameter that is not finite or overflows the operand format, for a pattern that the
    array does not support, and for a policy that names layers which do not exist.
    """
    policy, array = state.options.sparsity, state.arch.array
    linear = [layer for layer in state.layers if layer.weight is not None]
    unknown = set(policy.dense).difference(*(_names(layer) for layer in linear))
    if unknown:
        known = ", ".join(layer.name for layer in linear)
        raise UserError(
            f"the sparsity policy keeps {', '.join(sorted(unknown))} dense, but the linear layers are {known}"
        )
    if policy.pattern is not None and policy.pattern.m > array.group_max:
        raise UserError(
            f"sparsity {policy.pattern} needs groups of {policy.pattern.m}, array.group_max is {array.group_max}"
        )
    _check_biases(state)
    return replace(state, weights={layer.name: _weights(state, layer) for layer in linear})


def _names(layer: Layer) -> set[str]:
    """What a policy may call a layer: its own name or that of its parameter, which layers can share."""
    return {layer.name, layer.weight.removesuffix(".weight")}


def _weights(state: Lowering, layer: Layer) -> Weights:
    parameter, operand = layer.weight, state.arch.array.operand
    values = state.graph.constants[parameter]
    _check(values, np.isfinite(values), parameter, "every weight must be finite")
    with np.errstate(over="ignore"):
        bits = encode(values, operand)
    infinite = {"fp16": 0x7C00, "bf16": 0x7F80}[operand]
    _check(values, (bits & 0x7FFF) != infinite, parameter, f"it overflows {operand}")
    pattern, note = _pattern(state, layer, values.shape)
    if pattern is None:
        return Weights(bits, None, None, note)
    mask = nm_mask(values, pattern.n, pattern.m, axis=0)
    return Weights(np.where(mask, bits, np.uint16(0)), mask, pattern, note)


def _pattern(state: Lowering, layer: Layer, shape: tuple[int, ...]) -> tuple[Pattern | None, str]:
    """Pattern of a layer, or None and the reason if it stays dense against the wish of the policy."""
    policy = state.options.sparsity
    if policy.pattern is None:
        return None, ""
    if _names(layer) & set(policy.dense):
        return None, "kept dense by the policy"
    for size, what in zip(shape, ("inputs", "outputs"), strict=True):
        if size < policy.pattern.m:
            return None, f"kept dense: {size} {what} are fewer than a group of {policy.pattern.m}"
    return policy.pattern, ""


def _check(values: NDArray[np.float32], good: NDArray[np.bool_], parameter: str, problem: str) -> None:
    if not good.all():
        k, s = (int(i) for i in np.argwhere(~good)[0])
        raise UserError(f"parameter {parameter}: the weight from input {k} to output {s} is {values[k, s]}: {problem}")


def _check_biases(state: Lowering) -> None:
    for layer in state.layers:
        for step in layer.steps:
            if step.kind == "bias" and not np.isfinite(state.graph.constants[step.operand]).all():
                position = int(np.argwhere(~np.isfinite(state.graph.constants[step.operand]))[0][0])
                value = state.graph.constants[step.operand][position]
                raise UserError(f"parameter {step.operand}: element {position} is {value}: every bias must be finite")

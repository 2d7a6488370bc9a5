"""Graph of an encoder, pruning policy and architecture -> program.

Everything but attention is what a training step does in its forward pass; but weights are packed here, once, so that
there are no masters and nothing runs before the first sequence.
"""

from dataclasses import dataclass
from math import ceil

import numpy as np

from hwgen.arch import INSTRUCTION_BYTES, Arch, UserError, load, preset_names
from models.attention.attention import Magnitudes
from models.attention.policy import PruningPolicy
from models.formats import encode
from models.packing import dense_columns, packed_columns
from models.pattern import Pattern
from scheduler.attention.cascade import Kept, attentions, kept_of, prune
from scheduler.attention.kernels import AttentionKernels
from scheduler.attention.lengths import Lengths
from scheduler.attention.program import EncoderProgram
from scheduler.training.compile import schedule
from scheduler.training.graph.ir import KEPT, TrainingGraph
from scheduler.training.graph.operators import Conv
from scheduler.training.kernels.curves import place_curves, wanted
from scheduler.training.kernels.emitter import Emitter, words_of
from scheduler.training.kernels.table import emit_all
from scheduler.training.lower import Step, TrainingOptions, load_constants, stored_curves
from scheduler.training.memory import MemoryMap
from scheduler.training.places import PIXELS, place_features
from scheduler.training.products.gradient_plans import Kernel
from scheduler.training.products.resident import Rings, WeightImage
from scheduler.training.schedule.fuse import groups, main_result


@dataclass(frozen=True)
class StoredWeights:
    """What the kernel of a product reads of its parameter."""

    kernel: Kernel
    forward: WeightImage


def compile_encoder(
    graph: TrainingGraph,
    arch: Arch,
    policy: PruningPolicy,
    magnitudes: list[Magnitudes],
    *,
    pattern: Pattern | None = None,
    dense: tuple[str, ...] = (),
    memory_bytes: int | None = None,
) -> EncoderProgram:
    """Program that runs one sequence at a time under a policy, of as many tokens as the graph has or fewer.

    `graph` is that of `capture_encoder`, `magnitudes` are those of each layer, as `models.attention.calibrate` gives
    them. With a `pattern` weights are N:M but for those named in `dense`. `memory_bytes`: external memory of the card.
    Raises `UserError` when graph, policy and architecture do not fit together.
    """
    kept = check(graph, arch, policy, magnitudes)
    graph = prune(graph, kept)
    options = TrainingOptions(pattern=pattern, dense=dense, memory_bytes=memory_bytes)
    step = begin(graph, arch, options)
    kernels = AttentionKernels(policy, kept, magnitudes)
    emit(step, kernels)
    lengths = Lengths(policy, tuple(attentions(graph)), kept[0].tokens, kernels.sized)
    code = schedule(step, code_address(arch, step.memory.end))
    return EncoderProgram(
        arch=arch, places=step, code=code, kept=tuple(kept), selected=tuple(kernels.selected), lengths=lengths
    )


def check(graph: TrainingGraph, arch: Arch, policy: PruningPolicy, magnitudes: list[Magnitudes]) -> list[Kept]:
    """What each layer keeps. Raises `UserError` when graph, policy, calibration and architecture do not fit."""
    check_arch(graph, arch)
    kept = kept_of(graph, policy)
    if len(magnitudes) != len(kept):
        raise UserError(f"{len(magnitudes)} layers are calibrated, the model has {len(kept)}")
    return kept


def emit(step: Step, kernels: AttentionKernels) -> None:
    """Record the instructions of a program."""
    load_constants(step)
    emit_all(step, kernels.handlers)


def code_address(arch: Arch, end: int) -> int:
    """First address for instructions behind what ends at `end`."""
    unit = max(INSTRUCTION_BYTES, arch.beat_bytes)
    return ceil(end / unit) * unit


def check_engine(arch: Arch) -> None:
    """Raise `UserError` if an architecture can run no encoder at all."""
    if arch.attention is None:
        others = [name for name in preset_names() if load(name).attention is not None]
        raise UserError(
            f"architecture {arch.name} has no attention engine: add an `attention:` section, or take one of "
            f"{', '.join(others)}"
        )
    if arch.array.lanes != 1:
        raise UserError(f"encoders need array.lanes 1, not {arch.array.lanes}")


def check_arch(graph: TrainingGraph, arch: Arch) -> None:
    """Raise `UserError` if an architecture cannot run the graph."""
    check_engine(arch)
    sizes = arch.attention
    for item in attentions(graph):
        tokens = graph.tensors[item.output].shape[2]
        if item.heads > sizes.max_heads:
            raise UserError(
                f"the model has {item.heads} heads, attention.max_heads of {arch.name} is {sizes.max_heads}"
            )
        if tokens > sizes.max_length:
            raise UserError(
                f"the sequence has {tokens} tokens, attention.max_length of {arch.name} is {sizes.max_length}"
            )


def begin(graph: TrainingGraph, arch: Arch, options: TrainingOptions, beside: Step | None = None) -> Step:
    """Give every tensor its place; parameters and constants are those of the step `beside`, if there is one."""
    memory = beside.memory if beside else MemoryMap(arch, options.memory_bytes)
    step = Step(graph, arch, options, memory, Emitter(arch), Rings(arch))
    if beside:
        step.rows, step.weights, step.em.constants = beside.rows, beside.weights, beside.em.constants
    step.em.curves = place_curves(wanted(graph), arch)
    step.data += stored_curves(step)
    inside = _inside(step)
    products = {item.weight: item for item in graph.operators if isinstance(item, Conv)}
    features = []
    for name, tensor in graph.tensors.items():
        if name in inside or name in products or name in step.rows:
            continue
        if tensor.kind in PIXELS:
            features.append(name)
        elif tensor.kind in KEPT:
            step.rows[name] = memory.row(name, tensor.shape[3], tensor.kind)
            step.data.append((step.rows[name].address, _row_bytes(step, name)))
    step.features = place_features(graph, arch, memory, features)
    for name, item in products.items():
        if name not in step.weights:
            step.weights[name] = _weights(step, item)
    return step


def _inside(step: Step) -> set[str]:
    """Results that stay on chip, because the next operator of their group takes them."""
    return {
        main_result(item)
        for group in groups(step.graph, apart=step.em.apart, curves=step.em.curves.places)
        for item in (group.main, *group.chain)[: len(group.chain)]
    }


def _row_bytes(step: Step, name: str) -> bytes:
    """A channel vector in whole words."""
    row = step.rows[name]
    filled = np.zeros(row.words * step.arch.array.cols, np.float32)
    filled[: row.channels] = step.graph.values[name].reshape(-1)
    return filled.tobytes()


def _weights(step: Step, item: Conv) -> StoredWeights:
    """Pack a weight [Co, 1, 1, Ci] as the array reads it. Raises `UserError` for other windows and bad values."""
    values, arch, name = step.graph.values[item.weight], step.arch, item.weight
    if item.kernel != (1, 1) or item.groups != 1 or item.stride != (1, 1):
        raise UserError(f"{name}: an encoder has linear layers, not windows of {item.kernel}")
    if not np.isfinite(values).all():
        raise UserError(f"{name} has values that are not finite")
    pattern = _pattern(step, item)
    depth = words_of(values.shape[3], arch) * arch.array.cols
    matrix = np.zeros((depth, values.shape[0]), np.float32)
    matrix[: values.shape[3]] = values[:, 0, 0].T
    bits = encode(matrix, arch.array.operand)
    image = step.memory.image(name, depth, words_of(values.shape[0], arch), pattern)
    packed = dense_columns(bits, arch) if pattern is None else packed_columns(bits, arch, pattern.n, pattern.m)
    step.data.append((image.address, packed))
    return StoredWeights(Kernel(size=(1, 1), stride=(1, 1), padding=(0, 0)), image)


def _pattern(step: Step, item: Conv) -> Pattern | None:
    """The pattern of a weight; where it stays dense, `notes` says why."""
    pattern, name = step.options.pattern, item.weight
    if pattern is None:
        return None
    inputs = step.graph.tensors[name].shape[3]
    if pattern.m > step.arch.array.group_max:
        raise UserError(f"groups of {pattern.m} weights are too large: array.group_max is {step.arch.array.group_max}")
    reasons = {
        "it is named in `dense`": name in step.options.dense,
        f"its {inputs} inputs are not a multiple of {pattern.m}": inputs % pattern.m != 0,
    }
    reason = next((text for text, holds in reasons.items() if holds), "")
    if reason:
        step.notes[name] = f"dense: {reason}"
    return None if reason else pattern

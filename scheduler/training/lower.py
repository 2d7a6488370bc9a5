"""Training graph -> instructions of one step, kernel by kernel."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Literal, get_args

import numpy as np

from hwgen.arch import Arch, UserError
from hwgen.arch.isa import Target
from models.pattern import Pattern
from scheduler.hazards import Region
from scheduler.training.graph.ir import Kind, TrainingGraph, verify
from scheduler.training.graph.operators import (
    BatchNormGrad,
    BiasGrad,
    Conv,
    ConvInputGrad,
    ConvWeightGrad,
    LayerNormGrad,
)
from scheduler.training.graph.updates import Adam, Sgd, Update
from scheduler.training.kernels.banks import constant_words
from scheduler.training.kernels.curves import place_curves, table, wanted
from scheduler.training.kernels.emitter import Block, Emitter, Feature
from scheduler.training.memory import MemoryMap, Row, packed_span
from scheduler.training.places import PIXELS, place_features
from scheduler.training.products.decisions import Choice, Decision, choose
from scheduler.training.products.gradient_plans import Kernel
from scheduler.training.products.resident import Rings
from scheduler.training.products.unroll import unroll_first
from scheduler.training.products.weights import Weights, master_words
from scheduler.training.products.windows import gradient_phases
from scheduler.training.schedule.fuse import groups, main_result

Method = Literal["dense", "srste", "bdwp"]
"""Which products are N:M: none, the forward pass, or the forward pass and the input gradient."""
Dataflows = Literal["auto", "os", "ws"]
"""What stays in the array: chosen for each product by its cycles, or the same for all products that allow it."""


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Choices that hold for a whole training program."""

    pattern: Pattern | None = None
    method: Method = "bdwp"
    dense: tuple[str, ...] = ()
    """Parameters that stay dense besides the first layer and the classifier."""
    decay: float = 0.0
    """SR-STE: this times the weight is added to the gradient of weights that the forward pass drops."""
    loss_scale: float = 1.0
    """The gradient of the loss is multiplied by it, and gradients of parameters divided by it when they are used."""
    pregenerate: bool = True
    """Operand copies of weights are written with the update; else right before the product that reads them."""
    overlap: bool = True
    """Engines run side by side in an order found offline; else in the order in which kernels record instructions."""
    interleave: bool = True
    """Several sums rotate through each processing element; else one."""
    dataflow: Dataflows = "auto"
    """Output or weight stationary; products that read windows are output stationary in any case."""
    seed: int = 0
    """Dropout masks depend on it."""
    memory_bytes: int | None = None
    """External memory of the card."""

    def __post_init__(self) -> None:
        for name, allowed in (("method", get_args(Method)), ("dataflow", get_args(Dataflows))):
            if getattr(self, name) not in allowed:
                raise UserError(f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")

    def naive(self) -> "TrainingOptions":
        """The same without offline scheduling: one dataflow (os if none is given), no overlap, order of the graph."""
        return replace(self, dataflow="os" if self.dataflow == "auto" else self.dataflow, overlap=False)


@dataclass
class Step:
    """A training step on its way to instructions, and where everything is."""

    graph: TrainingGraph
    arch: Arch
    options: TrainingOptions
    memory: MemoryMap
    em: Emitter
    rings: Rings
    features: dict[str, Feature] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)
    weights: dict[str, Weights] = field(default_factory=dict)
    updates: dict[str, Update] = field(default_factory=dict)
    """Gradient -> the update that reads it."""
    notes: dict[str, str] = field(default_factory=dict)
    """Parameter -> why it is dense although a pattern was asked for."""
    summed: set[str] = field(default_factory=set)
    """Normalisations and bias gradients, by their result, whose sums have been taken."""
    data: list[tuple[int, bytes]] = field(default_factory=list)
    """Constant contents of external memory: address, bytes."""
    headings: list[tuple[int, str]] = field(default_factory=list)
    """First instruction of each kernel, and its name."""
    decisions: list[Decision] = field(default_factory=list)
    """How products were cut, in the order in which they were recorded."""

    def decide(self, kernel: str, stage: str, choices: Sequence[Choice]) -> Choice:
        """Choose how to compute a product, and note it."""
        chosen, runner_up = choose(choices, self.options.dataflow, interleave=self.options.interleave)
        self.note(kernel, stage, chosen, runner_up)
        return chosen

    def note(self, kernel: str, stage: str, chosen: Choice, runner_up: Choice | None = None) -> None:
        """Note how the product that is recorded next is computed."""
        first = len(self.em.recorder.commands)
        self.decisions.append(Decision(kernel=kernel, stage=stage, first=first, chosen=chosen, runner_up=runner_up))

    @property
    def scaled(self) -> bool:
        """Whether gradients of parameters carry a loss scale."""
        return self.options.loss_scale != 1.0

    @property
    def tile_limit(self) -> int:
        """Accumulator words of a block of which a kernel needs several at a time."""
        return self.em.bank_words // 4

    def limit_of(self, feature: Feature) -> int:
        """The same for chunks of a feature map; a whole pixel if that is more and two of them find room."""
        return max(self.tile_limit, min(feature.words, self.em.limit(2)))


def begin(graph: TrainingGraph, arch: Arch, options: TrainingOptions) -> Step:
    """Give every tensor its place."""
    verify(graph)
    graph = unroll_first(graph, arch)
    _check_arch(arch)
    memory = MemoryMap(arch, options.memory_bytes)
    step = Step(graph, arch, options, memory, Emitter(arch), Rings(arch))
    step.em.curves = place_curves(wanted(graph), arch)
    step.data += stored_curves(step)
    step.updates = {item.gradient: item for item in graph.operators if isinstance(item, Sgd | Adam)}
    _check_gradients(graph, step.updates)
    products = {item.weight: item for item in graph.operators if isinstance(item, Conv)}
    inside = {
        main_result(item)
        for group in groups(graph, apart=step.em.apart, curves=step.em.curves.places)
        for item in group.items[:-1]
    }
    features = []
    for name, tensor in graph.tensors.items():
        if name in inside | set(products) or tensor.kind == Kind.SCALAR or _is_weight_state(graph, name, products):
            continue
        if tensor.kind in PIXELS:
            features.append(name)
        elif tensor.shape[:3] == (1, 1, 1):
            step.rows[name] = memory.row(name, tensor.shape[3], tensor.kind)
    step.features = place_features(graph, arch, memory, features)
    for name, product in products.items():
        step.weights[name] = _weights(step, product)
    step.rows["loss"] = memory.row("loss", 1, "loss")
    return step


def stored_curves(step: Step) -> Iterator[tuple[int, bytes]]:
    """Give curves their places in external memory; their contents there, a line in the lowest bytes of each beat."""
    places = step.em.curves.places
    for name, place in places.items():
        address, unit = step.memory.curve(name, place.curve.size)
        places[name] = replace(place, address=address, unit=unit)
        beats = np.zeros((place.curve.size, step.arch.beat_bytes // 4), np.float32)
        beats[:, :2] = table(name)
        yield address, beats.tobytes()


def _check_arch(arch: Arch) -> None:
    if arch.array.lanes != 1:
        raise UserError(f"training needs array.lanes 1, not {arch.array.lanes}")
    if arch.array.rows < arch.array.cols:
        raise UserError(f"training needs array.rows of at least array.cols ({arch.array.cols}), not {arch.array.rows}")


def _check_gradients(graph: TrainingGraph, updates: dict[str, Update]) -> None:
    """Raise `UserError` for a parameter whose gradient no kernel hands to its update."""
    direct = ConvWeightGrad | BiasGrad | BatchNormGrad | LayerNormGrad
    for item in graph.operators:
        for name in item.names("result"):
            if name in updates and not isinstance(item, direct):
                raise UserError(
                    f"{updates[name].parameter}: its gradient is the result of {type(item).__name__}, as that of a "
                    f"parameter that is used more than once; the array updates parameters from a single gradient"
                )


def _is_weight_state(graph: TrainingGraph, name: str, products: dict[str, Conv]) -> bool:
    """Whether a tensor is a state of a product's weight, which lies beside its master."""
    return any(
        name in item.names("in place") and item.parameter in products
        for item in graph.operators
        if isinstance(item, Sgd | Adam)
    )


def _weights(step: Step, product: Conv) -> Weights:
    """Places of a product's parameter, of its states and copies."""
    graph, name = step.graph, product.weight
    kernel = Kernel(size=product.kernel, stride=product.stride, padding=product.padding)
    needs_gradient = any(isinstance(item, ConvInputGrad) and item.weight == name for item in graph.operators)
    phases = ()
    if needs_gradient:
        phases = tuple(gradient_phases(kernel.size, kernel.stride, kernel.padding, step.features[product.input]))
    pattern = _pattern(step, product)
    update = step.updates.get(graph.gradients.get(name, ""))
    states = tuple(state for state in (update.names("in place") if update else ()) if state != name)
    weights = step.memory.weights(
        graph.tensors[name],
        groups=product.groups,
        kernel=kernel,
        phases=phases,
        patterns=(pattern, pattern if step.options.method == "bdwp" else None),
        states=states,
        limit=step.tile_limit,
        interleave=step.options.interleave,
    )
    if weights.mask is not None:
        ones = np.ones(graph.tensors[name].shape, np.float32)
        step.data.append((weights.mask.address, master_words(weights, step.arch, ones).tobytes()))
    return weights


def _pattern(step: Step, product: Conv) -> Pattern | None:
    """The pattern of a product's weights; where it stays dense, `notes` says why."""
    pattern, graph = step.options.pattern, step.graph
    if pattern is None or step.options.method == "dense":
        return None
    name = product.weight
    span = packed_span(pattern)
    channels, inputs = graph.tensors[name].shape[0], graph.tensors[name].shape[3]
    array = step.arch.array
    sums = ceil(span / array.rows) * ceil(span / array.cols)
    reasons = {
        "it is named in `dense`": name in step.options.dense,
        "it is the first layer": name == _products(graph)[0],
        "it is the classifier": name == _products(graph)[-1],
        f"it has {product.groups} groups": product.groups > 1,
        f"its {inputs} input channels are not a multiple of {span}": inputs % span != 0,
        f"its {channels} output channels are not a multiple of {span}": channels % span != 0,
        f"{span} x {span} channels of {pattern} weights take {sums} sums of each element, array.interleave_max is "
        f"{array.interleave_max}": sums > array.interleave_max,
    }
    reason = next((text for text, holds in reasons.items() if holds), "")
    if reason:
        step.notes[name] = f"dense: {reason}"
    return None if reason else pattern


def _products(graph: TrainingGraph) -> list[str]:
    """Parameters of the forward products."""
    return [item.weight for item in graph.operators if isinstance(item, Conv)]


def clear(em: Emitter, feature: Feature) -> None:
    """Fill a feature map with zeros."""
    for chunk in em.chunks(feature, em.bank_words // 2):
        block = em.take(chunk.pixels, feature.words)
        em.load(Target.ACC16, block.addr, None, block.region, rows=1, pad=chunk.pixels * feature.words)
        em.put(feature, chunk, block)


def load_constants(step: Step) -> None:
    """The first instruction of a step: constants and scalars go to the end of the accumulators."""
    place = step.arch.scratchpads.acc_depth - constant_words(step.arch)
    block = Block(place, constant_words(step.arch), 1, 1)
    unit = step.memory.constants_unit
    step.em.load_block(
        block, step.memory.constants, 2 * step.arch.beat_bytes, Region("dram", unit, unit + 1), wide=True
    )

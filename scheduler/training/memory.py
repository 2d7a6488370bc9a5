"""External memory of a training step: where every tensor, weight copy and state is."""

from dataclasses import dataclass, replace
from math import ceil, gcd

from hwgen.arch import Arch, UserError
from models.pattern import Pattern
from scheduler.hazards import Region
from scheduler.training.graph.ir import Tensor
from scheduler.training.kernels.banks import constant_words
from scheduler.training.kernels.emitter import Feature, words_of
from scheduler.training.products.gradient_plans import Kernel, gradient_plans
from scheduler.training.products.resident import BLOCK_SLOTS, WeightImage
from scheduler.training.products.weights import Master, Weights
from scheduler.training.products.windows import Phase


@dataclass(frozen=True)
class Row:
    """FP32 values, one for each channel, in whole words. `unit` numbers it for hazards."""

    name: str
    channels: int
    words: int
    address: int
    unit: int

    @property
    def region(self) -> Region:
        """The whole row."""
        return Region("dram", self.unit, self.unit + 1)

    def part(self, first: int, words: int, word_bytes: int) -> "Row":
        """Some of its words; a hazard of one part is a hazard of the row."""
        return replace(self, words=words, address=self.address + first * word_bytes)


@dataclass(frozen=True)
class Segment:
    """A named piece of external memory, for the listing and for the error when there is too little."""

    name: str
    kind: str
    address: int
    size: int


class MemoryMap:
    """Hands out external memory from address 0, and hazard numbers with it."""

    def __init__(self, arch: Arch, limit: int | None = None) -> None:
        self.arch, self.limit = arch, limit or 1 << arch.memory.address_bits
        self.segments: list[Segment] = []
        self.end, self._unit = 0, 0
        self.constants = self._take("constants", "constants", constant_words(arch) * 2 * arch.beat_bytes)
        self.constants_unit = self._units(1)

    def feature(self, tensor: Tensor, kind: str) -> Feature:
        """Room for a tensor [N, H, W, C] of operands."""
        n, h, w, c = tensor.shape
        words = words_of(c, self.arch)
        address = self._take(tensor.name, kind, n * h * w * words * self.arch.beat_bytes)
        return Feature(tensor.name, n, h, w, c, words, address, self._units(self.units_of(tensor.shape)))

    def units_of(self, shape: tuple[int, int, int, int]) -> int:
        """Hazard numbers that a feature map takes: one for each image row of a block of `array.rows` images."""
        return ceil(shape[0] / self.arch.array.rows) * shape[1]

    def row(self, name: str, channels: int, kind: str) -> Row:
        """Room for a value of each channel."""
        words = words_of(channels, self.arch)
        address = self._take(name, kind, 2 * words * self.arch.beat_bytes)
        return Row(name, channels, words, address, self._units(1))

    def weights(
        self,
        tensor: Tensor,
        *,
        groups: int = 1,
        kernel: Kernel,
        phases: tuple[Phase, ...],
        patterns: tuple[Pattern | None, Pattern | None],
        states: tuple[str, ...],
        limit: int,
        interleave: bool = True,
    ) -> Weights:
        """Room for the masters of a parameter and its states, and for its copies; all with zeros between groups.

        `patterns` are those of the forward and of the backward copy; `limit` the accumulator words of a tile; without
        `interleave` its elements hold as few sums as possible.
        """
        cols = self.arch.array.cols
        channels, inputs = (words_of(size, self.arch) * cols for size in (tensor.shape[0], tensor.shape[3] * groups))
        span = (whole_span(patterns[1], cols), whole_span(patterns[0], cols))
        plan, *others = gradient_plans(
            self.arch,
            kernel=kernel,
            channels=channels,
            blocks=inputs // cols,
            span=span,
            limit=limit,
            interleave=interleave,
        )
        taps = kernel.size[0] * kernel.size[1]
        tiles = len(list(plan.tiles(channels, taps, inputs // cols)))
        size = channels * taps * inputs * 4
        masters = tuple(
            Master(name, self._take(name, "weights" if name == tensor.name else "state", size), self._units(tiles))
            for name in (tensor.name, *states)
        )
        forward = self.image(f"{tensor.name} (forward)", taps * inputs, channels // cols, patterns[0])
        backward = tuple(
            self.image(
                f"{tensor.name} (backward {number})", len(phase.positions) * channels, inputs // cols, patterns[1]
            )
            for number, phase in enumerate(phases)
        )
        mask = None
        if groups > 1:
            mask = Master(f"{tensor.name} (groups)", self._take(tensor.name, "groups", size), self._units(tiles))
        return Weights(
            name=tensor.name,
            groups=groups,
            mask=mask,
            channels=channels,
            inputs=inputs,
            kernel=kernel,
            plan=plan,
            runner_up=others[0] if others else None,
            masters=masters,
            forward=forward,
            phases=phases,
            backward=backward,
        )

    def image(self, name: str, depth: int, blocks: int, pattern: Pattern | None) -> WeightImage:
        """Room for a copy of weights."""
        image = WeightImage(name, 0, depth, blocks, pattern, self._units(blocks))
        address = self._take(name, "copy", image.beats * blocks * self.arch.beat_bytes)
        return WeightImage(name, address, depth, blocks, pattern, image.unit)

    def curve(self, name: str, entries: int) -> tuple[int, int]:
        """Room for the lines of a curve, a beat each: address and hazard number."""
        return self.area(name, "curve", entries * self.arch.beat_bytes)

    def area(self, name: str, kind: str, size: int) -> tuple[int, int]:
        """Room for `size` bytes, in whole beats: address and hazard number."""
        beat = self.arch.beat_bytes
        return self._take(name, kind, ceil(size / beat) * beat), self._units(1)

    def _take(self, name: str, kind: str, size: int) -> int:
        address = self.end
        if address + size > self.limit:
            raise UserError(
                f"external memory of {self.limit:,} bytes is too small: {name} needs {size:,} bytes from {address:,} on"
            )
        self.segments.append(Segment(name, kind, address, size))
        self.end += size
        return address

    def _units(self, count: int) -> int:
        self._unit += count
        return self._unit - count


def packed_span(pattern: Pattern) -> int:
    """Channels after which packed weights are at the start of a block again."""
    return pattern.m * BLOCK_SLOTS // gcd(BLOCK_SLOTS, pattern.n)


def whole_span(pattern: Pattern | None, cols: int) -> int:
    """Channels after which whole words, and packed weights whole blocks, begin again: a tile holds at least as many."""
    span = packed_span(pattern) if pattern else cols
    return span * cols // gcd(span, cols)

"""What the passes hand on: each pass adds one field to `Lowering`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hwgen.arch import Arch
from hwgen.arch.isa import Dataflow
from models.pattern import Pattern
from scheduler.ir import Graph
from scheduler.options import Options
from scheduler.program import Program, Segment


@dataclass(frozen=True)
class Step:
    """One VECTOR instruction for each tile: `x = relu?(x [+ operand])`."""

    kind: Literal["bias", "add", "copy"]
    operand: str | None = None
    """bias: a constant; add: a buffer."""
    relu: bool = False

    def __str__(self) -> str:
        text = {"bias": f"+ {self.operand}", "add": f"+ {self.operand}", "copy": ""}[self.kind]
        return " ".join(part for part in (text, "relu" if self.relu else "") if part)


@dataclass(frozen=True)
class Layer:
    """What runs tile by tile without touching external memory in between: a product (or a plain tensor) and steps."""

    name: str
    input: str
    weight: str | None
    """Constant `[K, S]`; None: the tiles are loaded from `input` as they are."""
    steps: tuple[Step, ...]
    output: str

    def __str__(self) -> str:
        body = f"{self.input} @ {self.weight}" if self.weight else self.input
        return ", ".join([f"{self.output} = {body}", *(str(step) for step in self.steps)])


@dataclass(frozen=True)
class Buffer:
    """A matrix in external memory: `rows` rows of `cols` values, each row filled up to a whole word."""

    name: str
    rows: int
    cols: int
    source: str | None = None
    """Graph input whose values it holds."""
    base: str | None = None
    """Buffer whose memory this one is another view of."""
    fp32: bool = False
    """Stored as FP32 instead of operands."""


@dataclass(frozen=True)
class Weights:
    """A weight matrix as the array multiplies it."""

    bits: NDArray[np.uint16] = field(repr=False)
    """Operand bit patterns `[K, S]`."""
    mask: NDArray[np.bool_] | None = field(repr=False)
    """True where a weight is kept; None when dense."""
    pattern: Pattern | None
    note: str
    """Why the layer is dense, if a pattern was asked for."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a layer is cut into tiles and where its scratchpad slots go. Sizes in rows, values or words as named."""

    dataflow: Dataflow | None
    """None for a layer without a product."""
    group: int
    """G of ISA.md: values of a group."""
    group_words: int
    """K of ISA.md: weight words of a group in each column block."""
    tile_rows: int
    tile_cols: int
    row_tile: int
    """Output rows of a tile."""
    depth_tile: int
    """Values of the reduction of one TENSOR instruction."""
    row_tiles: int
    col_tiles: int
    depth_tiles: int
    act_words: int
    act_slots: int
    wgt_words: int
    wgt_slots: int
    out_slots: int
    outer: Literal["rows", "cols"]
    """Loop order: the panel of row (or column) tiles that stays on chip while the others pass."""
    panel: int
    cycles: int = 0
    """Estimate of `cost`."""
    rival: str = ""
    """The best plan of the other dataflow, for the listing."""

    @property
    def out_words(self) -> int:
        """Accumulator words of a tile."""
        return self.row_tile * self.tile_cols


@dataclass(frozen=True)
class Placement:
    """Where a buffer is: byte address of its first row and bytes from row to row."""

    address: int
    row_stride: int
    buffer: Buffer


@dataclass(frozen=True)
class Chunk:
    """Packed weights of one (column tile, depth tile): byte addresses, and size in weight words."""

    values: int
    indices: int
    words: int
    groups: int


@dataclass(frozen=True)
class MemoryMap:
    """The external memory of a program: segments in ascending order, and where everything is in them."""

    segments: tuple[Segment, ...]
    placements: Mapping[str, Placement]
    chunks: Mapping[str, Mapping[tuple[int, int], Chunk]] = field(repr=False)
    """Layer -> (column tile, depth tile) -> packed weights."""
    biases: Mapping[str, int]
    """Bias constant -> byte address."""
    end: int


@dataclass(frozen=True, kw_only=True)
class Lowering:
    """A model on its way to a program. Fields below `graph` are filled in by the passes, in this order."""

    arch: Arch
    options: Options
    graph: Graph
    layers: tuple[Layer, ...] = ()
    buffers: Mapping[str, Buffer] = field(default_factory=dict)
    results: Mapping[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    """Output name -> buffer and shape."""
    weights: Mapping[str, Weights] = field(default_factory=dict)
    plans: Mapping[str, Plan] = field(default_factory=dict)
    memory: MemoryMap | None = None
    program: Program | None = None

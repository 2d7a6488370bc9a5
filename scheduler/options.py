"""What the user may choose about a lowering."""

from dataclasses import dataclass, field
from typing import Literal

from hwgen.arch import UserError
from models.pattern import Pattern

DataflowChoice = Literal["auto", "os", "ws"]
OutputChoice = Literal["fp32", "operand"]


@dataclass(frozen=True)
class SparsityPolicy:
    """Which linear layers are pruned: all of them by `pattern` (None: none), except those named in `dense`."""

    pattern: Pattern | None = None
    dense: tuple[str, ...] = ()


@dataclass(frozen=True)
class Options:
    """Choices that hold for a whole program."""

    sparsity: SparsityPolicy = field(default_factory=SparsityPolicy)
    dataflow: DataflowChoice = "auto"
    """`auto` takes the cheaper one for each layer; `os` and `ws` force output or weight stationary."""
    output_format: OutputChoice = "fp32"
    """How results of the model are stored that no later layer reads; all other tensors are stored as operands."""

    def __post_init__(self) -> None:
        if self.dataflow not in ("auto", "os", "ws"):
            raise UserError(f"dataflow must be auto, os or ws, not {self.dataflow!r}")
        if self.output_format not in ("fp32", "operand"):
            raise UserError(f"output format must be fp32 or operand, not {self.output_format!r}")

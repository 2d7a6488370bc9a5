"""What the user may choose about a lowering."""

import re
from dataclasses import dataclass, field
from typing import Literal, Self

from hwgen.arch import UserError

DataflowChoice = Literal["auto", "os", "ws"]
OutputChoice = Literal["fp32", "operand"]
_PATTERN = re.compile(r"(\d{1,3}):(\d{1,3})")


@dataclass(frozen=True)
class Pattern:
    """N:M sparsity: at most `n` of every `m` consecutive weights along the reduction are kept."""

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 1 <= self.n <= self.m:
            raise UserError(f"a sparsity pattern N:M needs 1 <= N <= M, not {self.n}:{self.m}")

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """`"2:8"` -> Pattern(2, 8); `"dense"` -> None. Raises `UserError` on anything else."""
        match = _PATTERN.fullmatch(text)
        if text == "dense":
            return None
        if match is None:
            raise UserError(f"a sparsity pattern must be N:M, such as 2:8, or dense, not {text!r}")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"


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

"""The N:M pattern: a value that training, inference and tests pass around."""

import re
from dataclasses import dataclass
from typing import Self

from hwgen.arch import UserError

_TEXT = re.compile(r"(\d{1,3}):(\d{1,3})")


@dataclass(frozen=True)
class Pattern:
    """At most `n` of every `m` consecutive values along the reduction are kept; `UserError` unless 1 <= n <= m."""

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 1 <= self.n <= self.m:
            raise UserError(f"a sparsity pattern N:M needs 1 <= N <= M, not {self.n}:{self.m}")

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """`"2:8"` -> Pattern(2, 8); `"dense"` -> None. Raises `UserError` on anything else."""
        match = _TEXT.fullmatch(text)
        if text == "dense":
            return None
        if match is None:
            raise UserError(f"a sparsity pattern must be N:M, such as 2:8, or dense, not {text!r}")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

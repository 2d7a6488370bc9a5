"""What the commands that prune attention have in common: their options, as text, and what these mean."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from hwgen.arch import Arch, UserError, load
from models.attention.policy import PruningPolicy, Schedule
from models.attention.quantize import Quantization
from models.pattern import Pattern
from scheduler.attention.lower import check_engine
from sim.memory import MemoryModel

BACKENDS = ("rtl", "golden")
"""What can run a program; golden: the golden machine says what is computed, the cycle model how long it takes."""
WHOLE_BITS = "16"


@dataclass(frozen=True, kw_only=True)
class PrunedJob:
    """Options of `encode` and `decode`. Ratios are those that the last layer keeps.

    Raises `UserError`, one sentence, for options that are wrong whatever the model is.
    """

    named: ClassVar[str]
    """The model that is known by name, and reads text."""
    model: str
    """`named`, or path/to/file.py:function, which returns a model of `transformers` and the inputs of one sequence:
    tensors by name, or the main one."""
    arch: str
    layers: int | None = None
    """The first so many; None: all."""
    text: str | None = None
    """What the named model reads."""
    tokens: float = 1.0
    heads: str = "1.0"
    """A ratio, or a whole number of heads."""
    values: float = 1.0
    """Of every layer."""
    bits: str = WHOLE_BITS
    threshold: float | None = None
    """Rows whose largest probability is below it read the LSBs of keys; None: as `Quantization` has it."""
    sparsity: str = "dense"
    backend: str = "rtl"
    output: Path | None = None
    stalls: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise UserError(f"backend must be one of {', '.join(BACKENDS)}, not {self.backend!r}")
        _check_ratio("tokens", self.tokens)
        _check_ratio("values", self.values)
        if not self.heads.isdecimal():
            _share(self.heads, 1)
        if self.text is not None:
            self._check_text(self.text)

    def _check_text(self, text: str) -> None:
        if self.model != self.named:
            raise UserError(f"--text is for {self.named}; other models bring their example inputs")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"--text must be UTF-8, which it is not at character {error.start}") from None

    def machine(self) -> tuple[Arch, MemoryModel]:
        """What a program runs on. Raises `UserError` for options that no model can be run with."""
        arch = load(self.arch)
        self.pattern()
        self.quantization()
        check_engine(arch)
        return arch, MemoryModel(stalls=self.stalls, seed=self.seed)

    def pattern(self) -> Pattern | None:
        """Of the weights; None: dense."""
        return Pattern.parse(self.sparsity)

    def quantization(self) -> Quantization | None:
        """Bits of keys and values; None: all 16."""
        if self.bits == WHOLE_BITS:
            if self.threshold is not None:
                raise UserError("--threshold says when LSBs are read: give --bits MSB+LSB, such as 6+4")
            return None
        return Quantization.parse(self.bits, **({} if self.threshold is None else {"threshold": self.threshold}))

    def policy(self, layers: int, heads: int) -> PruningPolicy:
        """For a model; no token is protected for being the first."""
        return PruningPolicy(
            tokens=_falling("tokens", self.tokens, layers),
            heads=_falling("heads", _share(self.heads, heads), layers),
            values=Schedule(shares=(self.values,) * layers),
            quantization=self.quantization(),
            protect_first=0,
        )

    def settings(self) -> dict[str, Any]:
        """Plain data."""
        return {name: value for name, value in asdict(self).items() if name != "output"}


def _check_ratio(option: str, ratio: float) -> None:
    if not 0 < ratio <= 1:
        raise UserError(f"--{option} must be above 0 and at most 1, not {ratio}")


def _share(text: str, heads: int) -> float:
    """`"0.5"` or, of 12 heads, `"6"` -> 0.5."""
    if text.isdecimal():
        if not 1 <= int(text) <= heads:
            raise UserError(f"--heads must be 1 to {heads}, as many as the model has, or a ratio, not {text}")
        return int(text) / heads
    try:
        ratio = float(text)
    except ValueError:
        raise UserError(f"--heads must be a number of heads, or a ratio such as 0.5, not {text!r}") from None
    _check_ratio("heads", ratio)
    return ratio


def _falling(option: str, ratio: float, layers: int) -> Schedule | None:
    """Fewer and fewer from the second layer on."""
    if ratio == 1:
        return None
    if layers == 1:
        raise UserError(f"--{option} below 1 needs 2 layers or more: before layer 0 has run no score is known")
    return Schedule.linear(layers, last=ratio)

"""Settings of the external memory of a simulation; `axi_memory.h` implements them, README.md has the rules."""

from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral, Rational

from hwgen.arch import UserError

CHANNELS = ("AR", "R", "AW", "W", "B")
"""AXI channels in the order of `MemoryModel.stalls`."""
CHANCE_UNIT = 4096
"""Stall probabilities are multiples of 1 / CHANCE_UNIT."""
SEED_LIMIT = 1 << 32
"""Seeds are below; NumPy's and scikit-learn's generators take no others."""


def check_seed(seed: int) -> None:
    """Raise `UserError` for a seed that one of the generators would not take."""
    if not 0 <= seed < SEED_LIMIT:
        raise UserError(f"a seed must be in 0..{SEED_LIMIT - 1}, not {seed}")


@dataclass(frozen=True, kw_only=True)
class MemoryModel:
    """Latency, bandwidth and disturbances of the memory; every run with equal settings takes equal cycles.

    Raises `UserError` when a setting is out of range.
    """

    read_latency: int = 40
    """Cycles from an accepted read address to its first beat, at least 1."""
    write_latency: int = 20
    """Cycles from the last beat of a write burst to its answer, at least 1."""
    bandwidth: Fraction | None = None
    """Bytes per cycle, reads and writes of all ports together; None: one beat each way of a port in every cycle."""
    outstanding: int = 32
    """Bursts in flight of a port in each direction."""
    stalls: float | tuple[float, float, float, float, float] = 0.0
    """Chance that a channel stalls in a cycle, for all or for each of CHANNELS."""
    stall_every: int = 0
    """All channels stall in every k-th cycle; 0: never."""
    seed: int = 0
    """Chooses the cycles of the random stalls."""
    error_range: tuple[int, int] | None = None
    """Addresses (low, high) that answer SLVERR; outside the image the answer is DECERR."""

    def __post_init__(self) -> None:
        for name in ("read_latency", "write_latency", "outstanding", "stall_every", "seed"):
            if not isinstance(getattr(self, name), Integral):
                raise UserError(f"memory {name} must be a whole number, not {getattr(self, name)!r}")
        for name in ("read_latency", "write_latency", "outstanding"):
            if getattr(self, name) < 1:
                raise UserError(f"memory {name} must be at least 1, not {getattr(self, name)}")
        if not isinstance(self.bandwidth, Rational | None):
            raise UserError(f"memory bandwidth must be a whole number or a Fraction, not {self.bandwidth!r}")
        if self.bandwidth is not None and self.bandwidth <= 0:
            raise UserError(f"memory bandwidth must be more than 0 bytes per cycle, not {self.bandwidth}")
        if self.stall_every < 0 or self.stall_every == 1:
            raise UserError(f"memory stall_every must be 0 or at least 2, not {self.stall_every}")
        if len(self.stall_chances) != len(CHANNELS):
            raise UserError(f"memory stalls must be one chance or {len(CHANNELS)}, not {self.stalls}")
        if not all(0 <= chance <= 0.95 for chance in self.stall_chances):
            raise UserError(f"memory stalls must be in 0..0.95, not {self.stalls}")
        check_seed(self.seed)

    @property
    def stall_chances(self) -> tuple[float, ...]:
        """Chance of a stall for each of CHANNELS."""
        return self.stalls if isinstance(self.stalls, tuple) else (self.stalls,) * len(CHANNELS)

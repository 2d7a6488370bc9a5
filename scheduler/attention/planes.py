"""Planes of queries, keys and values in external memory: of one sequence, or kept as a cache from token to token."""

from dataclasses import dataclass, field

from hwgen.arch.attention import JOB, JOB_BYTES, LOW_BITS, pack
from hwgen.arch.services import Job, pack_service
from models.attention_engine.planes import row_bytes
from scheduler.attention.jobs import Operands
from scheduler.hazards import Region


@dataclass(frozen=True)
class Planes:
    """Room for `rows` rows of each head of queries, keys or values; `unit` numbers it for hazards."""

    operands: Operands
    heads: int
    head_size: int
    rows: int
    address: int
    unit: int

    @property
    def region(self) -> Region:
        """All of them."""
        return Region("dram", self.unit, self.unit + 1)

    def fields(self, first: int = 0) -> dict[str, int]:
        """Where row `first` is, as descriptors say it; the LSB plane lies behind all heads of the other one."""
        row = row_bytes(self.head_size, self.operands.bits)
        fields = {"msb_addr": self.address + first * row, "msb_stride": self.rows * row, "low_addr": 0, "low_stride": 0}
        if self.operands.split:
            low = row_bytes(self.head_size, LOW_BITS)
            start = self.address + self.heads * self.rows * row
            fields |= {"low_addr": start + first * low, "low_stride": self.rows * low}
        return fields


@dataclass(frozen=True)
class Cache:
    """Planes that keys and values keep from run to run."""

    rows: int
    """Tokens that there is room for."""
    planes: dict[tuple[int, str], Planes] = field(default_factory=dict)
    """Layer and `key` or `value` -> planes."""


@dataclass(frozen=True)
class Moving:
    """A descriptor of a program that is run for token after token: what it says of the first one, and the cache."""

    address: int
    job: Job
    fields: dict[str, int]
    planes: Planes | None = None

    def at(self, position: int) -> bytes:
        """The descriptor for the token at a position: its key or value goes there, and all up to it are seen."""
        if self.planes is None:
            return pack(JOB, JOB_BYTES, self.fields | {"keys": position + 1})
        return pack_service(self.job, self.fields | self.planes.fields(position))

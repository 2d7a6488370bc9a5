"""Planes of queries, keys and values in external memory: of one sequence, or kept as a cache from token to token."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hwgen.arch.attention import JOB, JOB_BYTES, LOW_BITS, pack
from hwgen.arch.services import Job, pack_service
from models.attention_engine.planes import row_bytes
from scheduler.attention.jobs import Operands
from scheduler.hazards import Region


@dataclass(frozen=True)
class Area:
    """Bytes in memory; `unit` numbers them for hazards."""

    address: int
    unit: int

    @property
    def region(self) -> Region:
        """All of them."""
        return Region("dram", self.unit, self.unit + 1)


@dataclass(frozen=True)
class Planes(Area):
    """Room for `rows` rows of each head of queries, keys or values."""

    operands: Operands
    heads: int
    head_size: int
    rows: int

    def fields(self, first: int = 0) -> dict[str, int]:
        """Where row `first` is, as descriptors say it; the LSB plane lies behind all heads of the other one."""
        row = row_bytes(self.head_size, self.operands.bits)
        fields = {"msb_addr": self.address + first * row, "msb_stride": self.rows * row, "low_addr": 0, "low_stride": 0}
        if self.operands.split:
            low = row_bytes(self.head_size, LOW_BITS)
            start = self.address + self.heads * self.rows * row
            fields |= {"low_addr": start + first * low, "low_stride": self.rows * low}
        return fields

    def rows_of(self, memory: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
        """Each plane in memory, [heads, rows, bytes]."""
        start = self.address
        for bits in (self.operands.bits, *([LOW_BITS] if self.operands.split else [])):
            shape = self.heads, self.rows, row_bytes(self.head_size, bits)
            size = int(np.prod(shape))
            yield memory[start : start + size].reshape(shape)
            start += size


@dataclass(frozen=True)
class Cache:
    """Planes that keys and values keep from run to run."""

    rows: tuple[int, ...]
    """Tokens that there is room for in each layer."""
    planes: dict[tuple[int, str], Planes] = field(default_factory=dict)
    """Layer and `key` or `value` -> planes."""

    def of(self, layer: int) -> tuple[Planes, Planes]:
        """Keys and values of a layer."""
        return self.planes[layer, "key"], self.planes[layer, "value"]


@dataclass(frozen=True)
class Moving:
    """A descriptor of a program that is run for token after token: what it says of the first one, layer and cache."""

    address: int
    job: Job
    fields: dict[str, int]
    layer: int
    planes: Planes | None = None

    def at(self, row: int, keys: Sequence[int], most: Sequence[int]) -> bytes:
        """The descriptor for a token whose key and value go to a row.

        keys : rows that each layer looks at, the new one among them. most : that each layer keeps.
        """
        seen = keys[self.layer]
        match self.job:
            case Job.QUANTIZE:
                return pack_service(self.job, self.fields | self.planes.fields(row))
            case Job.SELECT:
                return pack_service(self.job, self.fields | {"length": seen, "keep": min(seen, most[self.layer])})
            case _:
                return pack(JOB, JOB_BYTES, self.fields | {"keys": seen})

"""The Verilated attention core in front of a memory."""

from dataclasses import dataclass

from hwgen.arch.attention import AttentionSizes
from hwgen.attention.core import COUNTERS, AttentionCore
from hwgen.attention.importance import IMPORTANCE_BITS
from models.memory import Memory
from sim.attention.drive import MemoryPort, drive
from sim.stalls import Stalls, never
from sim.step_block import StepBlock


@dataclass(frozen=True)
class JobRun:
    """What the core says of a job; `cycles`, `products_busy`, `read_beats`, `write_beats` are its counters."""

    error: bool
    cycles: int
    products_busy: int
    read_beats: int
    write_beats: int


class AttentionBlock:
    """An `AttentionCore`, Verilated; importance is kept from job to job. Bit h of `alive` is head h."""

    def __init__(self, sizes: AttentionSizes, name: str = "attention") -> None:
        self.sizes, self.alive = sizes, (1 << sizes.max_heads) - 1
        self._block = StepBlock(AttentionCore(sizes), name)

    def run(
        self,
        address: int,
        memory: Memory,
        *,
        latency: int = 40,
        stalls: Stalls = never,
        limit: int = 100_000,
    ) -> JobRun:
        """The job whose descriptor is at `address`; AssertionError if a held payload changes, or after `limit` cycles.

        latency : cycles from a request to its first beat. stalls : of every side of the memory.
        """
        return self.run_all([address], memory, latency=latency, stalls=stalls, limit=limit)[0]

    def run_all(
        self,
        addresses: list[int],
        memory: Memory,
        *,
        latency: int = 40,
        stalls: Stalls = never,
        limit: int = 100_000,
    ) -> list[JobRun]:
        """Jobs whose descriptors are offered one behind the other; as `run`."""
        port = MemoryPort(self.sizes, memory, latency, stalls)
        ends = drive(self._step, port, addresses, limit)
        return [JobRun(end.error, *(end.after[name] for name in COUNTERS)) for end in ends]

    def _step(self, **inputs: int) -> dict[str, int]:
        return self._block.step(alive=self.alive, **inputs)

    def clear(self) -> None:
        """Set the importance of all tokens and heads to 0."""
        self.set_tokens([0] * self.sizes.max_length)
        self._block.step(heads_clear=1)

    def set_tokens(self, values: list[int]) -> None:
        """Write the importance of all tokens."""
        lanes = self.sizes.softmax_lanes
        for word in range(0, len(values), lanes):
            bits = sum(value << IMPORTANCE_BITS * lane for lane, value in enumerate(values[word : word + lanes]))
            self._block.step(token_write_address=word // lanes, token_write_data=bits, token_write_enable=1)

    def tokens(self) -> list[int]:
        """Importance of all tokens."""
        values: list[int] = []
        for word in range(self.sizes.max_length // self.sizes.softmax_lanes):
            self._block.step(token_address=word)
            values += _parts(self._block.step(token_address=word)["token_data"], self.sizes.softmax_lanes)
        return values

    def heads(self) -> list[int]:
        """Importance of all heads."""
        return _parts(self._block.step()["heads"], self.sizes.max_heads)


def _parts(bits: int, count: int) -> list[int]:
    return [bits >> IMPORTANCE_BITS * place & (1 << IMPORTANCE_BITS) - 1 for place in range(count)]

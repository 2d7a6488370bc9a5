"""The Verilated attention core in front of a memory."""

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hwgen.arch.attention import AttentionSizes
from hwgen.attention.core import COUNTERS, AttentionCore
from hwgen.attention.importance import IMPORTANCE_BITS
from hwgen.attention.words import ReadRequest
from hwgen.attention.writer import PAGE_BYTES
from models.memory import Memory
from sim.step_block import StepBlock

Stalls = Callable[[], Iterator[bool]]
"""Makes a pattern: True is a cycle in which this side stalls."""


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
        stalls: Stalls = lambda: itertools.repeat(False),
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
        stalls: Stalls = lambda: itertools.repeat(False),
        limit: int = 100_000,
    ) -> list[JobRun]:
        """Jobs whose descriptors are offered one behind the other; as `run`."""
        port, start = MemoryPort(self.sizes, memory, latency, stalls), self._block.cycle
        waiting, runs, ended = deque(addresses), [], None
        while self._block.cycle - start < limit:
            inputs, shown = port.inputs(self._block.cycle), waiting[0] if waiting else 0
            out = self._block.step(command=shown, command_valid=int(bool(waiting)), alive=self.alive, **inputs)
            port.see(self._block.cycle - 1, inputs, out)
            if ended is not None:
                runs.append(JobRun(ended, *(out[name] for name in COUNTERS)))
            if len(runs) == len(addresses):
                return runs
            ended = bool(out["error"]) if out["done"] or out["error"] else None
            if ended is not None and len(runs) + 1 == len(addresses):
                port.check_empty()
            if waiting and out["command_ready"]:
                waiting.popleft()
        raise AssertionError(f"{len(runs)} of {len(addresses)} jobs have ended after {limit} cycles")

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


class MemoryPort:
    """Memory behind the ports of a core: answers in order, checks bursts and that payloads are held."""

    def __init__(self, sizes: AttentionSizes, memory: Memory, latency: int, stalls: Stalls) -> None:
        self._beat, self._memory, self._latency = sizes.beat_bytes, memory, latency
        self._reads: deque[tuple[int, int]] = deque()
        self._writes: deque[tuple[int, bool]] = deque()
        self._patterns = [stalls() for _ in range(4)]
        self._showing, self._held = False, {}

    def inputs(self, cycle: int) -> dict[str, int]:
        """What the core sees."""
        stalled = [next(pattern) for pattern in self._patterns]
        self._showing = self._showing or (bool(self._reads) and self._reads[0][0] <= cycle and not stalled[0])
        beat = self._memory.read(self._reads[0][1], self._beat) if self._showing else b""
        return {
            "data": int.from_bytes(beat, "little"),
            "data_valid": int(self._showing),
            "request_ready": int(not stalled[1]),
            "write_request_ready": int(not stalled[2]),
            "write_data_ready": int(not stalled[3] and bool(self._writes)),
        }

    def see(self, cycle: int, inputs: dict[str, int], out: dict[str, int]) -> None:
        """What the core does."""
        for name in ("request", "write_request", "write_data"):
            valid, ready = out[f"{name}_valid"], inputs[f"{name}_ready"]
            held = self._held.pop(name, None)
            assert held is None or (valid and held == out[name]), f"cycle {cycle}: {name} was not held"
            if valid and not ready:
                self._held[name] = out[name]
        if self._showing and out["data_ready"]:
            self._reads.popleft()
            self._showing = False
        if out["request_valid"] and inputs["request_ready"]:
            self._reads.extend((cycle + self._latency, address) for address, _ in self._burst(out["request"]))
        if out["write_data_valid"] and inputs["write_data_ready"]:
            self._write(out["write_data"])
        if out["write_request_valid"] and inputs["write_request_ready"]:
            self._writes.extend(self._burst(out["write_request"]))

    def check_empty(self) -> None:
        """Nothing is under way."""
        assert not self._reads, f"{len(self._reads)} beats were asked for and not taken"
        assert not self._writes, f"{len(self._writes)} beats were announced and not written"

    def _burst(self, bits: int) -> list[tuple[int, bool]]:
        """Address of each beat, and whether it is the last."""
        request = ReadRequest().from_bits(bits)
        address, count = request.address, request.beats + 1
        assert address % self._beat == 0, f"{address:#x} is no multiple of {self._beat}"
        end = address + self._beat * count - 1
        assert address // PAGE_BYTES == end // PAGE_BYTES or self._beat > PAGE_BYTES, f"{address:#x} crosses a page"
        return [(address + self._beat * number, number == count - 1) for number in range(count)]

    def _write(self, bits: int) -> None:
        address, last = self._writes.popleft()
        value, strobes = bits.to_bytes(2 * self._beat, "little")[: self._beat], bits >> 8 * self._beat
        assert strobes >> self._beat == last, f"{address:#x}: last is {strobes >> self._beat}"
        for place in range(self._beat):
            if strobes >> place & 1:
                self._memory.write(address + place, value[place : place + 1])

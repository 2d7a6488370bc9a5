"""Jobs driven through a Verilated core of the attention engine, in front of a memory."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from hwgen.arch.attention import AttentionSizes
from hwgen.attention.words import ReadRequest
from hwgen.attention.writer import PAGE_BYTES
from models.memory import Memory
from sim.stalls import Stalls


@dataclass(frozen=True)
class Ended:
    """The end of a job: whether it was refused, in which cycle, counted from 0, and all outputs a cycle later."""

    error: bool
    cycle: int
    after: dict[str, int]


def drive(step: Callable[..., dict[str, int]], port: "MemoryPort", commands: list[int], limit: int) -> list[Ended]:
    """Offer commands one behind the other, until the cycle after the end of the last job.

    step : a cycle of the core, as `StepBlock.step`. AssertionError if a held payload changes, if beats are left at the
    end, or after `limit` cycles.
    """
    waiting, ends, error = deque(commands), [], None
    for cycle in range(limit):
        inputs = port.inputs(cycle)
        out = step(command=waiting[0] if waiting else 0, command_valid=int(bool(waiting)), **inputs)
        port.see(cycle, inputs, out)
        if error is not None:
            ends.append(Ended(error, cycle - 1, out))
        if len(ends) == len(commands):
            return ends
        error = bool(out["error"]) if out["done"] or out["error"] else None
        if error is not None and len(ends) + 1 == len(commands):
            port.check_empty()
        if waiting and out["command_ready"]:
            waiting.popleft()
    raise AssertionError(f"{len(ends)} of {len(commands)} jobs have ended after {limit} cycles")


class MemoryPort:
    """Memory behind the ports of a core: answers in order, counts beats, checks bursts and that payloads are held."""

    def __init__(self, sizes: AttentionSizes, memory: Memory, latency: int, stalls: Stalls) -> None:
        self._beat, self._memory, self._latency = sizes.beat_bytes, memory, latency
        self._reads: deque[tuple[int, int]] = deque()
        self._writes: deque[tuple[int, bool]] = deque()
        self._patterns = [stalls() for _ in range(4)]
        self._showing, self._held = False, {}
        self.read_beats = self.write_beats = 0

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
            self.read_beats += 1
        if out["request_valid"] and inputs["request_ready"]:
            self._reads.extend((cycle + self._latency, address) for address, _ in self._burst(out["request"]))
        if out["write_data_valid"] and inputs["write_data_ready"]:
            self._write(out["write_data"])
            self.write_beats += 1
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

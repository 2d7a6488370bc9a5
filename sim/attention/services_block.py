"""The Verilated core of the jobs beside attention, in front of a memory and the importance of tokens and heads."""

import itertools
from dataclasses import dataclass

from hwgen.arch.attention import AttentionSizes
from hwgen.arch.services import Job
from hwgen.attention.importance import IMPORTANCE_BITS
from hwgen.attention.services.core import ServiceCore
from models.memory import Memory
from sim.attention.block import MemoryPort, Stalls
from sim.step_block import StepBlock


@dataclass(frozen=True)
class ServiceRun:
    """What became of a job; cycles from its command to its end, both counted; beats of both ports."""

    error: bool
    cycles: int
    read_beats: int
    write_beats: int


class ServiceBlock:
    """A `ServiceCore`, Verilated; importance of tokens and heads is kept here, bit h of `alive` is head h."""

    def __init__(self, sizes: AttentionSizes, name: str = "services", *, operand: str = "fp16") -> None:
        self.sizes, self.tokens, self.heads = sizes, [0] * sizes.max_length, [0] * sizes.max_heads
        self._block, self._address = StepBlock(ServiceCore(sizes, operand=operand), name), 0
        self.alive = self._block.step()["alive"]

    def run(
        self,
        job: int,
        address: int,
        memory: Memory,
        *,
        latency: int = 40,
        stalls: Stalls = lambda: itertools.repeat(False),
        limit: int = 100_000,
    ) -> ServiceRun:
        """The job whose descriptor is at `address`; AssertionError if a held payload changes, or after `limit` cycles.

        latency : cycles from a request to its first beat. stalls : of every side of the memory.
        """
        port, shown, start = MemoryPort(self.sizes, memory, latency, stalls), True, self._block.cycle
        beats = [0, 0]
        while self._block.cycle - start < limit:
            inputs = port.inputs(self._block.cycle)
            out = self._step(command=job | address << 3, command_valid=shown, **inputs)
            port.see(self._block.cycle - 1, inputs, out)
            beats[0] += inputs["data_valid"] and out["data_ready"]
            beats[1] += out["write_data_valid"] and inputs["write_data_ready"]
            shown = shown and not out["command_ready"]
            if out["done"] or out["error"]:
                port.check_empty()
                cycles = self._block.cycle - start
                idle = self._step()
                assert not idle["busy"] | idle["done"] | idle["error"]
                self.alive = idle["alive"]
                return ServiceRun(bool(out["error"]), cycles, *beats)
        raise AssertionError(f"{Job(job).name} has not ended after {limit} cycles")

    def _step(self, **inputs: int) -> dict[str, int]:
        """A cycle, with the memory of tokens and the registers of heads."""
        lanes = self.sizes.softmax_lanes
        word = self.tokens[self._address * lanes :][:lanes]
        out = self._block.step(token_data=_joined(word), heads=_joined(self.heads), **inputs)
        self._address = out["token_address"]
        if out["token_write_enable"]:
            first, data = out["token_write_address"] * lanes, out["token_write_data"]
            for lane in range(lanes):
                self.tokens[first + lane] = data >> IMPORTANCE_BITS * lane & (1 << IMPORTANCE_BITS) - 1
        if out["heads_clear"]:
            self.heads = [0] * self.sizes.max_heads
        return out


def _joined(values: list[int]) -> int:
    return sum(value << IMPORTANCE_BITS * place for place, value in enumerate(values))

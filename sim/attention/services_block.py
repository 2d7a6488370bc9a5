"""The Verilated core of the jobs beside attention, in front of a memory and the importance of tokens and heads."""

from dataclasses import dataclass

from hwgen.arch.attention import AttentionSizes
from hwgen.attention.importance import IMPORTANCE_BITS
from hwgen.attention.services.core import ServiceCore
from models.memory import Memory
from sim.attention.drive import MemoryPort, drive
from sim.stalls import Stalls, never
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
        stalls: Stalls = never,
        limit: int = 100_000,
    ) -> ServiceRun:
        """The job whose descriptor is at `address`; AssertionError if a held payload changes, or after `limit` cycles.

        latency : cycles from a request to its first beat. stalls : of every side of the memory.
        """
        port, command = MemoryPort(self.sizes, memory, latency, stalls), job | address << 3

        def step(**inputs: int) -> dict[str, int]:
            return self._step(**inputs | {"command": command})  # held, as the core wants it

        (end,) = drive(step, port, [command], limit)
        assert not end.after["busy"] | end.after["done"] | end.after["error"]
        self.alive = end.after["alive"]
        return ServiceRun(end.error, end.cycle + 1, port.read_beats, port.write_beats)

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

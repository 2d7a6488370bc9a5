"""A program memory and engines that only take time, for benches of the command processor."""

import dataclasses
import itertools
import random
from collections import deque
from dataclasses import dataclass, field

from hwgen.arch import arch_from_dict, load
from hwgen.arch.commands import Command, encode
from hwgen.arch.isa import Engine
from tests.support import Stalls, never

SLVERR = 2


class ProgramMemory:
    """Memory behind a read port that is given bytes; answers in order, keeps the identifier, checks the bursts.

    `bad` holds byte addresses of beats that answer with `error_response`. `bursts` logs `(address, beats)`.
    """

    def __init__(self, arch, *, latency: int = 5, stalls: Stalls = never, error_response: int = SLVERR) -> None:
        self.arch, self.latency, self.stalls, self.error_response = arch, latency, stalls, error_response
        self.content: dict[int, int] = {}
        self.bad: set[int] = set()
        self.bursts: list[tuple[int, int]] = []
        self.in_flight = 0

    def place(self, address: int, image: bytes) -> None:
        """Put `image` at `address`, padded to whole beats with ones, which are no instruction."""
        size = self.arch.beat_bytes
        image += b"\xff" * (-len(image) % size)
        for offset in range(0, len(image), size):
            self.content[address + offset] = int.from_bytes(image[offset : offset + size], "little")

    def _check(self, address: int, beats: int) -> None:
        size = self.arch.beat_bytes
        assert address % size == 0, f"{address:#x} is not beat-aligned"
        assert beats <= self.arch.memory.burst_beats, f"burst of {beats} beats"
        assert address // 4096 == (address + beats * size - 1) // 4096, f"burst at {address:#x} crosses 4 KiB"

    async def serve(self, ctx, port) -> None:
        """Serve `port` for ever."""
        waiting: deque[tuple[int, int, bool, int]] = deque()
        ar_stalls, r_stalls, held, showing = self.stalls(), self.stalls(), None, False
        for cycle in itertools.count():
            ctx.set(port.ar.ready, not next(ar_stalls))
            if not showing and waiting and waiting[0][0] <= cycle and not next(r_stalls):
                showing = True
                _, address, last, identifier = waiting[0]
                response = self.error_response if address in self.bad else 0
                beat = {"data": self.content.get(address, 0), "resp": response, "last": last, "id": identifier}
                ctx.set(port.r.payload, beat)
            ctx.set(port.r.valid, showing)
            sample = ctx.tick().sample(port.ar.valid, port.ar.ready, port.ar.payload, port.r.ready)
            _, _, ar_valid, ar_ready, request, r_ready = await sample
            now = (request.addr, request.len, request.id) if ar_valid else None
            assert held is None or held == now, f"cycle {cycle}: AR was not held"
            held = None if ar_ready else now
            if ar_valid and ar_ready:
                self._check(request.addr, request.len + 1)
                self.bursts.append((request.addr, request.len + 1))
                self.in_flight += 1
                for beat in range(request.len + 1):
                    place = request.addr + beat * self.arch.beat_bytes
                    waiting.append((cycle + self.latency, place, beat == request.len, request.id))
            if showing and r_ready:
                self.in_flight -= waiting.popleft()[2]
                showing = False


@dataclass
class FakeEngine:
    """Takes commands and time: `(pc, cycle)` of every start and end is logged.

    `duration(pc)` cycles each; `depth` commands may be under way. An instruction in `faults` ends with that cause.
    The engine is busy for another `linger` cycles after its last instruction.
    """

    engine: Engine
    duration: object
    depth: int = 1
    linger: int = 0
    faults: dict[int, int] = field(default_factory=dict)
    started: list[tuple[int, int]] = field(default_factory=list)
    ended: list[tuple[int, int]] = field(default_factory=list)
    words: list[int] = field(default_factory=list)

    async def serve(self, ctx, port) -> None:
        """Serve the engine side of `port` (an `EngineSignature`, flipped) for ever."""
        under_way: deque[list[int]] = deque()
        failed, held, last = False, None, -1000
        for cycle in itertools.count():
            stop = ctx.get(port.stop)
            if failed and not stop and not under_way:
                failed = False
            finished = bool(under_way) and under_way[0][1] <= 0
            fault = self.faults.get(under_way[0][0], 0) if finished else 0
            ctx.set(port.done, finished and not fault)
            ctx.set(port.error_valid, bool(fault))
            ctx.set(port.error, {"cause": fault, "pc": under_way[0][0] if finished else 0})
            last = cycle if under_way else last
            ctx.set(port.busy, cycle - last <= self.linger)
            ctx.set(port.command.ready, len(under_way) < self.depth and not failed and not fault)
            command = port.command
            _, _, valid, ready, payload = await ctx.tick().sample(command.valid, command.ready, command.payload)
            now = (payload.pc, payload.opcode, payload.operands) if valid else None
            assert held is None or held == now or ctx.get(port.stop), f"cycle {cycle}: a command was not held"
            held = None if ready else now
            for item in under_way:
                item[1] -= 1
            if finished:
                pc = under_way.popleft()[0]
                self.ended.append((pc, cycle))
                if fault:
                    under_way.clear()
                    failed = True
            if valid and ready:
                assert not failed, f"cycle {cycle}: a command after an error"
                under_way.append([payload.pc, self.duration(payload.pc)])
                self.started.append((payload.pc, cycle))
                self.words.append(payload.operands << 32 | payload.opcode)


def wide_arch(data_bits: int, **memory):
    """The tiny preset with all engines, another beat width (and array to fit) and memory settings.

    With 64 bits there is no attention engine.
    """
    data = dataclasses.asdict(load("tiny"))
    data["attention"] = {} if data_bits > 64 else None
    data["array"]["cols"] = data_bits // 16
    data["memory"] |= {"data_bits": data_bits, "ports": 2, **memory}
    return arch_from_dict(data)


def assemble(commands: list[Command]) -> bytes:
    """The program as bytes."""
    return b"".join(encode(item) for item in commands)


def random_duration(seed: int, low: int, high: int):
    """Duration of an instruction by its index, the same every time it is asked."""
    return lambda pc: random.Random(seed * 65537 + pc).randint(low, high)


class LiteHost:
    """AXI4-Lite master for one access at a time; each channel waits 0 to `slow` cycles of its own."""

    def __init__(self, bus, *, slow: int = 0, seed: int = 0) -> None:
        self.bus, self.slow, self.source = bus, slow, random.Random(seed)

    async def _move(self, ctx, sends: dict, answer) -> object:
        """Send a payload on each channel in `sends` and take one answer, each after a delay; returns the answer."""
        delays = {channel: self.source.randint(0, self.slow) for channel in (*sends, "answer")}
        channels = {name: getattr(self.bus, name) for name in sends}
        left, taken = set(sends), None
        for cycle in itertools.count():
            assert cycle < 100 + 10 * self.slow, "no answer on the register bus"
            for name, channel in channels.items():
                ctx.set(channel.valid, name in left and cycle >= delays[name])
                ctx.set(channel.payload, sends[name])
            ctx.set(answer.ready, cycle >= delays["answer"])
            states = [ready for channel in channels.values() for ready in (channel.valid, channel.ready)]
            _, _, valid, ready, payload, *fired = await ctx.tick().sample(
                answer.valid, answer.ready, answer.payload, *states
            )
            assert not (valid and left), "an answer before its request"
            left -= {name for index, name in enumerate(channels) if fired[2 * index] and fired[2 * index + 1]}
            if valid and ready:
                taken = payload
                break
        ctx.set(answer.ready, 0)
        for channel in channels.values():
            ctx.set(channel.valid, 0)
        assert taken.resp == 0
        return taken

    async def write(self, ctx, offset: int, value: int, strobes: int = 15) -> None:
        """Write a register; returns after the response."""
        await self._move(ctx, {"aw": offset, "w": {"data": value, "strb": strobes}}, self.bus.b)

    async def read(self, ctx, offset: int) -> int:
        """Read a register."""
        return (await self._move(ctx, {"ar": offset}, self.bus.r)).data

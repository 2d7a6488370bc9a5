"""Bench helpers for the Amaranth simulator: runs with a time-out, stall patterns, streams, and a checking AXI memory.

A bench is `simulate(dut, driver, ..., background=[memory.serve_read, ...])`; each is an async function of the simulator
context (without `until` and `repeat`, whose generators outlive a simulation that ends). Helpers sample just before a
clock edge and drive just after it: a handshake is a cycle in which `valid` and `ready` were both sampled high.
"""

import itertools
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from amaranth.hdl import ClockDomain, Module, Value
from amaranth.sim import Simulator

from hwgen.arch import Arch, arch_from_dict, load
from hwgen.arch.isa import TABLE

Stalls = Callable[[], Iterator[bool]]
"""Makes a pattern: True is a cycle in which the bench stalls."""


def never() -> Iterator[bool]:
    """No stalls."""
    return itertools.repeat(False)


def every_fourth() -> Iterator[bool]:
    """One cycle in four is stalled."""
    return itertools.cycle([False, False, False, True])


def at_random(seed: int, probability: float = 0.5) -> Stalls:
    """Each cycle is stalled with `probability`."""

    def pattern() -> Iterator[bool]:
        source = random.Random(seed)
        while True:
            yield source.random() < probability

    return pattern


def long(cycles: int) -> Stalls:
    """`cycles` stalled cycles after every 7 that are not."""
    return lambda: itertools.cycle([False] * 7 + [True] * cycles)


def simulate(dut, *drivers, background: Iterable = (), limit: int = 20_000) -> None:
    """Run until all drivers return; AssertionError after `limit` cycles."""
    top = Module()
    top.domains.sync = ClockDomain()
    top.submodules.dut = dut
    simulator = Simulator(top)
    simulator.add_clock(1e-8)

    async def timeout(ctx):
        for _ in range(limit):
            await ctx.tick()
        raise AssertionError(f"the bench did not finish in {limit} cycles")

    for driver in drivers:
        simulator.add_testbench(driver)
    for process in (timeout, *background):
        simulator.add_testbench(process, background=True)
    simulator.run()


async def send(ctx, stream, items: Iterable, stalls: Stalls = never) -> None:
    """Send each item (anything the payload can be set to)."""
    pattern = stalls()
    for item in items:
        while next(pattern):
            await ctx.tick()
        ctx.set(stream.payload, item)
        ctx.set(stream.valid, 1)
        while not (await ctx.tick().sample(stream.ready))[2]:
            pass
        ctx.set(stream.valid, 0)


async def receive(ctx, stream, taken: list, stalls: Stalls = never) -> None:
    """Take items for ever and append `(cycle, payload)` to `taken`; checks that an offered payload is held."""
    pattern, offered = stalls(), None
    for cycle in itertools.count():
        ctx.set(stream.ready, not next(pattern))
        _, _, valid, ready, payload = await ctx.tick().sample(stream.valid, stream.ready, stream.payload)
        bits = ctx.get(Value.cast(payload)) if isinstance(payload, Value) else payload
        assert offered is None or (valid and offered == bits), f"cycle {cycle}: a payload was not held"
        offered = bits if valid and not ready else None
        if valid and ready:
            taken.append((cycle, payload))


def wide_arch() -> Arch:
    """What the presets leave out: BF16, 8 columns on 2 rows, 4 lanes, long bursts one at a time, other latencies."""
    return arch_from_dict(
        {
            "name": "wide",
            "array": {"rows": 2, "cols": 8, "lanes": 4, "operand": "bf16", "add_latency": 1},
            "scratchpads": {"act_depth": 256, "wgt_depth": 512, "acc_depth": 1024, "acc_banks": 8},
            "memory": {"data_bits": 128, "address_bits": 24, "burst_beats": 64, "outstanding": 1},
            "vector": {"mul_latency": 1, "add_latency": 6},
            "control": {"queue_depth": 2},
        }
    )


ARCHS = {"tiny": partial(load, "tiny"), "tiny2": partial(load, "tiny2"), "wide": wide_arch}
"""Makers of the architectures that engine benches run on."""


class AxiMemory:
    """External memory behind the AXI channels of one master; checks the protocol and keeps a log.

    It answers in order. A read beat follows its address by at least `latency` cycles. `beats` maps a byte address to a
    beat, missing ones are 0; addresses in `bad_reads` and `bad_writes` (any beat of a write burst) get SLVERR.

    `bursts` has `(cycle, address, length)` of each accepted address, `data_cycles` the cycle of each data beat.
    """

    def __init__(self, arch, *, latency: int = 10, stalls: Stalls = never, outstanding: int | None = None) -> None:
        self.arch, self.latency, self.stalls = arch, latency, stalls
        self.outstanding = arch.memory.outstanding if outstanding is None else outstanding
        self.beats: dict[int, int] = {}
        self.bad_reads: set[int] = set()
        self.bad_writes: set[int] = set()
        self.bursts: list[tuple[int, int, int]] = []
        self.data_cycles: list[int] = []
        self.in_flight = 0

    def _check_address(self, address: int, length: int) -> None:
        size, memory = self.arch.beat_bytes, self.arch.memory
        end = address + length * size
        assert address % size == 0, f"{address:#x} is not a multiple of the beat size"
        assert length <= memory.burst_beats, f"{length} beats in a burst"
        assert address // 4096 == (end - 1) // 4096, f"burst {address:#x} + {length} beats crosses 4 KiB"
        assert end <= 1 << memory.address_bits, f"{address:#x} is outside memory"
        self.in_flight += 1
        assert self.in_flight <= self.outstanding, f"{self.in_flight} bursts in flight"

    async def serve_read(self, ctx, port) -> None:
        """Serve `ar` and `r` of a `ReadSignature` for ever."""
        waiting: deque[tuple[int, int, bool]] = deque()
        pattern, ar_pattern, held, showing = self.stalls(), self.stalls(), None, False
        next(ar_pattern)
        for cycle in itertools.count():
            ctx.set(port.ar.ready, not next(ar_pattern))
            if not showing and waiting and waiting[0][0] <= cycle and not next(pattern):
                showing = True
                _, address, last = waiting[0]
                beat = {
                    "data": self.beats.get(address, 0),
                    "resp": 2 * (address in self.bad_reads),
                    "last": last,
                    "id": 1,
                }
                ctx.set(port.r.payload, beat)
            ctx.set(port.r.valid, showing)
            ar, r = port.ar, port.r
            _, _, ar_valid, ar_ready, item, r_ready = await ctx.tick().sample(ar.valid, ar.ready, ar.payload, r.ready)
            request = (item.addr, item.len, item.id) if ar_valid else None
            assert held is None or held == request, f"cycle {cycle}: AR was not held"
            held = request if not ar_ready else None
            if ar_valid and ar_ready:
                assert item.id == 1
                self._check_address(item.addr, item.len + 1)
                self.bursts.append((cycle, item.addr, item.len + 1))
                for index in range(item.len + 1):
                    place = item.addr + index * self.arch.beat_bytes
                    waiting.append((cycle + self.latency, place, index == item.len))
            if showing and r_ready:
                self.in_flight -= waiting.popleft()[2]
                self.data_cycles.append(cycle)
                showing = False

    async def serve_write(self, ctx, port) -> None:
        """Serve `aw`, `w` and `b` of a `WriteSignature` for ever."""
        addresses: deque[tuple[int, int]] = deque()
        responses: deque[tuple[int, int]] = deque()
        patterns = [self.stalls() for _ in range(3)]
        for pattern, skip in zip(patterns, (0, 1, 2)):
            list(itertools.islice(pattern, skip))
        held: dict[str, object] = {}
        index, showing, bad = 0, False, False
        for cycle in itertools.count():
            ctx.set(port.aw.ready, not next(patterns[0]))
            ctx.set(port.w.ready, not next(patterns[1]) and bool(addresses))
            if not showing and responses and responses[0][0] <= cycle and not next(patterns[2]):
                showing = True
                ctx.set(port.b.payload.resp, responses[0][1])
            ctx.set(port.b.valid, showing)
            aw, w, b = port.aw, port.w, port.b
            _, _, aw_valid, aw_ready, item, w_valid, w_ready, beat, b_ready = await ctx.tick().sample(
                aw.valid, aw.ready, aw.payload, w.valid, w.ready, w.payload, b.ready
            )
            shown = {"AW": (item.addr, item.len), "W": (beat.data, beat.last)}
            for name, valid, ready in (("AW", aw_valid, aw_ready), ("W", w_valid, w_ready)):
                now = shown[name] if valid else None
                assert name not in held or held[name] == now, f"cycle {cycle}: {name} was not held"
                held.pop(name, None)
                if valid and not ready:
                    held[name] = now
            if w_valid and w_ready:
                address, length = addresses[0]
                place = address + index * self.arch.beat_bytes
                assert beat.last == (index == length - 1), f"cycle {cycle}: wrong W.last at {place:#x}"
                self.beats[place] = beat.data
                self.data_cycles.append(cycle)
                index, bad = index + 1, bad or place in self.bad_writes
                if beat.last:
                    responses.append((cycle + self.latency, 2 * bad))
                    addresses.popleft()
                    index, bad = 0, False
            if aw_valid and aw_ready:
                self._check_address(item.addr, item.len + 1)
                self.bursts.append((cycle, item.addr, item.len + 1))
                addresses.append((item.addr, item.len + 1))
            if showing and b_ready:
                responses.popleft()
                self.in_flight -= 1
                showing = False


def command_bits(command, pc: int = 0) -> dict[str, int]:
    """Payload of an engine's command stream for a `Command`, whose operands may be out of their ranges."""
    row = TABLE[command.opcode]
    operands = sum(command.operands[item.name] << row.offsets[item.name] - 32 for item in row.operands)
    return {"pc": pc, "opcode": int(command.opcode), "operands": operands}


class EngineBench:
    """Drives the `control` side of an engine and watches it: `done` cycles, `errors` as `(cycle, cause, pc)`.

    Commands are offered back to back, with their index as `pc`.
    """

    def __init__(self, engine) -> None:
        self.engine = engine
        self.done: list[int] = []
        self.errors: list[tuple[int, int, int]] = []
        self.taken: list[int] = []
        self.cycle = 0

    async def watch(self, ctx) -> None:
        """Background process that fills the logs."""
        control = self.engine.control
        for self.cycle in itertools.count():
            _, _, done, error, valid, fired = await ctx.tick().sample(
                control.done, control.error, control.error_valid, control.command.valid & control.command.ready
            )
            if fired:
                self.taken.append(self.cycle)
            if done:
                self.done.append(self.cycle)
            if valid:
                self.errors.append((self.cycle, int(error.cause), error.pc))

    async def run(self, ctx, commands, stop_at: int | None = None) -> None:
        """Offer all commands, then wait until the engine is idle.

        As the control does, raise `stop` after an error, until the engine is idle; or in cycle `stop_at` from here on.
        """
        control, pending, quiet = self.engine.control, deque(enumerate(commands)), 0
        for cycle in itertools.count():
            stopped = ctx.get(control.stop) or cycle == stop_at
            ctx.set(control.stop, stopped)
            ctx.set(control.command.valid, bool(pending) and not stopped)
            if pending and not stopped:
                pc, item = pending[0]
                ctx.set(control.command.payload, command_bits(item, pc))
            _, _, fired, busy, error = await ctx.tick().sample(
                control.command.valid & control.command.ready, control.busy, control.error_valid
            )
            if error:
                ctx.set(control.stop, 1)
            if fired:
                pending.popleft()
            quiet = 0 if busy or error or fired or (pending and not stopped) else quiet + 1
            if quiet == 3:
                break
        ctx.set(control.stop, 0)
        await ctx.tick()


class AccMemory:
    """Accumulator words behind `AccRead` and `AccWrite` ports. A word is shown in its one cycle, junk in all others.

    `words` maps an address to a word, missing ones are 0. `read_cycles` and `write_cycles` log accepted requests.
    With `half`, all addresses must be `half` modulo 2.
    """

    def __init__(self, arch, half: int | None = None) -> None:
        self.arch, self.half, self.words = arch, half, {}
        self.read_cycles: list[int] = []
        self.write_cycles: list[int] = []

    def _check(self, address: int) -> int:
        assert address < self.arch.scratchpads.acc_depth, f"word {address} is outside the scratchpad"
        assert self.half in (None, address % 2), f"word {address} is in the other half"
        return address

    async def serve_read(self, ctx, port, stalls: Stalls = never) -> None:
        """Serve an `AccRead` port for ever."""
        pattern, junk = stalls(), random.Random(1)
        pending: deque[int | None] = deque([None])
        for cycle in itertools.count():
            ctx.set(port.ready, not next(pattern))
            _, _, valid, ready, address = await ctx.tick().sample(port.valid, port.ready, port.address)
            taken = valid and ready
            pending.append(self.words.get(self._check(address), 0) if taken else None)
            word = pending.popleft()
            ctx.set(port.data, junk.getrandbits(32 * self.arch.array.cols) if word is None else word)
            if taken:
                self.read_cycles.append(cycle)

    async def serve_write(self, ctx, port, stalls: Stalls = never) -> None:
        """Serve an `AccWrite` port for ever; checks that a refused request is held."""
        pattern, held = stalls(), None
        half = 16 * self.arch.array.cols
        for cycle in itertools.count():
            ctx.set(port.ready, not next(pattern))
            _, _, valid, ready, *request = await ctx.tick().sample(
                port.valid, port.ready, port.address, port.data, port.halves
            )
            assert held is None or (valid and held == request), f"cycle {cycle}: a write was not held"
            held = request if valid and not ready else None
            if valid and ready:
                address, word, halves = request
                mask = sum(((1 << half) - 1) << (half * side) for side in (0, 1) if halves >> side & 1)
                self.words[self._check(address)] = (self.words.get(address, 0) & ~mask) | (word & mask)
                self.write_cycles.append(cycle)

"""Instruction fetch against the bytes in memory, for every beat width, and everything that can go wrong with it."""

import random
from functools import partial

import pytest

from hwgen.arch.isa import Cause
from hwgen.control.fetch import Fetch
from tests.hwgen.control_support import ProgramMemory, wide_arch
from tests.support import at_random, long, never, receive, simulate

WIDTHS = [64, 128, 256, 512, 1024]
BASE = 0x4000


def program(count: int, seed: int = 1) -> list[int]:
    """Random instruction words: fetch does not look into them."""
    source = random.Random(seed)
    return [source.getrandbits(256) for _ in range(count)]


def image(words: list[int]) -> bytes:
    return b"".join(word.to_bytes(32, "little") for word in words)


class Bench:
    """A fetch unit with memory; `taken` has `(cycle, (pc, word))` of each instruction given out."""

    def __init__(self, arch, *, latency=5, stalls=never, after=never, error_response=2) -> None:
        self.arch, self.dut = arch, Fetch(arch=arch)
        self.memory = ProgramMemory(arch, latency=latency, stalls=stalls, error_response=error_response)
        self.after = after
        self.taken: list = []

    async def watch_ready(self, ctx):
        """The answer channel must never be held up."""
        while True:
            _, _, valid, ready = await ctx.tick().sample(self.dut.port.r.valid, self.dut.port.r.ready)
            assert ready or not valid, "a beat had to wait"

    async def start(self, ctx, address: int, count: int) -> None:
        self.taken.clear()
        ctx.set(self.dut.address, address)
        ctx.set(self.dut.count, count)
        ctx.set(self.dut.start, 1)
        await ctx.tick()
        ctx.set(self.dut.start, 0)

    async def settle(self, ctx) -> None:
        """Until everything has been given out, or an error is shown; then until the last beat has come."""
        dut = self.dut
        while not ctx.get(dut.finished) and not ctx.get(dut.error_valid):
            await ctx.tick()
        await self.halt(ctx)
        ctx.set(dut.stop, 0)

    async def halt(self, ctx) -> None:
        """Raise `stop` and wait until the last beat has come."""
        ctx.set(self.dut.stop, 1)
        await ctx.tick()
        while ctx.get(self.dut.busy):
            await ctx.tick()
        assert not ctx.get(self.dut.port.ar.valid), "a request is still offered"
        await ctx.tick()  # the memory keeps its books after the bench has looked
        assert self.memory.in_flight == 0

    def words(self) -> list[tuple[int, int]]:
        return [(payload.pc, payload.word) for _, payload in self.taken]

    def run(self, *drivers) -> None:
        background = [
            partial(self.memory.serve, port=self.dut.port),
            partial(receive, stream=self.dut.o, taken=self.taken, stalls=self.after),
            self.watch_ready,
        ]
        simulate(self.dut, *drivers, background=background, limit=6000)


@pytest.mark.parametrize("burst", [1, 4, 64])
@pytest.mark.parametrize("width", WIDTHS)
def test_gives_the_program_in_order(seed, width, burst):
    source = random.Random(seed)
    bench = Bench(wide_arch(width, burst_beats=burst), stalls=at_random(seed, 0.3), after=at_random(seed + 1, 0.4))
    align = max(32, width // 8)

    async def drive(ctx):
        for count in (1, 2, 3, 5, 0, source.randint(20, 40)):
            address = 4096 * source.randint(1, 9) - align * source.randint(0, 6)
            words = program(count, source.getrandbits(16))
            bench.memory.place(address, image(words))
            bench.memory.bursts.clear()
            await bench.start(ctx, address, count)
            await bench.settle(ctx)
            assert bench.words() == list(enumerate(words))
            beats = sum(length for _, length in bench.memory.bursts)
            assert beats == -(-count * 256 // width), "more or less than the program was read"

    bench.run(drive)


@pytest.mark.parametrize("width", WIDTHS)
def test_slow_consumer_loses_nothing(width):
    bench, words = Bench(wide_arch(width), latency=1, after=long(40)), program(60)
    bench.memory.place(BASE, image(words))

    async def drive(ctx):
        await bench.start(ctx, BASE, len(words))
        await bench.settle(ctx)
        assert bench.words() == list(enumerate(words))

    bench.run(drive)


@pytest.mark.parametrize("width", WIDTHS)
def test_throughput_without_stalls(width):
    bench, words = Bench(wide_arch(width, burst_beats=64), latency=1), program(64)
    bench.memory.place(BASE, image(words))

    async def drive(ctx):
        await bench.start(ctx, BASE, len(words))
        await bench.settle(ctx)
        cycles = [cycle for cycle, _ in bench.taken]
        assert cycles[-1] - cycles[0] <= (len(words) - 1) * max(1, 256 // width) + 4

    bench.run(drive)


def test_first_request_follows_start_by_one_cycle():
    bench = Bench(wide_arch(256))
    bench.memory.place(BASE, image(program(1)))

    async def drive(ctx):
        await bench.start(ctx, BASE, 1)
        assert ctx.get(bench.dut.port.ar.valid)
        await bench.settle(ctx)

    bench.run(drive)


@pytest.mark.parametrize("response", [2, 3])
@pytest.mark.parametrize("width", WIDTHS)
def test_failed_beat_is_reported_after_the_instructions_before_it(width, response):
    bench, words = Bench(wide_arch(width), stalls=at_random(3), error_response=response), program(11)
    bench.memory.place(BASE, image(words))
    first = 5 * 32 // (width // 8)  # the beat of instruction 5, and the first instruction that it holds a part of
    bench.memory.bad = {BASE + first * (width // 8) + (16 if width == 64 else 0)}
    expected = 5 * 32 // (width // 8) * (width // 8) // 32

    async def drive(ctx):
        for _ in range(2):
            await bench.start(ctx, BASE, len(words))
            await bench.settle(ctx)
            assert ctx.get(bench.dut.error_valid)
            error = ctx.get(bench.dut.error)
            assert (error.cause, error.pc) == (Cause.READ_RESPONSE, expected)
            assert bench.words() == list(enumerate(words))[:expected]
        bench.memory.bad = set()
        await bench.start(ctx, BASE, len(words))
        await bench.settle(ctx)
        assert not ctx.get(bench.dut.error_valid)
        assert bench.words() == list(enumerate(words))

    bench.run(drive)


def test_exokay_is_no_error_and_neither_is_a_failure_past_the_end():
    bench, words = Bench(wide_arch(64), error_response=1), program(3)
    bench.memory.place(BASE, image(words))
    bench.memory.bad = {BASE, BASE + 40}

    async def drive(ctx):
        await bench.start(ctx, BASE, 3)
        await bench.settle(ctx)
        assert not ctx.get(bench.dut.error_valid)
        assert bench.words() == list(enumerate(words))

    bench.run(drive)


END = 1 << 40
REFUSED = [
    (64, BASE + 8, 1, Cause.MEMORY_ALIGNMENT),
    (64, BASE + 16, 1, Cause.MEMORY_ALIGNMENT),
    (64, BASE + 1, 1, Cause.MEMORY_ALIGNMENT),
    (1024, BASE + 32, 1, Cause.MEMORY_ALIGNMENT),
    (1024, BASE + 64, 1, Cause.MEMORY_ALIGNMENT),
    (64, END, 1, Cause.MEMORY_ALIGNMENT),
    (64, END - 32, 2, Cause.MEMORY_ALIGNMENT),
    (64, 1 << 63, 1, Cause.MEMORY_ALIGNMENT),
    (64, (1 << 64) - 32, 1, Cause.MEMORY_ALIGNMENT),
    (64, BASE, (1 << 24) + 1, Cause.BAD_FIELD),
    (64, BASE, (1 << 32) - 1, Cause.BAD_FIELD),
]


@pytest.mark.parametrize(("width", "address", "count", "cause"), REFUSED)
def test_bad_address_or_count_fetches_nothing(width, address, count, cause):
    bench = Bench(wide_arch(width))

    async def drive(ctx):
        await bench.start(ctx, address, count)
        for _ in range(20):
            assert ctx.get(bench.dut.error_valid)
            assert not ctx.get(bench.dut.busy)
            await ctx.tick()
        error = ctx.get(bench.dut.error)
        assert (error.cause, error.pc) == (cause, 0)
        assert not bench.memory.bursts
        await bench.start(ctx, BASE, 1)
        await bench.settle(ctx)
        assert not ctx.get(bench.dut.error_valid)
        assert len(bench.taken) == 1

    bench.run(drive)


def test_last_instruction_of_memory_can_be_fetched():
    bench, words = Bench(wide_arch(64)), program(2)
    bench.memory.place(END - 64, image(words))

    async def drive(ctx):
        await bench.start(ctx, END - 64, 2)
        await bench.settle(ctx)
        assert bench.words() == list(enumerate(words))

    bench.run(drive)


@pytest.mark.parametrize("width", [64, 512])
def test_stop_ends_requests_and_a_new_run_is_clean(seed, width):
    source, words = random.Random(seed), program(60)
    bench = Bench(wide_arch(width), stalls=at_random(seed, 0.8), latency=9)
    bench.memory.place(BASE, image(words))

    async def drive(ctx):
        for _ in range(12):
            await bench.start(ctx, BASE, len(words))
            for _ in range(source.randint(0, 60)):
                await ctx.tick()
            await bench.halt(ctx)
            requested = len(bench.memory.bursts)
            for _ in range(20):
                await ctx.tick()
            assert len(bench.memory.bursts) == requested, "a request after the stop"
            ctx.set(bench.dut.stop, 0)
            await bench.start(ctx, BASE, 7)
            await bench.settle(ctx)
            assert bench.words() == list(enumerate(words))[:7]

    bench.run(drive)

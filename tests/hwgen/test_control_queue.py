"""Command queue and tokens of engines against counters in Python."""

import itertools
import random
from collections import deque
from functools import partial

import pytest

from hwgen.arch.isa import TABLE, Engine, Opcode
from hwgen.control.queue import EngineQueue, TokenBank
from tests.support import at_random, never, receive, send, simulate


class Tokens:
    """The contract of ISA.md: a counter for each ordered pair of engines."""

    def __init__(self, width: int) -> None:
        self.limit, self.count = (1 << width) - 1, {(a, b): 0 for a in Engine for b in Engine if a != b}

    def cycle(self, gives, takes) -> int:
        """Change the counters by one cycle; returns the engines whose tokens do not fit."""
        overflow = 0
        for (source, sink), count in self.count.items():
            up, down = gives[source] >> sink & 1, takes[sink] >> source & 1
            assert count or not down
            if count + up - down > self.limit:
                overflow |= 1 << source
            else:
                self.count[source, sink] += up - down
        return overflow

    def available(self, sink: int) -> int:
        return sum(1 << source for source in Engine if source != sink and self.count[source, sink])


@pytest.mark.parametrize("width", [2, 4])
def test_tokens_equal_counters(seed, width):
    source, dut, model = random.Random(seed), TokenBank(width=width), Tokens(width)

    async def drive(ctx):
        overflows = 0
        for cycle in range(1500):
            eager = cycle // 100 % 3  # phases that fill, drain and balance
            gives = [source.getrandbits(6) & source.choice([63, 63 if eager == 0 else 0]) for _ in Engine]
            takes = [model.available(e) & source.getrandbits(6) & (63 if eager else 0) for e in Engine]
            for e in Engine:
                assert ctx.get(dut.available[e]) == model.available(e), f"cycle {cycle}, engine {e}"
                ctx.set(dut.give[e], gives[e])
                ctx.set(dut.take[e], takes[e])
            seen = (await ctx.tick().sample(dut.overflow))[2]
            expected = model.cycle(gives, takes)
            assert seen == expected, f"cycle {cycle}"
            overflows += expected != 0
        assert overflows > 20
        ctx.set(dut.clear, 1)
        await ctx.tick()
        assert [ctx.get(dut.available[e]) for e in Engine] == [0] * 6

    simulate(dut, drive)


def test_full_counter_may_give_and_take_at_once():
    dut = TokenBank(width=2)

    async def drive(ctx):
        ctx.set(dut.give[0], 1 << 2)
        for _ in range(3):
            assert not ctx.get(dut.overflow)
            await ctx.tick()
        assert ctx.get(dut.overflow) == 1
        ctx.set(dut.take[2], 1 << 0)
        assert ctx.get(dut.overflow) == 0
        await ctx.tick()
        ctx.set(dut.take[2], 0)
        assert ctx.get(dut.overflow) == 1, "the count must still be at its limit"

    simulate(dut, drive)


def entries(count: int, source: random.Random, others: int) -> list[dict[str, int]]:
    row = TABLE[Opcode.TENSOR]
    bits = sum(item.width for item in row.operands)
    return [
        {
            "pc": pc,
            "wait": source.getrandbits(4) & others,
            "signal": source.getrandbits(4) & others,
            "opcode": int(row.opcode),
            "operands": source.getrandbits(bits),
        }
        for pc in range(count)
    ]


class Bench:
    """A queue for the tensor engine, with random tokens and an engine that is done after a random time."""

    def __init__(self, *, seed: int, token_rate: float = 0.12, patience: int = 12, stalls=never) -> None:
        self.dut = EngineQueue(engine=Engine.TENSOR, depth=4)
        self.source, self.token_rate, self.patience = random.Random(seed), token_rate, patience
        self.tokens = dict.fromkeys((Engine.LOAD, Engine.VECTOR, Engine.STORE), 0)
        self.commands: list = []
        self.given: list[int] = []
        self.under_way: deque = deque()
        self.most = 0
        self.stalls = stalls

    async def surroundings(self, ctx):
        """Tokens come and go; `done` pulses; the masks are checked in each cycle."""
        dut, expected = self.dut, deque()
        for cycle in itertools.count():
            for source in self.tokens:
                self.tokens[source] += self.source.random() < self.token_rate
            available = sum(1 << source for source, count in self.tokens.items() if count)
            ctx.set(dut.available, available)
            finished = bool(self.under_way) and self.under_way[0][0] <= cycle
            ctx.set(dut.done, finished)
            command = dut.command
            _, _, valid, ready, payload, take, give, waiting, pc = await ctx.tick().sample(
                command.valid, command.ready, command.payload, dut.take, dut.give, dut.waiting, dut.pc
            )
            assert not (valid and waiting)
            assert not waiting & available
            if valid and ready:
                expected.append(self.entries[payload.pc])
                assert take == expected[-1]["wait"]
                assert take & available == take, "took a token that is not there"
                for source in self.tokens:
                    self.tokens[source] -= take >> source & 1
                self.under_way.append((cycle + 1 + self.source.randint(0, self.patience), payload.pc))
            else:
                assert take == 0
            self.most = max(self.most, len(self.under_way))
            if finished:
                assert pc == self.under_way.popleft()[1]
                self.given.append(give)
                assert give == expected.popleft()["signal"]
            else:
                assert give == 0

    def run(self, items, before=never) -> None:
        self.entries = items

        async def drive(ctx):
            await send(ctx, self.dut.i, items, before)
            while not ctx.get(self.dut.empty):
                await ctx.tick()
            await ctx.tick()

        taker = partial(receive, stream=self.dut.command, taken=self.commands, stalls=self.stalls)
        simulate(self.dut, drive, background=[self.surroundings, taker], limit=8000)


@pytest.mark.parametrize("stalled", [False, True])
def test_commands_in_order_with_their_tokens(seed, stalled):
    items = entries(80, random.Random(seed), 0b1101)
    bench = Bench(seed=seed, stalls=at_random(seed) if stalled else never)
    bench.run(items, at_random(seed + 1) if stalled else never)
    names = ("pc", "opcode", "operands")
    assert [tuple(payload[name] for name in names) for _, payload in bench.commands] == [
        tuple(item[name] for name in names) for item in items
    ]
    assert bench.given == [item["signal"] for item in items]


def test_at_most_eight_in_flight(seed):
    bench = Bench(seed=seed, token_rate=1, patience=200)
    bench.run(entries(30, random.Random(seed), 0b1101))
    assert bench.most == EngineQueue.IN_FLIGHT


def test_tokens_are_taken_all_at_once():
    dut = EngineQueue(engine=Engine.STORE, depth=2)

    async def drive(ctx):
        await send(ctx, dut.i, [{"pc": 5, "wait": 0b0111, "signal": 0, "opcode": 4, "operands": 0}])
        ctx.set(dut.command.ready, 1)
        for available in (0, 0b001, 0b010, 0b101, 0b110, 0b111):
            ctx.set(dut.available, available)
            complete = available == 0b111
            assert ctx.get(dut.command.valid) == complete
            assert ctx.get(dut.waiting) == 0b111 & ~available
            assert ctx.get(dut.take) == (0b111 if complete else 0)
            assert ctx.get(dut.pc) == 5
            await ctx.tick()
        assert ctx.get(dut.command.valid) == 0
        assert ctx.get(dut.take) == 0
        assert not ctx.get(dut.empty), "it is still in flight"

    simulate(dut, drive)


@pytest.mark.parametrize("depth", [2, 8])
def test_holds_its_depth(depth):
    dut = EngineQueue(engine=Engine.LOAD, depth=depth)

    async def drive(ctx):
        for pc in range(depth):
            assert ctx.get(dut.i.ready)
            await send(ctx, dut.i, [{"pc": pc, "wait": 0, "signal": 0, "opcode": 1, "operands": pc}])
        assert not ctx.get(dut.i.ready)

    simulate(dut, drive)


def test_stop_withdraws_and_clear_forgets():
    dut = EngineQueue(engine=Engine.LOAD, depth=4)
    item = {"pc": 1, "wait": 0, "signal": 0b10, "opcode": 1, "operands": 7}

    async def drive(ctx):
        await send(ctx, dut.i, [item] * 3)
        ctx.set(dut.command.ready, 1)
        await ctx.tick()
        ctx.set(dut.stop, 1)
        for _ in range(5):
            assert not ctx.get(dut.command.valid)
            await ctx.tick()
        ctx.set(dut.clear, 1)
        await ctx.tick()
        ctx.set(dut.clear, 0)
        ctx.set(dut.stop, 0)
        for _ in range(5):
            assert not ctx.get(dut.command.valid)
            assert ctx.get(dut.empty)
            await ctx.tick()

    simulate(dut, drive)


def test_done_without_a_command_is_a_bug_that_shows():
    dut = EngineQueue(engine=Engine.VECTOR, depth=2)

    async def drive(ctx):
        ctx.set(dut.done, 1)
        for _ in range(3):
            await ctx.tick()

    with pytest.raises(AssertionError, match=r"^Assertion violated: engine 2 is done with nothing$"):
        simulate(dut, drive)

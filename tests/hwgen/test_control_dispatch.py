"""Dispatch against the instruction table: what is legal reaches its queue, anything else stops with its cause."""

import random
from functools import partial

import pytest

from hwgen.arch.commands import command, encode
from hwgen.arch.isa import TABLE, Cause, Engine, Opcode, Target
from hwgen.control.dispatch import Dispatch
from tests.support import at_random, never, receive, send, simulate

FETCH = 255


def word(opcode: Opcode, **fields: int) -> int:
    """A legal instruction as a number, with raw bits or'ed in or fields replaced without any check."""
    row = TABLE[opcode]
    value = int.from_bytes(encode(command(opcode)), "little")
    for name, number in fields.items():
        item = next(item for item in row.fields if item.name == name)
        value &= ~(((1 << item.width) - 1) << row.offsets[name])
        value |= (number & ((1 << item.width) - 1)) << row.offsets[name]
    return value


def random_word(source: random.Random) -> int:
    row = TABLE[source.choice(list(Opcode))]
    fields = {item.name: source.randint(item.low, item.limit) for item in row.operands}
    masks = {name: source.getrandbits(5) & ~(1 << row.engine) for name in ("wait", "signal")}
    return word(row.opcode, **masks, **fields)


def entry(pc: int, value: int) -> tuple[int, ...]:
    """What the queue of the engine must get."""
    return pc, value >> 8 & 0x3F, value >> 16 & 0x3F, value & 0xFF, value >> 32


class Bench:
    """A dispatcher with a taker on each output; `taken` has the log of each engine."""

    def __init__(self, stalls, engines=tuple(Engine)) -> None:
        self.dut = Dispatch(engines)
        self.taken: list[list] = [[] for _ in Engine]
        self.takers = [
            partial(receive, stream=port, taken=log, stalls=pattern)
            for port, log, pattern in zip(self.dut.o, self.taken, stalls)
        ]

    def entries(self, engine: int) -> list[tuple[int, ...]]:
        return [(e.pc, e.wait, e.signal, e.opcode, e.operands) for _, e in self.taken[engine]]

    def run(self, drive) -> None:
        simulate(self.dut, drive, background=self.takers, limit=5000)


@pytest.mark.parametrize("before", ["never", "random"])
@pytest.mark.parametrize("after", ["never", "random"])
def test_legal_instructions_reach_their_queues_in_order(seed, before, after):
    source = random.Random(seed)
    words = [random_word(source) for _ in range(150)]
    bench = Bench([at_random(seed + e, 0.6) if after == "random" else never for e in Engine])

    async def drive(ctx):
        stalls = at_random(seed, 0.4) if before == "random" else never
        await send(ctx, bench.dut.i, [{"pc": pc, "word": item} for pc, item in enumerate(words)], stalls)
        while not ctx.get(bench.dut.empty):
            await ctx.tick()
        await ctx.tick()
        assert not ctx.get(bench.dut.error_valid)
        for engine in Engine:
            expected = [entry(pc, item) for pc, item in enumerate(words) if (item & 0xFF) == engine + 1]
            assert bench.entries(engine) == expected

    bench.run(drive)


def test_one_instruction_a_cycle():
    bench = Bench([never] * 6)
    words = [word(opcode) for opcode in Opcode] * 5

    async def drive(ctx):
        await send(ctx, bench.dut.i, [{"pc": pc, "word": item} for pc, item in enumerate(words)])
        await ctx.tick()
        await ctx.tick()
        cycles = sorted(cycle for log in bench.taken for cycle, _ in log)
        assert cycles == list(range(bench.dut.LATENCY, bench.dut.LATENCY + len(words)))

    bench.run(drive)


def test_a_full_queue_holds_up_the_program():
    bench = Bench([never, never, lambda: iter([True] * 40 + [False] * 1000), never, never, never])

    async def drive(ctx):
        words = [word(Opcode.LOAD), word(Opcode.VECTOR), word(Opcode.STORE)]
        await send(ctx, bench.dut.i, [{"pc": pc, "word": item} for pc, item in enumerate(words)])
        for _ in range(50):
            await ctx.tick()
        assert bench.taken[Engine.LOAD][0][0] < 5
        assert bench.taken[Engine.VECTOR][0][0] >= 40
        assert bench.taken[Engine.STORE][0][0] > bench.taken[Engine.VECTOR][0][0]

    bench.run(drive)


def illegal() -> list:
    """(name, word, cause, engine) of every way in which one field can be wrong; all bits of signed ones are values."""
    load = word(Opcode.LOAD) - Opcode.LOAD
    found = [(f"opcode {n}", load + n, Cause.BAD_OPCODE, FETCH) for n in (0, *range(7, 256, 25), 255)]
    for row in TABLE.values():
        name, size = row.opcode.name, sum(item.width for item in row.fields)
        cases = {f"{mask} bit {bit}": {mask: 1 << bit} for mask in ("wait", "signal") for bit in (row.engine, 6, 7)}
        cases |= {f"reserved {bit}": {"reserved": 1 << bit} for bit in range(8)}
        for item in [item for item in row.operands if not item.signed]:
            cases |= {f"{item.name} {v}": {item.name: v} for v in (item.low - 1, item.limit + 1)}
            cases |= {f"{item.name} top": {item.name: (1 << item.width) - 1}}
        widths = {item.name: item.width for item in row.fields}
        limits = {item.name: (item.low, item.limit) for item in row.operands}
        for case, fields in cases.items():
            ((field, value),) = fields.items()
            low, high = limits.get(field, (0, 0))
            if 0 <= value < 1 << widths[field] and not low <= value <= high:
                found.append((f"{name} {case}", word(row.opcode, **fields), Cause.BAD_FIELD, row.engine))
        for bit in {size, 255, (size + 255) // 2} if size < 256 else ():
            found.append((f"{name} bit {bit}", word(row.opcode) | 1 << bit, Cause.BAD_FIELD, row.engine))
    return found


def test_every_broken_rule_stops_with_its_cause():
    bench, cases = Bench([never] * 6), illegal()

    async def drive(ctx):
        dut = bench.dut
        for pc, (name, bad, cause, engine) in enumerate(cases, 100):
            await send(ctx, dut.i, [{"pc": pc, "word": bad}])
            assert ctx.get(dut.error_valid), name
            error = ctx.get(dut.error)
            assert (error.cause, error.pc, ctx.get(dut.error_engine)) == (cause, pc, engine), name
            assert not ctx.get(dut.i.ready), f"{name}: something is taken after an error"
            ctx.set(dut.clear, 1)
            await ctx.tick()
            ctx.set(dut.clear, 0)
            assert not ctx.get(dut.error_valid)
        assert all(not log for log in bench.taken), "an illegal instruction reached a queue"

    assert len(cases) > 80
    bench.run(drive)


MAIN = tuple(Engine)[: Engine.FILL]


@pytest.mark.parametrize("engines", [MAIN, (*MAIN, Engine.ATTEND)], ids=len)
def test_without_a_second_port_there_is_no_fill(engines):
    bench = Bench([never] * 6, engines)
    attends = Engine.ATTEND in engines
    cases = [
        (word(Opcode.FILL), Cause.BAD_OPCODE, FETCH),
        (word(Opcode.LOAD, signal=1 << Engine.FILL), Cause.BAD_FIELD, Engine.LOAD),
        (word(Opcode.VECTOR, wait=1 << Engine.FILL), Cause.BAD_FIELD, Engine.VECTOR),
        (word(Opcode.LOAD, target=Target.ACC16), Cause.NONE, Engine.LOAD),
        (word(Opcode.ATTEND), *((Cause.NONE, Engine.ATTEND) if attends else (Cause.BAD_OPCODE, FETCH))),
        (word(Opcode.LOAD, wait=1 << Engine.ATTEND), Cause.NONE if attends else Cause.BAD_FIELD, Engine.LOAD),
    ]

    async def drive(ctx):
        dut = bench.dut
        for bad, cause, engine in cases:
            await send(ctx, dut.i, [{"pc": 7, "word": bad}])
            found = ctx.get(dut.error).cause, ctx.get(dut.error_engine)
            assert found == (cause, engine), bad & 0xFF
            ctx.set(dut.clear, 1)
            await ctx.tick()
            ctx.set(dut.clear, 0)

    bench.run(drive)


def test_limits_of_every_field_are_legal():
    bench = Bench([never] * 6)
    words = [
        word(row.opcode, **{item.name: value})
        for row in TABLE.values()
        for item in row.operands
        for value in (item.low, item.limit)
    ]

    async def drive(ctx):
        await send(ctx, bench.dut.i, [{"pc": pc, "word": item} for pc, item in enumerate(words)])
        assert not ctx.get(bench.dut.error_valid), f"pc {ctx.get(bench.dut.error.pc)}"

    bench.run(drive)


def test_instructions_before_an_error_still_go_out():
    bench = Bench([lambda: iter([True] * 10 + [False] * 1000), *[never] * 5])

    async def drive(ctx):
        dut = bench.dut
        await send(ctx, dut.i, [{"pc": 3, "word": word(Opcode.LOAD)}, {"pc": 4, "word": 0}])
        assert ctx.get(dut.error_valid)
        await ctx.tick()
        assert [e[0] for e in bench.entries(Engine.LOAD)] == [3]
        assert ctx.get(dut.error.pc) == 4

    bench.run(drive)

"""The whole command processor with a program in memory and engines that only take time."""

import dataclasses
import random
from functools import partial
from types import SimpleNamespace

import pytest

from hwgen.arch import arch_from_dict
from hwgen.arch.isa import TABLE, Cause, Engine, Opcode, command, encode
from hwgen.arch.registers import FETCH, TensorState
from hwgen.control.control import Controller
from tests.hwgen.control_support import FakeEngine, ProgramMemory, assemble, random_duration, wide_arch
from tests.support import at_random, never, simulate

BASE = 0x10000
BITS = {engine: 1 << engine for engine in Engine}


class Bench:
    """A controller in its surroundings; `await run(...)` executes a program and returns the host's report."""

    def __init__(self, *, arch=None, stalls=never, duration=lambda pc: 3, depth: int = 1) -> None:
        self.arch = arch or wide_arch(256)
        self.dut = Controller(arch=self.arch)
        self.memory = ProgramMemory(self.arch, stalls=stalls)
        self.engines = [FakeEngine(engine, duration, depth) for engine in Engine]

    async def run(self, ctx, program, *, watchdog: int = 100, address: int = BASE, count=None) -> SimpleNamespace:
        """Run commands (or raw bytes); time-out by `simulate`. Logs of the engines start afresh."""
        image = program if isinstance(program, bytes) else assemble(program)
        self.memory.place(address, image)
        for engine in self.engines:
            for log in (engine.started, engine.ended, engine.words):
                log.clear()
        settings = {"program_low": address & 0xFFFFFFFF, "program_high": address >> 32, "watchdog": watchdog}
        ctx.set(self.dut.run.settings, {**settings, "count": len(image) // 32 if count is None else count})
        assert ctx.get(self.dut.run.idle)
        ctx.set(self.dut.run.start, 1)
        await ctx.tick()
        ctx.set(self.dut.run.start, 0)
        cycles, done = 0, False
        while not done:
            _, _, done, idle = await ctx.tick().sample(self.dut.run.done, self.dut.run.idle)
            assert not idle
            cycles += 1
        assert ctx.get(self.dut.run.idle)
        report = ctx.get(self.dut.run.report)
        names = [name for name, _ in report.shape() if name != "status"]
        return SimpleNamespace(
            **{name: report[name] for name in names},
            error=(report.status.cause, report.status.engine, report.error_pc),
            measured=cycles,
        )

    def simulate(self, *drivers, background=(), limit: int = 6000) -> None:
        background = [*background, partial(self.memory.serve, port=self.dut.program)]
        background += [partial(item.serve, port=self.dut.engines[item.engine]) for item in self.engines]
        simulate(self.dut, *drivers, background=background, limit=limit)


def many_tokens(data_bits: int):
    """An architecture whose token counters no test program overflows by accident."""
    data = dataclasses.asdict(wide_arch(data_bits))
    data["control"]["token_bits"] = 8
    return arch_from_dict(data)


def random_program(source: random.Random, count: int) -> list:
    """Legal in program order: a token is waited for only after an earlier instruction has given it."""
    given = {(a, b): 0 for a in Engine for b in Engine}
    program = []
    for _ in range(count):
        row = TABLE[source.choice(list(Opcode))]
        me, wait, signal = row.engine, 0, 0
        for other in Engine:
            if other != me and given[other, me] and source.random() < 0.7:
                given[other, me] -= 1
                wait |= 1 << other
            if other != me and source.random() < 0.4:
                given[me, other] += 1
                signal |= 1 << other
        operands = {item.name: source.randint(item.low, item.limit) for item in row.operands}
        program.append(command(row.opcode, wait=wait, signal=signal, **operands))
    return program


def check_order(program, engines) -> None:
    """Each engine runs its instructions in program order, and the n-th token taken was given before."""
    starts = {pc: cycle for engine in engines for pc, cycle in engine.started}
    ends = {pc: cycle for engine in engines for pc, cycle in engine.ended}
    assert sorted(starts) == sorted(ends) == list(range(len(program)))
    for engine in engines:
        mine = [pc for pc, item in enumerate(program) if item.engine == engine.engine]
        assert [pc for pc, _ in engine.started] == mine
        assert engine.words == [int.from_bytes(encode(program[pc]), "little") & ~0xFFFFFF00 for pc in mine]
        for other in Engine:
            givers = [
                pc for pc, item in enumerate(program) if item.engine == other and item.signal >> engine.engine & 1
            ]
            takers = [pc for pc in mine if program[pc].wait >> other & 1]
            for giver, taker in zip(givers, takers):
                assert ends[giver] < starts[taker], f"{taker} started before {giver} had ended"


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("width", [64, 256, 1024])
def test_random_programs_keep_their_order(seed, width, depth):
    source = random.Random(seed + width + depth)
    bench = Bench(
        arch=many_tokens(width), stalls=at_random(seed, 0.2), duration=random_duration(seed, 1, 12), depth=depth
    )

    async def drive(ctx):
        for count in (1, 30, 15):
            program = random_program(source, count)
            result = await bench.run(ctx, program)
            assert result.error == (0, 0, 0)
            assert result.cycles_low == result.measured
            check_order(program, bench.engines)

    bench.simulate(drive)


def test_a_token_starts_the_next_engine_in_the_following_cycle():
    bench = Bench(duration=lambda pc: 30)
    program = [
        command(Opcode.LOAD, signal=BITS[Engine.TENSOR]),
        command(Opcode.TENSOR, wait=BITS[Engine.LOAD], signal=BITS[Engine.VECTOR]),
        command(Opcode.VECTOR, wait=BITS[Engine.TENSOR], signal=BITS[Engine.STORE]),
        command(Opcode.STORE, wait=BITS[Engine.VECTOR]),
    ]

    async def drive(ctx):
        await bench.run(ctx, program)
        ends = [engine.ended[0][1] for engine in bench.engines]
        starts = [engine.started[0][1] for engine in bench.engines]
        assert starts[1:] == [end + 1 for end in ends[:-1]]

    bench.simulate(drive)


def test_empty_program_takes_one_cycle():
    bench = Bench()

    async def drive(ctx):
        for _ in range(2):
            result = await bench.run(ctx, b"")
            assert (result.error, result.cycles_low, result.measured) == ((0, 0, 0), 1, 1)
        assert not bench.memory.bursts

    bench.simulate(drive)


GOOD = [
    command(Opcode.LOAD, signal=BITS[Engine.TENSOR] | BITS[Engine.STORE]),
    command(Opcode.TENSOR, wait=BITS[Engine.LOAD], signal=BITS[Engine.VECTOR]),
    command(Opcode.VECTOR, wait=BITS[Engine.TENSOR]),
    command(Opcode.STORE, wait=BITS[Engine.LOAD]),
] * 3


def bad_bytes(pc: int, at: int, value: int) -> bytes:
    """GOOD with one byte of one instruction replaced."""
    image = bytearray(assemble(GOOD))
    image[32 * pc + at] = value
    return bytes(image)


ERRORS = {
    "unknown opcode": (bad_bytes(5, 0, 9), {}, (Cause.BAD_OPCODE, FETCH, 5)),
    "empty memory": (bytes(96), {}, (Cause.BAD_OPCODE, FETCH, 0)),
    "reserved byte": (bad_bytes(6, 3, 1), {}, (Cause.BAD_FIELD, Engine.VECTOR, 6)),
    "token for oneself": (bad_bytes(4, 1, 1), {}, (Cause.BAD_FIELD, Engine.LOAD, 4)),
    "token for engine 4": (bad_bytes(7, 2, 16), {}, (Cause.BAD_FIELD, Engine.STORE, 7)),
    "address not aligned": (GOOD, {"address": BASE + 8}, (Cause.MEMORY_ALIGNMENT, FETCH, 0)),
    "program past the end": (GOOD, {"address": (1 << 40) - 64}, (Cause.MEMORY_ALIGNMENT, FETCH, 0)),
    "count too large": (GOOD, {"count": 1 << 25}, (Cause.BAD_FIELD, FETCH, 0)),
    "token never comes": (
        [GOOD[0], command(Opcode.STORE, wait=BITS[Engine.VECTOR])],
        {},
        (Cause.WATCHDOG, Engine.STORE, 1),
    ),
    "overflow": (
        [command(Opcode.VECTOR, signal=BITS[Engine.STORE])] * 20,
        {},
        (Cause.TOKEN_OVERFLOW, Engine.VECTOR, 15),
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_reported_and_the_next_run_is_clean(name):
    program, options, expected = ERRORS[name]
    bench = Bench()

    async def drive(ctx):
        for _ in range(2):
            result = await bench.run(ctx, program, **options)
            assert result.error == expected
            assert not any(ctx.get(port.busy) for port in bench.dut.engines)
            result = await bench.run(ctx, GOOD)
            assert result.error == (0, 0, 0)
            check_order(GOOD, bench.engines)

    bench.simulate(drive)


@pytest.mark.parametrize("engine", Engine)
def test_error_of_an_engine_stops_the_others(engine):
    bench = Bench(duration=random_duration(7, 2, 20), depth=2)
    failing = 4 + engine

    async def drive(ctx):
        for cause in (Cause.BAD_FIELD, Cause.SCRATCHPAD_RANGE, Cause.READ_RESPONSE, Cause.WRITE_RESPONSE):
            bench.engines[engine].faults = {failing: cause}
            result = await bench.run(ctx, GOOD)
            assert result.error == (cause, engine, failing)
            for other in bench.engines:
                if other.engine != engine:
                    assert len(other.started) == len(other.ended), "what had started must finish"
        bench.engines[engine].faults = {}
        result = await bench.run(ctx, GOOD)
        assert result.error == (0, 0, 0)
        check_order(GOOD, bench.engines)

    bench.simulate(drive)


def test_nothing_starts_after_the_stop():
    bench = Bench(duration=lambda pc: 40 if pc == 1 else 5)
    program = [command(Opcode.LOAD), command(Opcode.TENSOR)] + [command(Opcode.VECTOR)] * 8

    async def drive(ctx):
        bench.engines[Engine.LOAD].faults = {0: Cause.READ_RESPONSE}
        result = await bench.run(ctx, program)
        assert result.error == (Cause.READ_RESPONSE, Engine.LOAD, 0)
        ((_, failed),) = bench.engines[Engine.LOAD].ended
        assert all(cycle <= failed for _, cycle in bench.engines[Engine.VECTOR].started)
        assert bench.engines[Engine.TENSOR].ended[0][1] > failed + 20, "the tensor instruction finishes"
        assert ctx.get(bench.dut.run.idle)

    bench.simulate(drive)


def test_lowest_engine_is_reported_when_several_fail_at_once():
    async def drive(ctx, bench, failing):
        for engine in failing:
            bench.engines[engine].faults = {pc: Cause.BAD_FIELD for pc in range(20)}
        program = [command(opcode) for opcode in Opcode]
        result = await bench.run(ctx, program)
        assert len({bench.engines[engine].ended[0][1] for engine in failing}) == 1, "not at once: the test is useless"
        assert result.error == (Cause.BAD_FIELD, min(failing), min(failing))

    for failing in ([1, 3], [0, 1, 2, 3], [2, 3]):
        # Instructions start one cycle apart.
        bench = Bench(arch=wide_arch(1024), duration=lambda pc: 30 - pc)
        bench.simulate(partial(drive, bench=bench, failing=[Engine(number) for number in failing]))


def test_first_error_is_kept():
    bench = Bench(arch=wide_arch(1024), duration=lambda pc: 30 if pc == 0 else 20)

    async def drive(ctx):
        for engine, cause in ((Engine.LOAD, Cause.READ_RESPONSE), (Engine.STORE, Cause.WRITE_RESPONSE)):
            bench.engines[engine].faults = {engine: cause}
        result = await bench.run(ctx, [command(opcode) for opcode in Opcode])
        assert result.error == (Cause.WRITE_RESPONSE, Engine.STORE, 3)

    bench.simulate(drive)


@pytest.mark.parametrize("response", [2, 3])
def test_program_that_cannot_be_read(response):
    bench = Bench()
    bench.memory.error_response = response

    async def drive(ctx):
        bench.memory.bad = {BASE + 32 * 5}
        result = await bench.run(ctx, GOOD)
        assert result.error == (Cause.READ_RESPONSE, FETCH, 5)
        assert bench.memory.in_flight == 0
        bench.memory.bad = set()
        assert (await bench.run(ctx, GOOD)).error == (0, 0, 0)

    bench.simulate(drive)


def test_memory_that_never_answers_is_given_up():
    bench = Bench(stalls=lambda: iter([True] * 10**6))

    async def drive(ctx):
        result = await bench.run(ctx, GOOD, watchdog=50)
        assert result.error == (Cause.WATCHDOG, FETCH, 0)
        assert 100 <= result.measured <= 110

    bench.simulate(drive)


def test_engine_that_hangs_is_given_up():
    bench = Bench(duration=lambda pc: 10**6 if pc == 1 else 2)

    async def drive(ctx):
        result = await bench.run(ctx, GOOD, watchdog=60)
        assert result.error == (Cause.WATCHDOG, Engine.TENSOR, 1)

    bench.simulate(drive)


def test_progress_input_holds_off_the_watchdog():
    bench = Bench(duration=lambda pc: 60)

    async def drive(ctx):
        ctx.set(bench.dut.progress, 1)
        assert (await bench.run(ctx, GOOD[:2], watchdog=20)).error == (0, 0, 0)
        ctx.set(bench.dut.progress, 0)
        assert (await bench.run(ctx, GOOD[:2], watchdog=20)).error == (Cause.WATCHDOG, Engine.LOAD, 0)

    bench.simulate(drive)


def test_counters_of_a_run():
    bench = Bench(duration=lambda pc: 17)
    program = [
        command(Opcode.LOAD, signal=BITS[Engine.TENSOR]),
        command(Opcode.TENSOR, wait=BITS[Engine.LOAD], signal=BITS[Engine.VECTOR]),
        command(Opcode.VECTOR, wait=BITS[Engine.TENSOR], signal=BITS[Engine.TENSOR]),
        command(Opcode.TENSOR, wait=BITS[Engine.VECTOR]),
    ]

    async def state(ctx):
        port = bench.dut.engines[Engine.TENSOR]
        while True:
            ctx.set(bench.dut.tensor_state, TensorState.BUSY if ctx.get(port.busy) else TensorState.IDLE)
            ctx.set(bench.dut.read_beat, ctx.get(bench.dut.program.r.valid))
            ctx.set(bench.dut.write_beat, 1)
            await ctx.tick()

    async def drive(ctx):
        for _ in range(2):
            result = await bench.run(ctx, program)
            states = {item.name: getattr(result, f"tensor_{item.name.lower()}") for item in TensorState}
            assert sum(states.values()) == result.cycles_low == result.measured
            assert [result.busy_load, result.busy_tensor, result.busy_vector, result.busy_store] == [18, 36, 18, 0]
            # An engine takes 18 cycles from its start to the token. The first TENSOR arrives one cycle after the LOAD
            # has started; the second one waits from the cycle before the VECTOR starts.
            assert (states["MEMORY"], states["TOKENS"]) == (18, 18 + 1)
            assert result.read_beats >= len(program)
            assert result.write_beats == result.cycles_low
            frozen = ctx.get(bench.dut.run.report.cycles_low)
            for _ in range(5):
                await ctx.tick()
            assert ctx.get(bench.dut.run.report.cycles_low) == frozen

    bench.simulate(drive, background=[state])

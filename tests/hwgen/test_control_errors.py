"""The whole command processor: every cause of an error, who is named, and a clean run afterwards."""

from functools import partial

import pytest

from hwgen.arch.commands import command
from hwgen.arch.isa import Cause, Engine, Opcode
from hwgen.arch.registers import FETCH
from tests.hwgen.control_bench import BASE, BITS, GOOD, ControllerBench, bad_bytes, check_order
from tests.hwgen.control_support import random_duration, wide_arch
from tests.support import at_random

ERRORS = {
    "unknown opcode": (bad_bytes(5, 0, 9), {}, (Cause.BAD_OPCODE, FETCH, 5)),
    "empty memory": (bytes(96), {}, (Cause.BAD_OPCODE, FETCH, 0)),
    "reserved byte": (bad_bytes(8, 3, 1), {}, (Cause.BAD_FIELD, Engine.VECTOR, 8)),
    "token for oneself": (bad_bytes(6, 1, 1), {}, (Cause.BAD_FIELD, Engine.LOAD, 6)),
    "token for engine 6": (bad_bytes(9, 2, 64), {}, (Cause.BAD_FIELD, Engine.STORE, 9)),
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
    bench = ControllerBench()

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
    bench = ControllerBench(duration=random_duration(7, 2, 20), depth=2)
    failing = len(Engine) + engine

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
    bench = ControllerBench(duration=lambda pc: 40 if pc == 1 else 5)
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


def test_requests_stop_with_the_run(seed):
    bench = ControllerBench(arch=wide_arch(256), stalls=at_random(seed, 0.8))
    at_error: list[int] = []

    async def watch(ctx):
        while not ctx.get(bench.dut.engines[Engine.LOAD].error_valid):
            await ctx.tick()
        at_error.append(len(bench.memory.bursts))

    async def drive(ctx):
        bench.engines[Engine.LOAD].faults = {0: Cause.READ_RESPONSE}
        await bench.run(ctx, [command(opcode) for opcode in Opcode] * 40)
        assert len(bench.memory.bursts) <= at_error[0] + 1

    bench.simulate(drive, background=[watch])


@pytest.mark.parametrize("faults", [{}, {3: Cause.WRITE_RESPONSE}])
def test_run_ends_when_the_last_engine_is_idle(faults):
    bench = ControllerBench()

    async def drive(ctx):
        engine = bench.engines[Engine.STORE]
        engine.linger, engine.faults = 30, faults
        result = await bench.run(ctx, GOOD[:5])
        assert result.error[0] == faults.get(3, 0)
        assert not ctx.get(bench.dut.engines[Engine.STORE].busy)
        assert result.busy_store > 30

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
        bench = ControllerBench(arch=wide_arch(1024), duration=lambda pc: 30 - pc)
        bench.simulate(partial(drive, bench=bench, failing=[Engine(number) for number in failing]))


def test_first_error_is_kept():
    bench = ControllerBench(arch=wide_arch(1024), duration=lambda pc: 30 if pc == 0 else 20)

    async def drive(ctx):
        for engine, cause in ((Engine.LOAD, Cause.READ_RESPONSE), (Engine.STORE, Cause.WRITE_RESPONSE)):
            bench.engines[engine].faults = {engine: cause}
        result = await bench.run(ctx, [command(opcode) for opcode in Opcode])
        assert result.error == (Cause.WRITE_RESPONSE, Engine.STORE, 3)

    bench.simulate(drive)


@pytest.mark.parametrize("response", [2, 3])
def test_program_that_cannot_be_read(response):
    bench = ControllerBench()
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
    bench = ControllerBench(stalls=lambda: iter([True] * 10**6))

    async def drive(ctx):
        result = await bench.run(ctx, GOOD, watchdog=50)
        assert result.error == (Cause.WATCHDOG, FETCH, 0)
        assert 100 <= result.measured <= 110

    bench.simulate(drive)


def test_engine_that_hangs_is_given_up():
    bench = ControllerBench(duration=lambda pc: 10**6 if pc == 1 else 2)

    async def drive(ctx):
        result = await bench.run(ctx, GOOD, watchdog=60)
        assert result.error == (Cause.WATCHDOG, Engine.TENSOR, 1)

    bench.simulate(drive)


def test_progress_input_holds_off_the_watchdog():
    bench = ControllerBench(duration=lambda pc: 60)

    async def drive(ctx):
        ctx.set(bench.dut.progress, 1)
        assert (await bench.run(ctx, GOOD[:2], watchdog=20)).error == (0, 0, 0)
        ctx.set(bench.dut.progress, 0)
        assert (await bench.run(ctx, GOOD[:2], watchdog=20)).error == (Cause.WATCHDOG, Engine.LOAD, 0)

    bench.simulate(drive)

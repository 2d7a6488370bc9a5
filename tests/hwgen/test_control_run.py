"""Run control and counters, cycle by cycle."""

import random

import pytest

from hwgen.arch.isa import Cause, Engine, mask_of
from hwgen.arch.registers import TensorState
from hwgen.control.counters import Counters
from hwgen.control.run import RunControl
from tests.support import simulate

FAULT = {"cause": Cause.SCRATCHPAD_RANGE, "engine": 2, "pc": 77}
STUCK = {"cause": Cause.NONE, "engine": 1, "pc": 5}


def run_control(scenario) -> None:
    dut = RunControl()

    async def drive(ctx):
        ctx.set(dut.fault, FAULT)
        ctx.set(dut.stuck, STUCK)
        await scenario(ctx, dut)

    simulate(dut, drive, limit=3000)


async def start(ctx, dut) -> None:
    """Leaves the bench in the first cycle of the run."""
    ctx.set(dut.start, 1)
    await ctx.tick()
    ctx.set(dut.start, 0)
    assert ctx.get(dut.running)


def first(ctx, dut) -> tuple[int, int, int]:
    fault = ctx.get(dut.first)
    return fault.cause, fault.engine, fault.pc


def test_run_ends_in_the_cycle_in_which_it_is_complete():
    async def scenario(ctx, dut):
        for _ in range(3):
            await start(ctx, dut)
            for _ in range(4):
                assert not ctx.get(dut.done)
                await ctx.tick()
            ctx.set(dut.complete, 1)
            assert ctx.get(dut.done)
            await ctx.tick()
            assert not ctx.get(dut.running)
            assert not ctx.get(dut.done)
            assert first(ctx, dut) == (0, 0, 0)
            ctx.set(dut.complete, 0)

    run_control(scenario)


def test_first_error_is_kept_and_the_run_ends_when_quiet():
    async def scenario(ctx, dut):
        for _ in range(2):
            await start(ctx, dut)
            ctx.set(dut.fault_valid, 1)
            ctx.set(dut.complete, 1)
            assert not ctx.get(dut.done), "an error goes before completion"
            await ctx.tick()
            assert ctx.get(dut.stop)
            ctx.set(dut.fault, {"cause": Cause.BAD_FIELD, "engine": 0, "pc": 1})
            for _ in range(5):
                assert not ctx.get(dut.done)
                await ctx.tick()
            ctx.set(dut.quiet, 1)
            assert ctx.get(dut.done)
            await ctx.tick()
            assert not ctx.get(dut.running)
            assert ctx.get(dut.stop), "what is left in queues must not start"
            assert first(ctx, dut) == tuple(FAULT.values())
            ctx.set(dut.fault_valid, 0)
            ctx.set(dut.complete, 0)
            ctx.set(dut.quiet, 0)
            ctx.set(dut.fault, FAULT)
            await start(ctx, dut)
            assert not ctx.get(dut.stop)
            assert first(ctx, dut) == (0, 0, 0)
            ctx.set(dut.complete, 1)
            await ctx.tick()
            ctx.set(dut.complete, 0)

    run_control(scenario)


@pytest.mark.parametrize("limit", [1, 7, 20])
def test_watchdog_counts_cycles_without_progress(limit):
    async def scenario(ctx, dut):
        ctx.set(dut.watchdog, limit)
        await start(ctx, dut)
        ctx.set(dut.progress, 1)
        for _ in range(3 * limit):
            await ctx.tick()
        for _ in range(3):
            ctx.set(dut.progress, 0)
            for _ in range(limit - 1):
                await ctx.tick()
                assert not ctx.get(dut.stop)
            ctx.set(dut.progress, 1)
            await ctx.tick()
        ctx.set(dut.progress, 0)
        for _ in range(limit + 1):
            assert not ctx.get(dut.stop)
            await ctx.tick()
        assert ctx.get(dut.stop)
        assert first(ctx, dut) == (Cause.WATCHDOG, 1, 5)
        for _ in range(limit):
            assert not ctx.get(dut.done), "transfers get as much time again"
            await ctx.tick()
        assert ctx.get(dut.done)
        await ctx.tick()
        assert not ctx.get(dut.running)

    run_control(scenario)


def test_progress_after_an_error_holds_off_the_forced_end():
    async def scenario(ctx, dut):
        ctx.set(dut.watchdog, 5)
        await start(ctx, dut)
        ctx.set(dut.fault_valid, 1)
        await ctx.tick()
        ctx.set(dut.progress, 1)
        for _ in range(50):
            assert not ctx.get(dut.done)
            await ctx.tick()
        ctx.set(dut.quiet, 1)
        assert ctx.get(dut.done)

    run_control(scenario)


def test_watchdog_of_zero_waits_for_ever():
    async def scenario(ctx, dut):
        await start(ctx, dut)
        for _ in range(1000):
            assert not ctx.get(dut.stop)
            await ctx.tick()

    run_control(scenario)


def test_counters_equal_counts(seed):
    source, dut = random.Random(seed), Counters()
    expected = dict.fromkeys(dut.counts.shape().members, 0)

    def shown(state, waiting):
        if state == TensorState.IDLE and waiting & mask_of((Engine.LOAD, Engine.STORE, Engine.FILL, Engine.ATTEND)):
            return TensorState.MEMORY
        return TensorState.TOKENS if state == TensorState.IDLE and waiting >> Engine.VECTOR & 1 else state

    async def drive(ctx):
        for cycle in range(1200):
            running, clear = source.random() < 0.8, cycle in (300, 301)
            busy, state = source.getrandbits(len(Engine)), source.choice(list(TensorState))
            waiting = source.choice([0, source.getrandbits(len(Engine)) & ~(1 << Engine.TENSOR)])
            beats = {"read_beat": source.getrandbits(3), "write_beat": source.getrandbits(2)}
            inputs = {
                "running": running,
                "clear": clear,
                "busy": busy,
                "tensor_state": state,
                "waiting": waiting,
                **beats,
            }
            for name, value in inputs.items():
                ctx.set(getattr(dut, name), value)
            if clear:
                expected.update(dict.fromkeys(expected, 0))
            elif running:
                counted = {"cycles", f"tensor_{shown(state, waiting).name.lower()}"}
                counted |= {f"busy_{engine.name.lower()}" for engine in Engine if busy >> engine & 1}
                for name in counted:
                    expected[name] += 1
                for name, value in beats.items():
                    expected[name + "s"] += value.bit_count()
            await ctx.tick()
            counts = ctx.get(dut.counts)
            assert {name: counts[name] for name in expected} == expected, f"cycle {cycle}"
        assert sum(expected[f"tensor_{state.name.lower()}"] for state in TensorState) == expected["cycles"]

    simulate(dut, drive)

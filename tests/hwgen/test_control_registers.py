# amaranth: UnusedElaboratable=no
"""Register file against the register table, and the ap_ctrl_hs handshake seen by a host."""

import random

import pytest

from hwgen.arch.registers import REGISTERS, Access, register
from hwgen.control.registers import RegisterFile
from hwgen.control.words import Report
from tests.hwgen.control_support import LiteHost
from tests.support import simulate

HASH = 0x89ABCDEF
CTRL, GIE, IER, ISR = (register(name).offset for name in ("CTRL", "GIE", "IER", "ISR"))
START, DONE, IDLE, READY = 1, 2, 4, 8
MASKS = {"GIE": 1, "IER": 1, "PROGRAM_LOW": ~0, "PROGRAM_HIGH": ~0, "COUNT": ~0, "WATCHDOG": ~0}
"""Bits that keep what the host writes; of all other registers none does."""


def run_host(scenario, *, slow: int = 0, seed: int = 0, idle: int = 1) -> None:
    """Run `await scenario(ctx, dut, host)` on a fresh register file, whose controller accepts every start."""
    dut = RegisterFile(arch_hash=HASH)

    async def accept(ctx):
        while True:
            _, _, start = await ctx.tick().sample(dut.run.start)
            if start:
                assert ctx.get(dut.run.idle), "a start during a run"
                ctx.set(dut.run.idle, 0)

    async def drive(ctx):
        ctx.set(dut.run.idle, idle)
        await ctx.tick()
        await scenario(ctx, dut, LiteHost(dut.bus, slow=slow, seed=seed))

    simulate(dut, drive, background=[accept], limit=20_000)


def reset_value(item) -> int:
    return HASH if item.name == "ARCH_HASH" else item.reset


def test_every_register_after_reset():
    async def scenario(ctx, dut, host):
        for item in REGISTERS:
            assert await host.read(ctx, item.offset) == reset_value(item), item.name

    run_host(scenario)


@pytest.mark.parametrize("slow", [0, 4])
def test_every_register_keeps_what_the_table_says(seed, slow):
    source = random.Random(seed)
    expected = {item.name: reset_value(item) for item in REGISTERS}

    async def scenario(ctx, dut, host):
        for _ in range(120):
            item = source.choice([item for item in REGISTERS if item.name != "CTRL"])
            value, strobes = source.getrandbits(32), source.choice([15, source.getrandbits(4)])
            await host.write(ctx, item.offset, value, strobes)
            mask = MASKS.get(item.name, 0) & sum(0xFF << 8 * byte for byte in range(4) if strobes >> byte & 1)
            expected[item.name] = expected[item.name] & ~mask | value & mask
            for other in (item, source.choice(REGISTERS)):
                assert await host.read(ctx, other.offset) == expected[other.name], f"{other.name} after {item.name}"
        settings = ctx.get(dut.run.settings)
        for name in ("program_low", "program_high", "count", "watchdog"):
            assert settings[name] == expected[name.upper()], name

    run_host(scenario, slow=slow, seed=seed)


def test_unknown_offsets_read_zero_and_change_nothing():
    known = {item.offset for item in REGISTERS}

    async def scenario(ctx, dut, host):
        for offset in [*range(0, 0x120, 4), 0x800, 0xFFC]:
            if offset not in known:
                assert await host.read(ctx, register("ID").offset) != 0
                await host.write(ctx, offset, 0xFFFFFFFF)
                assert await host.read(ctx, offset) == 0, f"{offset:#x}"
        for item in REGISTERS:
            assert await host.read(ctx, item.offset) == reset_value(item), item.name

    run_host(scenario)


def test_low_address_bits_are_ignored():
    async def scenario(ctx, dut, host):
        await host.write(ctx, register("COUNT").offset + 2, 77)
        assert await host.read(ctx, register("COUNT").offset + 3) == 77

    run_host(scenario)


def test_report_is_what_the_host_reads(seed):
    source = random.Random(seed)
    names = [item.name for item in REGISTERS if item.access == Access.READ_ONLY and item.reset == 0][:-1]
    values = {name: source.getrandbits(32) for name in names}

    async def scenario(ctx, dut, host):
        for name, value in values.items():
            if name == "STATUS":
                ctx.set(dut.run.report.status, {"cause": value & 0xFF, "engine": value >> 8 & 0xFF})
            else:
                ctx.set(dut.run.report[name.lower()], value)
        for name, value in values.items():
            assert await host.read(ctx, register(name).offset) == (value & 0xFFFF if name == "STATUS" else value), name

    assert {name.lower() for name in names} == set(Report().members)
    run_host(scenario)


async def finish(ctx, dut) -> None:
    """What the controller does in the last cycle of a run."""
    ctx.set(dut.run.done, 1)
    await ctx.tick()
    ctx.set(dut.run.done, 0)
    ctx.set(dut.run.idle, 1)


async def begin(ctx, dut, host) -> None:
    """Start through the bus; `run_host` answers as the controller does."""
    await host.write(ctx, CTRL, START)
    await ctx.tick()
    assert not ctx.get(dut.run.idle)


def test_handshake_of_two_runs():
    async def scenario(ctx, dut, host):
        assert await host.read(ctx, CTRL) == IDLE | READY
        await begin(ctx, dut, host)
        assert await host.read(ctx, CTRL) == 0
        await finish(ctx, dut)
        assert await host.read(ctx, CTRL) == DONE | IDLE | READY
        assert await host.read(ctx, CTRL) == IDLE | READY, "ap_done is cleared by reading"
        await begin(ctx, dut, host)
        await finish(ctx, dut)
        await begin(ctx, dut, host)
        assert await host.read(ctx, CTRL) == 0, "ap_done of the run before is cleared by a start"

    run_host(scenario)


def test_start_is_taken_in_the_cycle_after_the_write():
    async def scenario(ctx, dut, host):
        starts = []
        ctx.set(dut.bus.aw.payload, CTRL)
        ctx.set(dut.bus.w.payload, {"data": START, "strb": 1})
        for cycle in range(6):
            ctx.set(dut.bus.aw.valid, cycle == 0)
            ctx.set(dut.bus.w.valid, cycle == 0)
            starts.append(ctx.get(dut.run.start))
            await ctx.tick()
        assert starts == [0, 0, 1, 0, 0, 0]

    run_host(scenario)


def test_start_during_a_run_is_ignored():
    async def scenario(ctx, dut, host):
        await host.write(ctx, CTRL, START)
        assert await host.read(ctx, CTRL) == 0
        ctx.set(dut.run.idle, 1)  # the run ends
        for _ in range(5):
            assert not ctx.get(dut.run.start)
            await ctx.tick()

    run_host(scenario, idle=0)


def test_start_written_in_the_last_cycle_of_a_run_is_ignored_and_done_is_kept():
    async def scenario(ctx, dut, host):
        ctx.set(dut.bus.aw.payload, CTRL)
        ctx.set(dut.bus.w.payload, {"data": START, "strb": 15})
        ctx.set(dut.bus.b.ready, 1)
        for cycle in range(3):
            ctx.set(dut.bus.aw.valid, cycle == 0)
            ctx.set(dut.bus.w.valid, cycle == 0)
            ctx.set(dut.run.done, cycle == 1)
            ctx.set(dut.run.idle, cycle == 2)
            assert not ctx.get(dut.run.start)
            await ctx.tick()
        assert await host.read(ctx, CTRL) == DONE | IDLE | READY

    run_host(scenario, idle=0)


def test_start_needs_its_byte_strobe_and_bit():
    async def scenario(ctx, dut, host):
        for value, strobes in ((START, 14), (~START & 0xFFFFFFFF, 15)):
            await host.write(ctx, CTRL, value, strobes)
            for _ in range(4):
                assert not ctx.get(dut.run.start)
                await ctx.tick()
        assert await host.read(ctx, CTRL) == IDLE | READY

    run_host(scenario)


def test_done_in_the_cycle_of_a_read_is_not_lost():
    async def scenario(ctx, dut, host):
        ctx.set(dut.bus.ar.payload, CTRL)
        ctx.set(dut.bus.ar.valid, 1)
        ctx.set(dut.bus.r.ready, 1)
        ctx.set(dut.run.done, 1)
        await ctx.tick()
        ctx.set(dut.run.done, 0)
        ctx.set(dut.bus.ar.valid, 0)
        ctx.set(dut.run.idle, 1)
        await ctx.tick()
        assert await host.read(ctx, CTRL) == DONE | IDLE | READY

    run_host(scenario, idle=0)


@pytest.mark.parametrize("gie", [0, 1])
@pytest.mark.parametrize("ier", [0, 1])
def test_interrupt_needs_both_enables_and_is_cleared_by_writing_one(gie, ier):
    async def scenario(ctx, dut, host):
        await host.write(ctx, GIE, gie)
        await host.write(ctx, IER, ier)
        await begin(ctx, dut, host)
        assert not ctx.get(dut.interrupt)
        await finish(ctx, dut)
        assert ctx.get(dut.interrupt) == (gie & ier)
        assert await host.read(ctx, ISR) == 1
        await host.write(ctx, ISR, 0)
        await host.write(ctx, ISR, 1, 14)
        assert await host.read(ctx, ISR) == 1, "only a written 1 clears"
        await host.write(ctx, ISR, 1)
        await ctx.tick()
        assert not ctx.get(dut.interrupt)
        assert await host.read(ctx, ISR) == 0

    run_host(scenario)


def test_back_to_back_reads_take_one_cycle_each():
    dut = RegisterFile(arch_hash=HASH)
    seen = []

    async def drive(ctx):
        ctx.set(dut.bus.ar.payload, register("ID").offset)
        ctx.set(dut.bus.ar.valid, 1)
        ctx.set(dut.bus.r.ready, 1)
        for _ in range(8):
            assert ctx.get(dut.bus.ar.ready)
            seen.append((ctx.get(dut.bus.r.valid), ctx.get(dut.bus.r.p.data)))
            await ctx.tick()
        assert seen == [(0, 0)] * dut.READ_LATENCY + [(1, 0x53504C4D)] * (8 - dut.READ_LATENCY)

    simulate(dut, drive)


@pytest.mark.parametrize("value", [-1, 1 << 32])
def test_hash_that_does_not_fit_is_refused(value):
    with pytest.raises(ValueError, match=rf"^Architecture hash must be in 0\.\.2\*\*32-1, not {value}$"):
        RegisterFile(arch_hash=value)

"""The whole command processor: order, tokens, counters, and programs that a host starts over the bus."""

import dataclasses
import random
from collections.abc import Sequence
from functools import partial

import pytest
from amaranth.hdl import Elaboratable, Module
from amaranth.lib import wiring

from hwgen.arch import arch_from_dict
from hwgen.arch.commands import command
from hwgen.arch.isa import TABLE, Cause, Engine, Opcode
from hwgen.arch.registers import FETCH, TensorState, register
from hwgen.control.arbiter import ReadArbiter
from hwgen.control.control import Controller
from hwgen.control.registers import RegisterFile
from tests.hwgen.control_bench import BASE, BITS, GOOD, ControllerBench, bad_bytes, check_order
from tests.hwgen.control_support import FakeEngine, LiteHost, ProgramMemory, assemble, random_duration, wide_arch
from tests.support import at_random, simulate


def many_tokens(data_bits: int):
    """An architecture whose token counters no test program overflows by accident."""
    data = dataclasses.asdict(wide_arch(data_bits))
    data["control"]["token_bits"] = 8
    return arch_from_dict(data)


def random_program(source: random.Random, count: int, present: Sequence[Engine]) -> list:
    """Legal in program order: a token is waited for only after an earlier instruction has given it."""
    given = {(a, b): 0 for a in present for b in present}
    program = []
    for _ in range(count):
        row = TABLE[source.choice([opcode for opcode, row in TABLE.items() if row.engine in present])]
        me, wait, signal = row.engine, 0, 0
        for other in present:
            if other != me and given[other, me] and source.random() < 0.7:
                given[other, me] -= 1
                wait |= 1 << other
            if other != me and source.random() < 0.4:
                given[me, other] += 1
                signal |= 1 << other
        operands = {item.name: source.randint(item.low, item.limit) for item in row.operands}
        program.append(command(row.opcode, wait=wait, signal=signal, **operands))
    return program


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("width", [64, 256, 1024])
def test_random_programs_keep_their_order(seed, width, depth):
    source = random.Random(seed + width + depth)
    bench = ControllerBench(
        arch=many_tokens(width), stalls=at_random(seed, 0.2), duration=random_duration(seed, 1, 12), depth=depth
    )

    async def drive(ctx):
        for count in (1, 30, 15):
            program = random_program(source, count, [item.engine for item in bench.engines])
            result = await bench.run(ctx, program)
            assert result.error == (0, 0, 0)
            assert result.cycles_low == result.measured
            check_order(program, bench.engines)

    bench.simulate(drive)


def test_a_token_starts_the_next_engine_in_the_following_cycle():
    bench = ControllerBench(duration=lambda pc: 30)
    program = [
        command(Opcode.LOAD, signal=BITS[Engine.TENSOR]),
        command(Opcode.TENSOR, wait=BITS[Engine.LOAD], signal=BITS[Engine.VECTOR]),
        command(Opcode.VECTOR, wait=BITS[Engine.TENSOR], signal=BITS[Engine.STORE]),
        command(Opcode.STORE, wait=BITS[Engine.VECTOR]),
    ]

    async def drive(ctx):
        await bench.run(ctx, program)
        chain = bench.engines[: Engine.FILL]
        ends = [engine.ended[0][1] for engine in chain]
        starts = [engine.started[0][1] for engine in chain]
        assert starts[1:] == [end + 1 for end in ends[:-1]]

    bench.simulate(drive)


def test_empty_program_takes_one_cycle():
    bench = ControllerBench()

    async def drive(ctx):
        for _ in range(2):
            result = await bench.run(ctx, b"")
            assert (result.error, result.cycles_low, result.measured) == ((0, 0, 0), 1, 1)
        assert not bench.memory.bursts

    bench.simulate(drive)


def test_counters_of_a_run():
    bench = ControllerBench(duration=lambda pc: 17)
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


class Accelerator(Elaboratable):
    """Register file, controller and read arbiter as the top level connects them; the load engine asks for nothing."""

    def __init__(self, arch) -> None:
        self.registers, self.controller, self.arbiter = (
            RegisterFile(arch_hash=1),
            Controller(arch=arch),
            ReadArbiter(arch=arch),
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules += [self.registers, self.controller, self.arbiter]
        wiring.connect(m, self.registers.run, self.controller.run)
        wiring.connect(m, self.controller.program, self.arbiter.fetch)
        return m


def test_host_runs_programs_over_the_bus():
    arch = wide_arch(256)
    dut, memory = Accelerator(arch), ProgramMemory(arch)
    host = LiteHost(dut.registers.bus, slow=2)
    memory.place(BASE, assemble(GOOD))
    memory.place(2 * BASE, bad_bytes(5, 0, 0))
    engines = [FakeEngine(engine, lambda pc: 4) for engine in Engine]

    async def run(ctx, address: int) -> dict[str, int]:
        for name, value in (("PROGRAM_LOW", address), ("COUNT", len(GOOD)), ("GIE", 1), ("IER", 1), ("CTRL", 1)):
            await host.write(ctx, register(name).offset, value)
        while not ctx.get(dut.registers.interrupt):
            await ctx.tick()
        await host.write(ctx, register("ISR").offset, 1)
        return {
            name: await host.read(ctx, register(name).offset) for name in ("CTRL", "STATUS", "ERROR_PC", "BUSY_LOAD")
        }

    async def drive(ctx):
        for _ in range(2):
            good = await run(ctx, BASE)
            assert good == {"CTRL": 0xE, "STATUS": 0, "ERROR_PC": 0, "BUSY_LOAD": 3 * 5}
            bad = await run(ctx, 2 * BASE)
            assert (bad["STATUS"], bad["ERROR_PC"]) == (Cause.BAD_OPCODE | FETCH << 8, 5)

    background = [partial(memory.serve, port=dut.arbiter.bus)]
    background += [partial(item.serve, port=dut.controller.engines[item.engine]) for item in engines]
    simulate(dut, drive, background=background, limit=3000)

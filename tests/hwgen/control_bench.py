"""A whole controller in its surroundings, and programs for it."""

from functools import partial
from types import SimpleNamespace

from hwgen.arch.commands import command, encode
from hwgen.arch.isa import Engine, Opcode, engines
from hwgen.control.control import Controller
from tests.hwgen.control_support import FakeEngine, ProgramMemory, assemble, wide_arch
from tests.support import never, simulate

BASE = 0x10000
BITS = {engine: 1 << engine for engine in Engine}


GOOD = [
    command(Opcode.LOAD, signal=BITS[Engine.TENSOR] | BITS[Engine.STORE]),
    command(Opcode.TENSOR, wait=BITS[Engine.LOAD], signal=BITS[Engine.VECTOR]),
    command(Opcode.VECTOR, wait=BITS[Engine.TENSOR]),
    command(Opcode.STORE, wait=BITS[Engine.LOAD], signal=BITS[Engine.FILL]),
    command(Opcode.FILL, wait=BITS[Engine.STORE], signal=BITS[Engine.ATTEND]),
    command(Opcode.ATTEND, wait=BITS[Engine.FILL]),
] * 3


def bad_bytes(pc: int, at: int, value: int) -> bytes:
    """GOOD with one byte of one instruction replaced."""
    image = bytearray(assemble(GOOD))
    image[32 * pc + at] = value
    return bytes(image)


class ControllerBench:
    """A controller in its surroundings; `await run(...)` executes a program and returns the host's report."""

    def __init__(self, *, arch=None, stalls=never, duration=lambda pc: 3, depth: int = 1) -> None:
        self.arch = arch or wide_arch(256)
        self.dut = Controller(arch=self.arch)
        self.memory = ProgramMemory(self.arch, stalls=stalls)
        self.engines = [FakeEngine(engine, duration, depth) for engine in engines(self.arch)]

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

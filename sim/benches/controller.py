"""Command processor: every engine gets its instructions in order, none before its tokens; errors stop the run."""

import random
from collections import Counter

import cocotb

from hwgen.arch import INSTRUCTION_BYTES
from hwgen.arch.commands import command, encode
from hwgen.arch.isa import Cause, Engine, Opcode, engines
from hwgen.arch.registers import FETCH
from hwgen.control.words import Report, Settings
from hwgen.lib.shapes import CommandLayout, ErrorLayout
from models.machine import commands
from models.memory import Memory
from sim.benches.designs import bench_arch
from sim.benches.memories import AxiMemory, read_channels
from sim.random.programs import random_program
from sim.scoreboard import Scoreboard
from sim.streams import STALL_CASES, Actor, Bench, Channel, MakeStalls, Monitor, Word, stalls

LIMIT = 60_000
PROGRAM = 0x1000
WATCHDOG = 2000


class StandIn(Actor):
    """An engine that only takes time, one instruction after the other; instruction `fault` ends with an error."""

    def __init__(self, bench: "ControllerBench", engine: Engine, make_stalls: MakeStalls, longest: int) -> None:
        self._bench, self.engine, self._stalls, self._longest = bench, engine, make_stalls(), longest
        self._source = random.Random(cocotb.RANDOM_SEED + engine)
        self.scoreboard = Scoreboard(f"{engine.name} instruction")
        self.started: list[int] = []
        self.fault, self.busy_cycles = -1, 0
        self._left, self._pc, self._busy, self._failed = 0, 0, False, False
        self._ended: int | None = None
        self._port = lambda name: getattr(bench.dut, f"engines__{engine:d}__{name}")
        channel = Channel.packed(bench.dut, f"engines__{engine:d}__command", CommandLayout())
        self._monitor = Monitor(engine.name, channel, self._take, lambda: bool(int(self._port("stop").value)))
        for name in ("busy", "done", "error_valid", "command__ready"):
            self._port(name).value = 0

    def sample(self, cycle: int) -> None:
        """Take a command; count the cycles in which the port was busy."""
        self.busy_cycles += self._busy
        self._monitor.sample(cycle)

    def _take(self, item, cycle: int) -> None:
        assert not self._failed, f"{self.engine.name}: a command after an error"
        self.scoreboard.see((item.pc, item.opcode, item.operands), cycle)
        self._bench.take_tokens(item.pc)
        self.started.append(cycle)
        self._pc, self._left = item.pc, self._source.randint(1, self._longest)

    def drive(self, cycle: int) -> None:
        """Go on with the instruction; what ended in the cycle before has given its tokens now."""
        if self._ended is not None:
            self._bench.give_tokens(self._ended)
        self._busy = self._left > 0
        self._left -= self._busy
        ended = self._busy and self._left == 0
        failed = ended and self._pc == self.fault
        self._ended = self._pc if ended and not failed else None
        self._failed |= failed
        self._port("busy").value = int(self._busy)
        self._port("done").value = int(self._ended is not None)
        self._port("error_valid").value = int(failed)
        self._port("error").value = Word(ErrorLayout()).pack(cause=Cause.READ_RESPONSE, pc=self._pc)
        self._port("command__ready").value = int(not (self._left or self._failed or next(self._stalls)))


class ControllerBench(Bench):
    """Program memory in front, the engines behind; tokens are counted and instructions decoded beside it."""

    def __init__(self, dut, inputs: str, outputs: str, longest: int = 12) -> None:
        super().__init__(dut)
        self.arch = bench_arch()
        to_design, from_design = stalls(inputs, cocotb.RANDOM_SEED), stalls(outputs, cocotb.RANDOM_SEED + 1)
        self.memory = AxiMemory(self.arch, Memory(1), to_design=to_design, from_design=from_design, on_read=self.read)
        self.engines = [StandIn(self, engine, from_design, longest) for engine in engines(self.arch)]
        self.program: list = []
        self.tokens: Counter = Counter()
        self.count = self.beats = self.running = 0
        self.received, self.read_beat, self.ended = b"", False, False
        self.actors = [*self.memory.serve_read(*read_channels(dut, "program", self.arch)), *self.engines, _Run(self)]

    def read(self, address: int, data: int, cycle: int) -> None:
        """The input monitor: a beat of the program; complete instructions are expected at their engines."""
        assert address == PROGRAM + self.beats * self.arch.beat_bytes, f"{address:#x} is read out of order"
        self.beats, self.read_beat = self.beats + 1, True
        self.received += data.to_bytes(self.arch.beat_bytes, "little")
        while len(self.received) >= INSTRUCTION_BYTES:
            word, self.received = self.received[:INSTRUCTION_BYTES], self.received[INSTRUCTION_BYTES:]
            if len(self.program) < self.count and word[0]:
                item = next(commands(word, self.arch))
                operands = int.from_bytes(word, "little") >> 32
                self.engines[item.engine].scoreboard.expect((len(self.program), item.opcode, operands))
                self.program.append(item)

    def take_tokens(self, pc: int) -> None:
        item = self.program[pc]
        for source in Engine:
            if item.wait >> source & 1:
                assert self.tokens[source, item.engine], f"instruction {pc} started without a token of {source.name}"
                self.tokens[source, item.engine] -= 1

    def give_tokens(self, pc: int) -> None:
        item = self.program[pc]
        self.tokens.update((item.engine, target) for target in Engine if item.signal >> target & 1)

    async def execute(self, program: bytes):
        """Run a program; returns the report."""
        self.memory.contents = Memory({PROGRAM: program + bytes(0x1000)})
        self.count = len(program) // INSTRUCTION_BYTES
        await self.start()
        settings = {"program_low": PROGRAM, "count": self.count, "watchdog": WATCHDOG}
        self.dut.run__settings.value = Word(Settings()).pack(**settings)
        self.dut.run__start.value = 1
        await self.run(lambda: True, limit=1)
        self.dut.run__start.value = 0
        await self.run(lambda: self.ended, limit=LIMIT)
        await self.settle()
        assert self.memory.idle
        return Word(Report()).unpack(int(self.dut.run__report.value))


class _Run(Actor):
    """Notes the end of the run, counts its cycles, and tells the design of the beats on the memory port."""

    def __init__(self, bench: ControllerBench) -> None:
        self._bench = bench

    def sample(self, cycle: int) -> None:
        self._bench.running += int(self._bench.dut.running.value)
        self._bench.ended |= bool(int(self._bench.dut.run__done.value))

    def drive(self, cycle: int) -> None:
        self._bench.dut.read_beat.value = int(self._bench.read_beat)
        self._bench.read_beat = False


@cocotb.test()
@cocotb.parametrize((("inputs", "outputs"), STALL_CASES))
async def random_programs_reach_their_engines(dut, inputs, outputs):
    bench = ControllerBench(dut, inputs, outputs)
    program = random_program(bench.arch, cocotb.RANDOM_SEED, jobs=30)
    report = await bench.execute(program.encoded)
    assert (report.status.cause, report.cycles_low) == (Cause.NONE, bench.running)
    assert report.read_beats == bench.beats
    for engine in bench.engines:
        engine.scoreboard.finish(least=0)
        assert getattr(report, f"busy_{engine.engine.name.lower()}") == engine.busy_cycles
    assert sum(engine.scoreboard.matched for engine in bench.engines) == len(program.commands)


@cocotb.test()
async def an_instruction_for_every_32_bytes_of_beats(dut):
    bench = ControllerBench(dut, "never", "never", longest=1)
    await bench.execute(encode(command(Opcode.VECTOR, words=1, rows=1)) * 60)
    beats = INSTRUCTION_BYTES // bench.arch.beat_bytes
    started = bench.engines[Engine.VECTOR].started
    assert started == list(range(started[0], started[0] + 60 * beats, beats))


@cocotb.test()
@cocotb.parametrize(outputs=["never", "random"])
async def an_error_stops_all_engines(dut, outputs):
    bench = ControllerBench(dut, "never", outputs)
    program = random_program(bench.arch, cocotb.RANDOM_SEED, jobs=30)
    loads = [pc for pc, item in enumerate(program.commands) if item.engine is Engine.LOAD]
    bench.engines[Engine.LOAD].fault = loads[len(loads) // 2]
    report = await bench.execute(program.encoded)
    status = report.status
    assert (status.cause, status.engine, report.error_pc) == (Cause.READ_RESPONSE, Engine.LOAD, loads[len(loads) // 2])
    assert bench.engines[Engine.LOAD].scoreboard.matched == len(loads) // 2 + 1


@cocotb.test()
async def an_unknown_opcode_is_reported_for_the_fetch(dut):
    bench = ControllerBench(dut, "random", "random")
    report = await bench.execute(encode(command(Opcode.VECTOR)) * 5 + bytes(INSTRUCTION_BYTES))
    assert (report.status.cause, report.status.engine, report.error_pc) == (Cause.BAD_OPCODE, FETCH, 5)

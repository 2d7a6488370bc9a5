"""Store engine: every beat written, in order, is the one that the golden machine writes there."""

import cocotb

from hwgen.arch.commands import command, decode
from hwgen.arch.isa import Engine, Format, Opcode
from models.machine import Machine
from models.memory import Memory
from sim.benches.designs import bench_arch
from sim.benches.engine import EngineBench, program_with, random_sums, stored_beats
from sim.benches.memories import AccReader, AxiMemory, write_channels
from sim.streams import STALL_CASES, stalls

LIMIT = 60_000


class StoreBench(EngineBench):
    """Accumulator words in front of the engine, external memory behind it, the golden machine beside it.

    `inputs` stalls commands, reads of words and B; `outputs` AW and W. `beats` has the cycle of every beat.
    """

    def __init__(self, dut, memory: dict, inputs: str, outputs: str) -> None:
        to_design, from_design = stalls(inputs, cocotb.RANDOM_SEED), stalls(outputs, cocotb.RANDOM_SEED + 1)
        super().__init__(dut, to_design, "stored beat")
        self.machine = Machine(self.arch, memory)
        self.machine.state.acc[:] = random_sums(self.arch, cocotb.RANDOM_SEED)
        self.beats: list[int] = []
        self.memory = AxiMemory(
            self.arch, Memory(memory), to_design=to_design, from_design=from_design, on_write=self.written
        )
        self.add(AccReader(dut, "acc", self.machine.state.acc, to_design))
        self.add(*self.memory.serve_write(*write_channels(dut, "write", self.arch)))

    def model(self, instruction: bytes) -> None:
        self.machine.run(instruction)
        for beat in stored_beats(self.machine, decode(instruction)):
            self.scoreboard.expect(beat)

    def written(self, address: int, data: int, cycle: int) -> None:
        self.scoreboard.see((address, data), cycle)
        self.beats.append(cycle)

    async def check(self, commands) -> None:
        await self.start()
        await self.execute(commands, limit=LIMIT)
        assert self.memory.idle


@cocotb.test()
@cocotb.parametrize((("inputs", "outputs"), STALL_CASES))
async def random_stores_equal_golden(dut, inputs, outputs):
    program, commands = program_with(bench_arch(), Engine.STORE, cocotb.RANDOM_SEED, 5)
    await StoreBench(dut, {program.base: program.image}, inputs, outputs).check(commands)


@cocotb.test()
@cocotb.parametrize(wide=[0, 1])
async def one_beat_a_cycle(dut, wide):
    form = Format.FP32 if wide else Format.OPERAND
    bench = StoreBench(dut, {0: bytes(0x4000)}, "never", "never")
    await bench.check([command(Opcode.STORE, format=form, lanes=3, words=200, dram_addr=0x100)])
    assert bench.beats == list(range(bench.beats[0], bench.beats[0] + 200 * (1 + wide)))

"""Load engine: after every LOAD the scratchpads hold what the golden machine holds."""

import cocotb

from hwgen.arch.commands import command
from hwgen.arch.isa import Engine, Opcode, Target
from hwgen.lib.shapes import LoadBeat
from models.machine import Machine
from models.machine_state import State
from models.memory import Memory
from sim.benches.designs import bench_arch
from sim.benches.engine import EngineBench, apply_beat, program_with, scratchpads
from sim.benches.memories import AxiMemory, read_channels
from sim.streams import STALL_CASES, Channel, Monitor, Sink, stalls

LIMIT = 60_000
BEATS = 300


class LoadBench(EngineBench):
    """External memory in front of the engine, scratchpads behind it, the golden machine beside it.

    `beats` has the cycle of every beat on the output.
    """

    def __init__(self, dut, memory: dict, inputs: str, outputs: str, latency: int = 10) -> None:
        to_design, from_design = stalls(inputs, cocotb.RANDOM_SEED), stalls(outputs, cocotb.RANDOM_SEED + 1)
        super().__init__(dut, to_design, "scratchpads after LOAD")
        self.machine = Machine(self.arch, memory)
        self.loaded = State(self.arch, Memory(0x1000))
        self.beats: list[int] = []
        self.memory = AxiMemory(
            self.arch, Memory(memory), to_design=to_design, from_design=from_design, latency=latency
        )
        beats = Channel.packed(dut, "beats", LoadBeat(self.arch))
        self.add(*self.memory.serve_read(*read_channels(dut, "read", self.arch)))
        self.add(Monitor("beats", beats, self.beat), Sink(beats, from_design))

    def model(self, instruction: bytes) -> None:
        self.machine.run(instruction)
        self.scoreboard.expect(scratchpads(self.machine.state))

    def ended(self, cycle: int) -> None:
        self.scoreboard.see(scratchpads(self.loaded), cycle)

    def beat(self, item, cycle: int) -> None:
        apply_beat(self.loaded, item)
        self.beats.append(cycle)

    async def check(self, commands) -> None:
        await self.start()
        await self.execute(commands, limit=LIMIT)
        assert self.memory.idle


@cocotb.test()
@cocotb.parametrize((("inputs", "outputs"), STALL_CASES))
async def random_loads_equal_golden(dut, inputs, outputs):
    program, commands = program_with(bench_arch(), Engine.LOAD, cocotb.RANDOM_SEED, 12)
    bench = LoadBench(dut, {program.base: program.image}, inputs, outputs)
    await bench.check(commands)


@cocotb.test()
@cocotb.parametrize(target=[Target.ACT_ROWS, Target.WGT, Target.IDX, Target.ACC32])
async def one_beat_a_cycle(dut, target):
    shape = {"rows": BEATS // 3, "beats": 3} if target == Target.ACT_ROWS else {"rows": 1, "beats": BEATS}
    item = command(Opcode.LOAD, target=target, stride=4, row_stride=3 * bench_arch().beat_bytes, **shape)
    bench = LoadBench(dut, {0: bytes(range(256)) * 64}, "never", "never", latency=2)
    await bench.check([item])
    # From the command: address after 4 cycles, the memory's latency, 1 cycle to the output.
    first = bench.taken[0] + 4 + 2 + 1
    assert bench.beats == list(range(first, first + BEATS))

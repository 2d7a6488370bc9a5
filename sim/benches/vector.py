"""Vector engine: every word written, in order, is the one that the golden machine writes there."""

import cocotb
from cocotb.triggers import RisingEdge

from hwgen.arch.commands import command, decode
from hwgen.arch.isa import INTEGER, Engine, Opcode, Operation
from hwgen.vector.curve import CurveWrite
from hwgen.vector.engine import VectorEngine
from models.machine import Machine
from sim.benches.designs import bench_arch
from sim.benches.engine import EngineBench, program_with, random_sums, written_words
from sim.benches.memories import AccReader, AccWriter
from sim.streams import STALL_CASES, stalls

LIMIT = 60_000


class VectorBench(EngineBench):
    """Accumulator words around the engine of an architecture with `vector.words` = 1, the golden machine beside it.

    `inputs` stalls commands and reads, `outputs` the writes. `writes` has the cycle of every word.
    """

    def __init__(self, dut, inputs: str, outputs: str) -> None:
        to_design, from_design = stalls(inputs, cocotb.RANDOM_SEED), stalls(outputs, cocotb.RANDOM_SEED + 1)
        super().__init__(dut, to_design, "written word")
        self.machine = Machine(self.arch, 0x1000)
        self.machine.state.acc[:] = random_sums(self.arch, cocotb.RANDOM_SEED)
        self.words = self.machine.state.acc.copy()
        self.machine.state.curve[:] = random_sums(self.arch, cocotb.RANDOM_SEED).reshape(-1, 2)[
            : len(self.machine.state.curve)
        ]
        self.writes: list[int] = []
        self.add(*(AccReader(dut, f"{name}__0", self.words, to_design) for name in "xyz"))
        self.add(*AccWriter(dut, "d__0", self.words, from_design, self.written).actors)

    def model(self, instruction: bytes) -> None:
        self.machine.run(instruction)
        item = decode(instruction)
        block = {"addr": item.d_addr, "stride": item.d_stride, "rows": item.rows, "words": item.words}
        for word in written_words(self.machine.state, **block):
            self.scoreboard.expect(word)

    def written(self, address: int, word: int, cycle: int) -> None:
        self.scoreboard.see((address, word), cycle)
        self.writes.append(cycle)

    async def fill_table(self) -> None:
        """Write the golden machine's curves, an entry a cycle."""
        for address, (slope, offset) in enumerate(self.machine.state.curve.tolist()):
            entry = {"enable": 1, "address": address, "entry": {"slope": slope, "offset": offset}}
            self.dut.curve.value = CurveWrite().const(entry).as_value().value
            await RisingEdge(self.dut.clk)
        self.dut.curve.value = 0

    async def check(self, commands) -> None:
        await self.start()
        await self.fill_table()
        await self.execute(commands, limit=LIMIT)
        assert (self.words == self.machine.state.acc).all()


@cocotb.test()
@cocotb.parametrize((("inputs", "outputs"), STALL_CASES))
async def random_vectors_equal_golden(dut, inputs, outputs):
    _, commands = program_with(bench_arch(), Engine.VECTOR, cocotb.RANDOM_SEED, 5)
    await VectorBench(dut, inputs, outputs).check(commands)


@cocotb.test()
@cocotb.parametrize(operation=[Operation.COPY, Operation.ADD, Operation.MAC, Operation.XOR])
async def one_word_a_cycle(dut, operation):
    blocks = {"x_stride": 20, "y_addr": 200, "z_addr": 400, "z_hold": 1, "d_addr": 600, "d_stride": 20}
    bench = VectorBench(dut, "never", "never")
    await bench.check([command(Opcode.VECTOR, operation=operation, rows=5, words=20, relu=1, shuffle=1, **blocks)])
    latency = VectorEngine(bench.arch).latency
    assert bench.writes == list(range(bench.writes[0], bench.writes[0] + 100))
    assert bench.writes[0] == bench.taken[0] + 1 + latency


@cocotb.test()
@cocotb.parametrize((("inputs", "outputs"), STALL_CASES))
async def every_operation_equals_golden(dut, inputs, outputs):
    """Rows of 5 words in other places for each; y is shuffled and, for integers, shifted."""
    commands = []
    for index, operation in enumerate(Operation):
        blocks = {f"{name}_addr": 150 * place + index for place, name in enumerate("xyz")}
        blocks |= {"x_stride": 5, "y_stride": 7, "y_hold": index % 2, "d_addr": 500 + 30 * index, "d_stride": 6}
        if operation is Operation.CURVE:
            blocks |= {"y_addr": 0, "y_stride": 64}
        fields = {"shift": 9, "right": index % 2} if operation in INTEGER else {}
        fields |= {"relu": index % 3 == 0, "shuffle": index % 3}
        commands.append(command(Opcode.VECTOR, operation=operation, rows=3, words=5, **blocks, **fields))
    await VectorBench(dut, inputs, outputs).check(commands)

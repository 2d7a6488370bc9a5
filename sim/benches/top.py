"""The accelerator: every beat that it writes to memory, in order, is the one that the golden machine writes there."""

from collections import deque

import cocotb

from hwgen.arch import INSTRUCTION_BYTES, Arch
from hwgen.arch.commands import Command, command, decode, encode
from hwgen.arch.isa import TABLE, Cause, Engine, Format, Opcode, Target, load_opcode
from hwgen.arch.registers import MAGIC, REGISTERS, register
from models.machine import Machine
from models.memory import Memory
from sim.benches.designs import bench_arch
from sim.benches.engine import stored_beats
from sim.benches.memories import AxiMemory
from sim.random.programs import random_program
from sim.scoreboard import Scoreboard
from sim.streams import STALL_CASES, Bench, Channel, Monitor, Sink, Source, stalls

LIMIT = 200_000
BEATS = 300
CHANNELS = {
    "ar": ("addr", "len", "id"),
    "r": ("data", "resp", "last", "id"),
    "aw": ("addr", "len"),
    "w": ("data", "last"),
    "b": ("resp",),
}
"""Fields of the memory port; that of FILL has the first two channels."""


def zeros(arch: Arch) -> list[Command]:
    """Loads of zeros into every word of every scratchpad: what they hold after power-up."""
    array, pads = arch.array, arch.scratchpads
    accumulators = load_opcode(arch, Target.ACC16)
    loads = [
        command(Opcode.LOAD, target=Target.ACT_ROWS, rows=array.rows, pad=pads.act_depth),
        command(Opcode.LOAD, target=Target.WGT, pad=pads.wgt_depth * array.lanes),
        command(Opcode.LOAD, target=Target.IDX, pad=pads.wgt_depth * array.lanes // 4),
        command(accumulators, target=Target.ACC16, pad=pads.acc_depth),
    ]
    entries = arch.vector.curve_entries
    return [*loads, command(Opcode.LOAD, target=Target.CURVE, pad=entries)] if entries else loads


class Host:
    """AXI4-Lite master on the register port; `on_write(name, value)` sees every register that the design has taken."""

    def __init__(self, bench: Bench, to_design, from_design, on_write) -> None:
        self._bench, self._on_write = bench, on_write
        port = {
            name: Channel.flat(bench.dut, f"s_axi_control_{name}", fields)
            for name, fields in {"aw": ["addr"], "w": ["data", "strb"], "b": ["resp"], "ar": ["addr"]}.items()
        }
        port["r"] = Channel.flat(bench.dut, "s_axi_control_r", ["data", "resp"])
        self._sources = {name: Source(port[name], to_design) for name in ("aw", "w", "ar")}
        self._addresses: deque[int] = deque()
        self._data: deque[int] = deque()
        self._answers: dict[str, deque] = {"b": deque(), "r": deque()}
        self.actors = [
            Monitor("lite AW", port["aw"], lambda item, cycle: self._written(self._addresses, item.addr)),
            Monitor("lite W", port["w"], lambda item, cycle: self._written(self._data, item.data)),
            *(Monitor(f"lite {name}", port[name], self._answer(name)) for name in ("b", "r")),
            *(Sink(port[name], from_design) for name in ("b", "r")),
            *self._sources.values(),
        ]

    def _answer(self, name: str):
        return lambda item, cycle: self._answers[name].append(item)

    def _written(self, queue: deque[int], value: int) -> None:
        queue.append(value)
        if self._addresses and self._data:
            offset = self._addresses.popleft()
            name = next(item.name for item in REGISTERS if item.offset == offset)
            self._on_write(name, self._data.popleft())

    async def _wait(self, name: str):
        await self._bench.run(lambda: bool(self._answers[name]), limit=LIMIT)
        answer = self._answers[name].popleft()
        assert answer.resp == 0, f"the register port answers {answer.resp}"
        return answer

    async def write(self, name: str, value: int) -> None:
        """Write a register and wait for the answer."""
        self._sources["aw"].send(addr=register(name).offset)
        self._sources["w"].send(data=value, strb=0xF)
        await self._wait("b")

    async def read(self, name: str) -> int:
        """Read a register."""
        self._sources["ar"].send(addr=register(name).offset)
        return (await self._wait("r")).data


class TopBench(Bench):
    """Host and external memory around the accelerator, the golden machine beside it.

    The model follows the register writes: a start executes the program in memory. `reads` and `writes` have the cycles
    of beats on the memory port.
    """

    def __init__(self, dut, inputs: str, outputs: str, latency: int = 10) -> None:
        super().__init__(dut)
        self.arch = bench_arch()
        to_design, from_design = stalls(inputs, cocotb.RANDOM_SEED), stalls(outputs, cocotb.RANDOM_SEED + 1)
        self.machine = Machine(self.arch, 1)
        self.scoreboard = Scoreboard("beat written to memory")
        self.registers: dict[str, int] = {}
        self.reads: list[int] = []
        self.writes: list[int] = []
        settings = {"to_design": to_design, "from_design": from_design, "latency": latency}
        self.memory = AxiMemory(
            self.arch,
            Memory(1),
            **settings,
            outstanding=2 * self.arch.memory.outstanding,
            on_read=lambda address, data, cycle: self.reads.append(cycle),
            on_write=self.written,
        )
        self.host = Host(self, to_design, from_design, self.register_written)
        port = {name: Channel.flat(dut, f"m_axi_gmem_{name}", fields) for name, fields in CHANNELS.items()}
        self.actors = [
            *self.memory.serve_read(port["ar"], port["r"]),
            *self.memory.serve_write(port["aw"], port["w"], port["b"]),
            *self.host.actors,
        ]
        self.memories = [self.memory]
        if self.arch.memory.ports == 2:
            fill = {name: Channel.flat(dut, f"m_axi_fill_{name}", CHANNELS[name]) for name in ("ar", "r")}
            on_read = self.memory.on_read
            self.memories.append(AxiMemory(self.arch, Memory(1), **settings, on_read=on_read))
            self.actors += self.memories[1].serve_read(fill["ar"], fill["r"])

    def register_written(self, name: str, value: int) -> None:
        self.registers[name] = value
        if name == "CTRL" and value & 1:
            address = self.registers["PROGRAM_LOW"] | self.registers["PROGRAM_HIGH"] << 32
            size = self.registers["COUNT"] * INSTRUCTION_BYTES
            self.model(self.machine.memory.read(address, size))

    def model(self, program: bytes) -> None:
        for start in range(0, len(program), INSTRUCTION_BYTES):
            word = program[start : start + INSTRUCTION_BYTES]
            self.machine.run(word)
            item = decode(word)
            for beat in stored_beats(self.machine, item) if item.opcode is Opcode.STORE else ():
                self.scoreboard.expect(beat)

    def written(self, address: int, data: int, cycle: int) -> None:
        self.scoreboard.see((address, data), cycle)
        self.writes.append(cycle)

    async def execute(self, contents: dict, program: int, count: int) -> None:
        """Run the program at address `program` with new memory contents and check how it ends."""
        self.memory.contents, self.machine.state.memory = Memory(contents), Memory(contents)
        for memory in self.memories:
            memory.contents = self.memory.contents
        settings = {"PROGRAM_LOW": program & 0xFFFFFFFF, "PROGRAM_HIGH": program >> 32, "COUNT": count, "ISR": 1}
        for name, value in (settings | {"GIE": 1, "IER": 1, "CTRL": 1}).items():
            await self.host.write(name, value)
        await self.run(lambda: bool(int(self.dut.interrupt.value)), limit=LIMIT)
        await self.settle()
        assert await self.host.read("STATUS") == Cause.NONE
        assert await self.host.read("CTRL") & 2, "ap_done is not set"
        self.scoreboard.finish(least=0)
        assert all(memory.idle for memory in self.memories)
        for base, image in contents.items():
            assert self.memory.contents.read(base, len(image)) == self.machine.memory.read(base, len(image))

    async def power_up(self) -> None:
        """Reset, then fill the scratchpads with the zeros of a power-up, which reset does not do."""
        await self.start()
        assert await self.host.read("ID") == MAGIC
        loads = zeros(self.arch)
        await self.execute({0: b"".join(map(encode, loads)) + bytes(0x1000)}, 0, len(loads))


@cocotb.test()
@cocotb.parametrize((("inputs", "outputs"), STALL_CASES))
async def random_programs_equal_golden(dut, inputs, outputs):
    bench = TopBench(dut, inputs, outputs)
    await bench.power_up()
    for number in range(2):
        program = random_program(bench.arch, cocotb.RANDOM_SEED + number)
        await bench.execute({program.base: program.image}, program.program, len(program.commands))
        assert await bench.host.read("READ_BEATS") >= len(program.commands)
    bench.scoreboard.finish()


@cocotb.test()
async def a_beat_in_every_cycle_each_way(dut):
    bench = TopBench(dut, "never", "never", latency=2)
    await bench.power_up()
    bench.reads.clear()
    load = load_opcode(bench.arch, Target.ACC16)
    after_load = {"lanes": bench.arch.array.cols, "wait": 1 << TABLE[load].engine}
    program = [
        command(load, target=Target.ACC16, beats=BEATS, dram_addr=0x1000, signal=1 << Engine.STORE),
        command(Opcode.STORE, format=Format.FP32, words=BEATS, dram_addr=0x4000, **after_load),
    ]
    image = b"".join(map(encode, program)).ljust(0x1000, b"\0") + bytes(range(256)) * 64
    await bench.execute({0: image + bytes(0x8000)}, 0, len(program))
    assert bench.reads[-1] - bench.reads[-BEATS] == BEATS - 1
    assert bench.writes[-1] - bench.writes[0] == len(bench.writes) - 1 == 2 * BEATS - 1

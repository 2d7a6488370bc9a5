"""What the benches of the four engines share: programs, the command side of an engine, scratchpads on both sides."""

from collections import deque
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np

from hwgen.arch import INSTRUCTION_BYTES, Arch
from hwgen.arch.commands import Command, encode
from hwgen.arch.isa import Engine, Target
from hwgen.lib.shapes import CommandLayout
from models.formats import widen
from models.machine import Machine
from models.machine_output import stored_shape
from models.machine_state import State
from sim.benches.designs import bench_arch
from sim.random.data import fp32_bytes
from sim.random.programs import RandomProgram, random_program
from sim.scoreboard import Scoreboard
from sim.streams import Actor, Bench, Channel, MakeStalls, Monitor, Source

HEADER_BITS = 32


def program_with(arch: Arch, engine: Engine, seed: int, least: int) -> tuple[RandomProgram, list[Command]]:
    """A random program with at least `least` instructions for an engine, and those instructions."""
    while True:
        program = random_program(arch, seed, jobs=8)
        commands = [item for item in program.commands if item.engine == engine]
        if len(commands) >= least:
            return program, commands
        seed += 1


def random_sums(arch: Arch, seed: int) -> np.ndarray:
    """FP32 bits for the accumulator scratchpad, corner values among them: uint32 `[acc_depth, C]`."""
    shape = (arch.scratchpads.acc_depth, arch.array.cols)
    return fp32_bytes(np.random.default_rng(seed), shape[0] * shape[1], 0.1).view("<u4").reshape(shape).copy()


class EngineBench(Bench):
    """Drives the command side of an engine; the bench of each engine adds the rest.

    A bench overrides `model`, which gets the 32 bytes of every command that is taken and tells the scoreboard what to
    expect, and perhaps `ended`. When an instruction ends, all that it makes must have been seen.
    `taken` and `done` hold the cycles of commands and of their ends. An error is a failure of the bench.
    """

    def __init__(self, dut: object, make_stalls: MakeStalls, expected: str) -> None:
        super().__init__(dut)
        self.arch = bench_arch()
        self.scoreboard = Scoreboard(expected)
        self.taken: list[int] = []
        self.done: list[int] = []
        self._due: deque[int] = deque()
        channel = Channel.packed(dut, "control__command", CommandLayout())
        self._driver = Source(channel, make_stalls)
        self._command_side = [Monitor("command", channel, self._command), self._driver, _End(self)]
        self.actors = [*self._command_side]

    def model(self, instruction: bytes) -> None:
        """Execute an instruction and say what the engine must make of it."""

    def ended(self, cycle: int) -> None:
        """An instruction has ended."""

    def add(self, *actors: Actor) -> None:
        """Append actors that sample before the command side does: `done` comes with the last result, or after it."""
        self.actors[-len(self._command_side) : -len(self._command_side)] = actors

    async def execute(self, commands: list[Command], *, limit: int) -> None:
        """Run commands to the end of the last one; check that the engine comes to rest and that nothing is missing."""
        for pc, item in enumerate(commands):
            word = int.from_bytes(encode(item), "little")
            self._driver.send(pc=pc, opcode=item.opcode, operands=word >> HEADER_BITS)
        await self.run(lambda: len(self.done) == len(commands), limit=limit)
        await self.settle()
        assert len(self.done) == len(self.taken) == len(commands), f"{len(self.done)} ends of {len(commands)} commands"
        assert not int(self.dut.control__busy.value), "the engine is busy after its last command"
        self.scoreboard.finish()

    def _command(self, item: SimpleNamespace, cycle: int) -> None:
        assert item.pc == len(self.taken), f"command {item.pc} is taken after {len(self.taken)} others"
        self.taken.append(cycle)
        self.model((item.operands << HEADER_BITS | item.opcode).to_bytes(INSTRUCTION_BYTES, "little"))
        self._due.append(self.scoreboard.matched + self.scoreboard.waiting)

    def end(self, cycle: int) -> None:
        """Called in the cycle of `done`."""
        self.done.append(cycle)
        self.ended(cycle)
        missing = self._due.popleft() - self.scoreboard.matched
        assert missing <= 0, f"instruction {len(self.done) - 1} ends in cycle {cycle}, {missing} results before time"


class _End(Actor):
    """Notes when instructions end."""

    def __init__(self, bench: EngineBench) -> None:
        self._bench, self._dut = bench, bench.dut

    def sample(self, cycle: int) -> None:
        dut = self._dut
        assert not int(dut.control__error_valid.value), f"cycle {cycle}: error {int(dut.control__error.value):#x}"
        if int(dut.control__done.value):
            self._bench.end(cycle)


def written_words(state: State, *, addr: int, stride: int, rows: int, words: int) -> Iterator[tuple[int, int]]:
    """Address and content of the accumulator words of a block, row by row."""
    for y, x in np.ndindex(rows, words):
        address = addr + y * stride + x
        yield address, int.from_bytes(state.acc[address].tobytes(), "little")


def stored_beats(machine: Machine, item: Command) -> list[tuple[int, int]]:
    """Address and content of the beats of a STORE that the golden machine has just executed, in order."""
    arch = machine.arch
    rows, beats = stored_shape(item, arch.array)
    starts = [item.dram_addr + p * item.plane_stride for p in range(item.planes)]
    places = [
        start + y * item.row_stride + x * arch.beat_bytes for start in starts for y in range(rows) for x in range(beats)
    ]
    return [(place, int.from_bytes(machine.memory.read(place, arch.beat_bytes), "little")) for place in places]


def scratchpads(state: State) -> dict[str, np.ndarray]:
    """A copy of what the scratchpads hold, by name."""
    return {name: getattr(state, name).copy() for name in ("act", "wgt", "idx", "acc", "curve")}


def apply_beat(state: State, beat: SimpleNamespace) -> None:
    """Write a beat where `LoadBeat` says that it goes."""
    array = state.arch.array
    data = np.frombuffer(beat.data.to_bytes(state.arch.beat_bytes, "little"), np.uint8)
    values = data.view("<u2")
    match Target(beat.target):
        case Target.ACT_ROWS | Target.ACT_CHUNKS if beat.whole:
            state.act[beat.bank, beat.address * array.cols :][: array.cols] = values
        case Target.ACT_ROWS | Target.ACT_CHUNKS:
            size = 1 << beat.chunk_log2
            place = beat.address * array.cols + beat.position
            for number, chunk in enumerate(values.reshape(-1, size)[: array.rows - beat.bank]):
                state.act[beat.bank + number, place : place + size] = chunk
        case Target.WGT:
            state.wgt[beat.address, beat.part] = values
        case Target.IDX:
            words = np.stack([data & 15, data >> 4], axis=-1).reshape(-1, array.lanes, array.cols)
            state.idx[beat.address + beat.step * np.arange(len(words))] = words
        case Target.ACC32:
            half = array.cols // 2
            state.acc[beat.address, beat.part * half :][:half] = data.view("<u4")
        case Target.ACC16:
            state.acc[beat.address] = widen(values, array.operand)
        case Target.CURVE:
            state.curve[beat.address] = data[:8].view("<u4")


def state_beats(state: State) -> Iterator[dict[str, int]]:
    """Beats that bring activations, weights and indices of a golden state into the tensor engine."""
    arch, array = state.arch, state.arch.array
    words = state.act.reshape(array.rows, -1, array.cols)
    for bank, address in np.ndindex(words.shape[:2]):
        yield _beat(Target.ACT_ROWS, address, words[bank, address], bank=bank, whole=1)
    for address, lane in np.ndindex(state.wgt.shape[:2]):
        yield _beat(Target.WGT, address, state.wgt[address, lane], part=lane)
    nibbles = state.idx.reshape(-1, 2 * arch.beat_bytes)
    for number, row in enumerate(nibbles[:, 0::2] | nibbles[:, 1::2] << 4):
        yield _beat(Target.IDX, number * 4 // array.lanes, row, step=1)


def _beat(target: Target, address: int, data: np.ndarray, **fields: int) -> dict[str, int]:
    value = int.from_bytes(data.tobytes(), "little")
    return {"target": int(target), "address": address, "data": value, **fields}

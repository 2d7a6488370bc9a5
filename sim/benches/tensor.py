"""Tensor engine: every word written, in order, is the one that the golden machine writes there.

Its accumulator ports are never refused, so that only its inputs can stall.
"""

import cocotb
import numpy as np

from hwgen.arch.commands import Command, command, decode
from hwgen.arch.isa import Dataflow, Engine, Opcode, Walk
from hwgen.arch.registers import TensorState
from hwgen.lib.shapes import LoadBeat
from models.accesses import scratchpad_accesses
from models.machine import Machine
from sim.benches.designs import bench_arch
from sim.benches.engine import EngineBench, apply_beat, program_with, random_sums, state_beats, written_words
from sim.benches.memories import AccReader, AccWriter
from sim.random.data import operand_bytes
from sim.streams import Actor, Channel, Monitor, Source, stall_cases, stalls

LIMIT = 60_000
INPUT_CASES = stall_cases(("never", "never"), ("every_fourth", "random"), ("random", "never"), ("long", "every_fourth"))
"""Stalls of commands and of beats."""


class TensorBench(EngineBench):
    """Beats in front of the engine, accumulator words behind it, the golden machine beside it.

    `states` has the state of the engine in every cycle.
    """

    def __init__(self, dut, inputs: str, beats: str) -> None:
        super().__init__(dut, stalls(inputs, cocotb.RANDOM_SEED), "written word")
        self.machine = Machine(self.arch, 0x1000)
        self.machine.state.acc[:] = random_sums(self.arch, cocotb.RANDOM_SEED)
        self.words = self.machine.state.acc.copy()
        self.states: list[int] = []
        self.beats = 0
        channel = Channel.packed(dut, "beats", LoadBeat(self.arch))
        self.loader = Source(channel, stalls(beats, cocotb.RANDOM_SEED + 1))
        never = stalls("never", 0)
        self.add(AccReader(dut, "acc_read", self.words, None), _StateWatch(self), self.loader)
        self.add(*AccWriter(dut, "acc_write", self.words, never, self.written).actors)
        self.add(Monitor("beats", channel, lambda beat, cycle: apply_beat(self.machine.state, beat)))

    def model(self, instruction: bytes) -> None:
        self.beats += self.machine.run(instruction).beats
        item = decode(instruction)
        block = {"addr": item.acc_addr, "stride": item.acc_stride, "rows": item.rows, "words": item.tile_cols}
        for word in written_words(self.machine.state, **block) if item.last else ():
            self.scoreboard.expect(word)

    def written(self, address: int, word: int, cycle: int) -> None:
        self.scoreboard.see((address, word), cycle)

    async def check(self, commands: list[Command]) -> None:
        """Load random scratchpads beat by beat, then run the commands on them."""
        await self.start()
        for beat in state_beats(random_operands(self.arch, commands)):
            self.loader.send(**beat)
        await self.run(lambda: self.loader.empty, limit=LIMIT)
        await self.execute(commands, limit=LIMIT)
        assert self.states.count(TensorState.BUSY) == self.beats


class _StateWatch(Actor):
    """Keeps the state of every cycle."""

    def __init__(self, bench: TensorBench) -> None:
        self._bench, self._port = bench, bench.dut.state

    def sample(self, cycle: int) -> None:
        self._bench.states.append(int(self._port.value))


def random_operands(arch, commands: list[Command]):
    """A golden state with random activations, weights and indices that are legal for the commands."""
    state, rng = Machine(arch, 0x1000).state, np.random.default_rng(cocotb.RANDOM_SEED)
    for words in (state.act, state.wgt):
        words[:] = operand_bytes(rng, words.size, arch.array.operand, 0.01).view("<u2").reshape(words.shape)
    state.idx[:] = rng.integers(0, 16, state.idx.shape)
    for item in commands:
        for access in scratchpad_accesses(item, arch):
            if access.memory == "idx":
                state.idx[access.words] = np.minimum(state.idx[access.words], item.m - 1)
    return state


def tiles(dataflow: Dataflow) -> list[Command]:
    """Tiles that the engine can run back to back; output stationary, each has another walk."""
    array = bench_arch().array
    cols = min(array.chain_latency + 1, array.interleave_max)
    shape = {"dataflow": dataflow, "first": 1, "last": 1, "tile_cols": cols, "tile_rows": 1, "acc_stride": cols}
    if dataflow is Dataflow.OUTPUT_STATIONARY:
        shape |= {"groups": 4 * array.rows, "rows": array.rows}
    else:
        shape |= {"groups": array.rows, "rows": 100}
    walks = [Walk.NONE, Walk.ACT, Walk.WGT, Walk.NONE] if dataflow is Dataflow.OUTPUT_STATIONARY else [Walk.NONE] * 4
    steps = {"run": 3, "jump": 2, "step": 2, "col_step": 5, "col_run": 2, "col_jump": 7}
    return [
        command(Opcode.TENSOR, wgt_addr=64 * number, acc_addr=4 * number, walk=walk, **shape, **steps)
        for number, walk in enumerate(walks)
    ]


@cocotb.test()
@cocotb.parametrize((("inputs", "beats"), INPUT_CASES))
async def random_tiles_equal_golden(dut, inputs, beats):
    _, commands = program_with(bench_arch(), Engine.TENSOR, cocotb.RANDOM_SEED, 8)
    await TensorBench(dut, inputs, beats).check(commands)


@cocotb.test()
@cocotb.parametrize(dataflow=list(Dataflow))
async def tiles_follow_without_a_gap(dut, dataflow):
    bench = TensorBench(dut, "never", "never")
    await bench.check(tiles(dataflow))
    busy = [cycle for cycle, state in enumerate(bench.states) if state == TensorState.BUSY]
    assert busy[-1] - busy[0] + 1 == len(busy)

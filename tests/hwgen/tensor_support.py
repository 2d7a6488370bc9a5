"""The tensor engine alone, Verilated, with an accumulator memory beside it; scratchpads are loaded beat by beat."""

from dataclasses import dataclass, field

import numpy as np
from amaranth.hdl import Module
from amaranth.lib import fifo, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch import Arch
from hwgen.arch.commands import Command, encode
from hwgen.arch.isa import Cause, Target
from hwgen.arch.registers import TensorState
from hwgen.array.engine import TensorEngine
from hwgen.emit import emit_verilog
from hwgen.lib.shapes import CommandLayout, LoadBeat
from hwgen.memory.acc import AccScratchpad
from models.machine_state import State
from sim.block import Block

QUEUE = 64
"""Commands that a bench takes before it must run."""


class TensorBench(wiring.Component):
    """Tensor engine, command queue and accumulator scratchpad."""

    def __init__(self, arch: Arch) -> None:
        self.arch = arch
        self.inputs = {
            "beat": LoadBeat(arch).size,
            "beat_valid": 1,
            "command": CommandLayout().size,
            "command_valid": 1,
            "go": 1,
            "host": 1,
            "host_address": 20,
            "host_write": 1,
            "host_data": 32 * arch.array.cols,
        }
        self.outputs = {"data": 32 * arch.array.cols, "done": 1, "state": 4, "busy": 1, "error_valid": 1, "error": 28}
        super().__init__({n: In(w) for n, w in self.inputs.items()} | {n: Out(w) for n, w in self.outputs.items()})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.engine = engine = TensorEngine(arch=self.arch)
        m.submodules.queue = queue = fifo.SyncFIFO(width=CommandLayout().size, depth=QUEUE)
        m.submodules.acc = acc = AccScratchpad(self.arch)
        wiring.connect(m, engine.acc_read, acc.read_tensor)
        wiring.connect(m, engine.acc_write, acc.write_tensor)
        if self.arch.array.drain == 2:
            wiring.connect(m, engine.acc_write_odd, acc.write_tensor_odd)
        m.d.comb += [
            engine.beats.payload.eq(self.beat),
            engine.beats.valid.eq(self.beat_valid),
            queue.w_data.eq(self.command),
            queue.w_en.eq(self.command_valid),
            engine.control.command.payload.eq(queue.r_data),
            engine.control.command.valid.eq(queue.r_rdy & self.go),
            queue.r_en.eq(engine.control.command.ready & self.go),
            acc.read_store.valid.eq(self.host),
            acc.read_store.address.eq(self.host_address),
            acc.write_load.valid.eq(self.host & self.host_write),
            acc.write_load.address.eq(self.host_address),
            acc.write_load.data.eq(self.host_data),
            acc.write_load.halves.eq(0b11),
            self.data.eq(acc.read_store.data),
            self.done.eq(engine.control.done),
            self.state.eq(engine.state),
            self.busy.eq(engine.control.busy),
            self.error_valid.eq(engine.control.error_valid),
            self.error.eq(engine.control.error),
        ]
        return m


@dataclass
class Run:
    """What the engine did, from the first command to the last result."""

    cycles: int
    states: dict[TensorState, int] = field(default_factory=dict)
    trace: np.ndarray | None = None


class Bench:
    """Loads a golden state into the hardware, runs commands, reads the accumulators back."""

    def __init__(self, arch: Arch) -> None:
        self.arch = arch
        self.component = TensorBench(arch)
        self.block = Block(
            [emit_verilog(self.component, "bench")],
            top="bench",
            inputs={"rst": 1} | self.component.inputs,
            outputs=self.component.outputs,
            clock="clk",
        )

    def rows(self, cycles: int, **values: np.ndarray) -> np.ndarray:
        """Input rows of `cycles` cycles; values are [cycles] or [cycles, words]."""
        parts = []
        for name, width in ({"rst": 1} | self.component.inputs).items():
            words = np.zeros((cycles, (width + 31) // 32), np.uint32)
            if name in values:
                words[:] = np.asarray(values[name], np.uint32).reshape(cycles, -1)
            parts.append(words)
        return np.concatenate(parts, axis=1)

    def reset(self) -> None:
        self.block.run(self.rows(4, rst=np.ones(4)))

    def load(self, state: State) -> None:
        """Write act, wgt, idx through LOAD beats and acc directly."""
        beats = list(self._beats(state))
        packed = np.stack([self._words(bits, self.component.inputs["beat"]) for bits in beats])
        self.block.run(self.rows(len(beats), beat=packed, beat_valid=packed.any(axis=1)))
        depth = self.arch.scratchpads.acc_depth
        everything = {"host": np.ones(depth), "host_write": np.ones(depth), "host_address": np.arange(depth)}
        self.block.run(self.rows(depth, host_data=state.acc, **everything))

    def run(self, commands: list[Command], limit: int) -> Run:
        """Run commands to the end; fails if that takes more than `limit` cycles."""
        out = self._execute(commands, limit)
        done, state, busy = out[:, -5], out[:, -4], out[:, -3]
        assert out[:, -2].sum() == 0, f"error {out[out[:, -2] != 0][0, -1]:#x}"
        assert done.sum() == len(commands), f"{done.sum()} of {len(commands)} tiles ended in {limit} cycles"
        assert not busy[-1]
        first = int(np.flatnonzero(state)[0])
        last = int(np.flatnonzero(done)[-1])
        counts = np.bincount(state[first:last], minlength=len(TensorState))
        return Run(last - first, {s: int(counts[s]) for s in TensorState if counts[s]}, state[first:last])

    def run_to_error(self, commands: list[Command], limit: int) -> tuple[Cause, int]:
        """Run commands of which one is bad; returns cause and index, and checks that the engine comes to rest."""
        out = self._execute(commands, limit)
        errors = np.flatnonzero(out[:, -2])
        assert len(errors) == 1, f"{len(errors)} errors reported"
        assert not out[-1, -3], "the engine is still busy"
        error = int(out[errors[0], -1])
        cause_bits = max(Cause).bit_length()
        return Cause(error & (1 << cause_bits) - 1), error >> cause_bits

    def _execute(self, commands: list[Command], limit: int) -> np.ndarray:
        words = []
        for pc, item in enumerate(commands):
            bits = int.from_bytes(encode(item), "little")
            words.append(self._words(pc | (bits & 0xFF) << 24 | (bits >> 32) << 32, self.component.inputs["command"]))
        self.block.run(self.rows(len(words), command=np.stack(words), command_valid=np.ones(len(words))))
        return self.block.run(self.rows(limit, go=np.ones(limit)))

    def accumulators(self) -> np.ndarray:
        """Contents of the accumulator memory, uint32 [depth, cols]."""
        depth = self.arch.scratchpads.acc_depth
        addresses = np.minimum(np.arange(depth + 2), depth - 1)
        out = self.block.run(self.rows(depth + 2, host=np.ones(depth + 2), host_address=addresses))
        return out[2:, : self.arch.array.cols].copy()

    def _words(self, bits: int, width: int) -> np.ndarray:
        return np.frombuffer(bits.to_bytes((width + 31) // 32 * 4, "little"), np.uint32)

    def _beats(self, state: State) -> list[int]:
        array, pads = self.arch.array, self.arch.scratchpads
        layout = LoadBeat(self.arch)
        words = state.act.reshape(array.rows, pads.act_depth, array.cols)
        for bank, address in np.ndindex(words.shape[:2]):
            yield self._beat(layout, Target.ACT_ROWS, address, words[bank, address].tobytes(), bank=bank, whole=1)
        for address, lane in np.ndindex(state.wgt.shape[:2]):
            yield self._beat(layout, Target.WGT, address, state.wgt[address, lane].tobytes(), part=lane)
        per_beat = 4 // array.lanes
        nibbles = state.idx.reshape(pads.wgt_depth // per_beat, -1)
        packed = nibbles[:, 0::2] | nibbles[:, 1::2] << 4
        for number in range(len(packed)):
            yield self._beat(layout, Target.IDX, number * per_beat, packed[number].tobytes(), step=1)
            yield from [0] * (per_beat - 1)  # cycles without a beat, while the words are written one by one

    @staticmethod
    def _beat(layout: LoadBeat, target: Target, address: int, data: bytes, **values: int) -> int:
        fields = {"target": target, "address": address, "data": int.from_bytes(data, "little")} | values
        return sum(int(value) << layout[name].offset for name, value in fields.items())

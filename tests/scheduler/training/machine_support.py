"""Recorded instructions on the golden machine: memory images of features and weights, and what comes back."""

import numpy as np
import torch

from hwgen.arch import Arch, arch_from_dict, load
from hwgen.arch.commands import encode
from models.formats import decode
from models.formats import encode as encode_operands
from models.machine import Machine
from scheduler.training.graph.ir import Kind, Tensor
from scheduler.training.kernels.curves import CURVES, Place, table
from scheduler.training.kernels.emitter import Block, Emitter, Feature
from scheduler.training.memory import MemoryMap, Row
from scheduler.training.schedule.order import ListScheduler, durations
from tests.scheduler.support import used

TINY = load("tiny")


def arch8() -> Arch:
    """8 x 8, big enough scratchpads for real layers."""
    return arch_from_dict(
        {
            "name": "eight",
            "array": {"rows": 8, "cols": 8},
            "scratchpads": {"act_depth": 512, "wgt_depth": 4096, "acc_depth": 4096, "acc_banks": 4},
            "memory": {"data_bits": 128},
        }
    )


class Bench:
    """An emitter with its memory, run on the golden machine in recorded or in scheduled order."""

    def __init__(self, arch: Arch = TINY) -> None:
        self.arch, self.em, self.memory = arch, Emitter(arch), MemoryMap(arch)
        self.contents: list[tuple[int, bytes]] = []

    def feature(self, name: str, values: np.ndarray | torch.Tensor | None = None, shape: tuple = ()) -> Feature:
        """A feature map with values [N, H, W, C], or zeros of a shape."""
        values = None if values is None else np.asarray(values, np.float32)
        feature = self.memory.feature(Tensor(name, shape or values.shape, Kind.ACTIVATION), "tensor")
        if values is not None:
            width = feature.words * self.arch.array.cols
            filled = np.pad(values, [(0, 0)] * 3 + [(0, width - values.shape[3])])
            self.contents.append((feature.address, encode_operands(filled, self.arch.array.operand).tobytes()))
        return feature

    def kept_row(self, name: str, values: np.ndarray) -> Block:
        """A channel vector of FP32 values, loaded into a kept block."""
        row = self.memory.row(name, len(values), "row")
        filled = np.zeros(row.words * self.arch.array.cols, np.float32)
        filled[: len(values)] = values
        self.contents.append((row.address, filled.tobytes()))
        return self.em.load_block(self.em.keep(1, row.words), row.address, 0, row.region, wide=True)

    def place_curve(self, name: str) -> None:
        """Make a curve the only one that kernels may use."""
        curve = CURVES[name]
        address, unit = self.memory.curve(name, curve.size)
        self.em.curves.places[name] = Place(curve, 0, address, unit)
        beats = np.zeros((curve.size, self.arch.beat_bytes // 4), np.float32)
        beats[:, :2] = table(name)
        self.contents.append((address, beats.tobytes()))

    def code(self, *, scheduled: bool = False) -> bytes:
        """Everything recorded so far, encoded."""
        recorder = self.em.recorder
        commands = recorder.commands
        if scheduled:
            order = ListScheduler(recorder).order(durations(commands, self.arch))
            commands = recorder.finish(15, order.positions, order.engines)
        return b"".join(encode(item) for item in commands)

    def image(self) -> np.ndarray:
        """External memory before a run, from address 0."""
        image = np.zeros(self.memory.end, np.uint8)
        for address, data in self.contents:
            image[address : address + len(data)] = np.frombuffer(data, np.uint8)
        return image

    def run(self, *, scheduled: bool = False, scalars: dict[str, float] | None = None) -> Machine:
        """Execute everything recorded so far from a fresh memory, constants and scalars in their places."""
        machine = used(Machine(self.arch, {0: self.image()}))
        for key in self.em.constants:
            bits = np.float32(scalars[key]).view(np.uint32) if isinstance(key, str) else np.array(key, np.uint32)
            machine.state.acc[self.em.constant(key).addr] = bits
        machine.run(self.code(scheduled=scheduled))
        return machine

    def read(self, machine: Machine, feature: Feature) -> np.ndarray:
        """Values [N, H, W, C] of a feature map after a run."""
        count = feature.n * feature.image_words * self.arch.array.cols
        bits = np.frombuffer(machine.memory.read(feature.address, 2 * count), np.uint16)
        values = decode(bits, self.arch.array.operand).reshape(feature.n, feature.h, feature.w, -1)
        assert (values[..., feature.c :] == 0).all(), "padding channels are not zero"
        return values[..., : feature.c]


def read_row(machine: Machine, row: Row) -> np.ndarray:
    """Values of a channel vector after a run."""
    data = machine.memory.read(row.address, 4 * row.words * machine.arch.array.cols)
    return np.frombuffer(data, np.float32)[: row.channels]


def operands(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Random values that FP16 holds exactly."""
    return rng.standard_normal(shape).astype(np.float16).astype(np.float32)

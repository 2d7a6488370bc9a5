"""What the golden-side tests share: architectures, random operands, and running a few commands."""

import dataclasses

import numpy as np

from hwgen.arch import Arch, load
from hwgen.arch.commands import Command, encode
from models.formats import CORNERS_BF16, CORNERS_FP16
from models.formats import encode as encode_values
from models.machine import Machine, MachineResult

SEED = 20240607


def arch(name: str, **array) -> Arch:
    """A preset with some settings of `array` replaced."""
    preset = load(name)
    return dataclasses.replace(preset, array=dataclasses.replace(preset.array, **array))


ARCHES = {
    "tiny": arch("tiny"),
    "tiny2": arch("tiny2"),
    "tiny2-bf16": arch("tiny2", operand="bf16"),
    "four-lanes": arch("tiny", lanes=4),
}
"""Architectures of all kinds that are quickly computed."""


def program(*items: Command) -> bytes:
    return b"".join(encode(item) for item in items)


def with_mask(item: Command, name: str, mask: int) -> bytes:
    """An encoded instruction whose token mask `name` the encoder would refuse."""
    data = bytearray(encode(item))
    data[{"wait": 1, "signal": 2}[name]] = mask
    return bytes(data)


def run(machine: Machine, *items: Command) -> MachineResult:
    return machine.run(program(*items))


def noisy_machine(chosen: Arch | None = None, size: int = 1 << 12) -> Machine:
    """A machine, of preset tiny if none is chosen, with `size` bytes of memory and normal sums in its accumulators."""
    machine = Machine(chosen or load("tiny"), size)
    acc = machine.state.acc
    acc[:] = np.random.default_rng(SEED).standard_normal(acc.shape, dtype=np.float32).view(np.uint32)
    return machine


def normal_operands(rng: np.random.Generator, shape: tuple[int, ...], operand: str) -> np.ndarray:
    """Rounded standard normal values: finite, of ordinary size."""
    return encode_values(rng.standard_normal(shape, dtype=np.float32), operand)


def wild_operands(rng: np.random.Generator, shape: tuple[int, ...], operand: str) -> np.ndarray:
    """Mostly ordinary values, with corner values (infinities, NaN, subnormals, zeros of both signs) among them."""
    corners = np.array(CORNERS_FP16 if operand == "fp16" else CORNERS_BF16, dtype=np.uint16)
    return np.where(rng.random(shape) < 0.06, rng.choice(corners, shape), normal_operands(rng, shape, operand))


def assert_bits(actual: np.ndarray, expected: np.ndarray, what: str) -> None:
    """Equal shapes and bits; the message names the first difference."""
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    different = np.argwhere(actual != expected)
    if len(different):
        place = tuple(different[0])
        message = f"{what}: {len(different)} of {actual.size} differ, first at {place}: "
        raise AssertionError(message + f"{int(actual[place]):#x}, expected {int(expected[place]):#x}")

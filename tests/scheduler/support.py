"""Helpers of the scheduler's tests: small architectures, golden runs, and an independent chain of layers in numpy."""

import dataclasses
import functools

import numpy as np
import torch
from torch import nn

from hwgen.arch import Arch, arch_from_dict, load
from models import zoo
from models.accesses import scratchpad_words
from models.formats import decode, encode, fp32_values
from models.machine import Machine
from models.matmul import matmul
from models.pattern import Pattern
from models.races import check_races
from models.sparsity import nm_mask
from models.tokens import check_tokens
from scheduler.capture import capture
from scheduler.ir import Graph
from scheduler.options import Options, SparsityPolicy
from scheduler.program import Program


def variant(preset: str = "tiny", **parts: dict) -> Arch:
    """A preset with some settings changed: `variant("tiny", scratchpads={"act_depth": 16})`."""
    data = dataclasses.asdict(load(preset))
    for part, settings in parts.items():
        data[part] |= settings
    if "array" in parts and "cols" in parts["array"]:
        data["memory"]["data_bits"] = 16 * data["array"]["cols"]
    return arch_from_dict(data)


def options(pattern: str = "dense", dataflow: str = "auto", output: str = "fp32", dense: tuple = ()) -> Options:
    return Options(SparsityPolicy(Pattern.parse(pattern), dense), dataflow, output)


@functools.cache
def captured(name: str, **settings: int) -> tuple[nn.Module, tuple[torch.Tensor, ...], Graph]:
    """A model of the zoo with its inputs and graph; capturing takes longer than lowering, so it is done once."""
    module, inputs = zoo.build(name, **settings)
    return module, inputs, capture(module, inputs)


def used(machine: Machine) -> Machine:
    """The machine as other programs may leave it: NaN in every word on chip, and indices that no group has."""
    for memory in scratchpad_words(machine.arch):
        words = getattr(machine.state, memory)
        words.fill(np.iinfo(words.dtype).max)
    return machine


def run_golden(program: Program, inputs: dict) -> dict[str, np.ndarray]:
    """Bit patterns of the results on a `used` golden machine; the program must have no races and no overflows."""
    encoded = program.encode()
    problem, race = check_tokens(encoded, program.arch), check_races(encoded, program.arch)
    assert problem is None, problem
    assert race is None, str(race)
    machine = used(Machine(program.arch, {0: program.image(inputs)}))
    placed = machine.memory.read(program.program_address, len(encoded))
    machine.run(bytes(placed))
    return program.read_output_bits(machine.memory.read(0, program.memory_size))


def linear(bits: np.ndarray, layer: nn.Linear, operand: str, pattern: str = "dense") -> np.ndarray:
    """float32 sums of operand bits `[P, K]` with the layer's weights, pruned along the reduction, plus the bias."""
    weights = layer.weight.detach().to(torch.float32).numpy().T.copy()
    wanted = Pattern.parse(pattern)
    rounded = encode(weights, operand)
    if wanted is not None and min(weights.shape) >= wanted.m:
        rounded = np.where(nm_mask(weights, wanted.n, wanted.m, axis=0), rounded, np.uint16(0))
    sums = fp32_values(matmul(bits, rounded, operand))
    return sums if layer.bias is None else sums + layer.bias.detach().to(torch.float32).numpy()


def relu(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, np.float32(0))


def store(values: np.ndarray, operand: str) -> np.ndarray:
    """Operand bits as a later layer reads them."""
    return encode(values.astype(np.float32), operand)


def widen(bits: np.ndarray, operand: str) -> np.ndarray:
    return decode(bits, operand)

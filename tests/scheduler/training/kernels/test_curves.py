"""Curves on the golden machine against float64: errors as stated, over all FP16 numbers and more; and who gets room."""

import dataclasses

import numpy as np
import pytest
import torch

from hwgen.arch import load
from hwgen.arch.isa import Opcode, Operation
from scheduler.training.kernels import activations
from scheduler.training.kernels.curves import CURVES, place_curves
from tests.scheduler.training.block_support import Blocks, read

MOST = 60_000
"""Numbers in one run."""
FP16 = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
FP16 = FP16[np.isfinite(FP16)]
FUNCTIONS = {
    "gelu": (activations.gelu, torch.nn.functional.gelu),
    "gelu_tanh": (activations.gelu_tanh, lambda x: torch.nn.functional.gelu(x, approximate="tanh")),
    "silu": (activations.silu, torch.nn.functional.silu),
}
SLOPES = {
    "gelu": activations.gelu_slope,
    "gelu_tanh": activations.gelu_tanh_slope,
    "silu": activations.silu_slope,
}


def evaluate(function, x, *curves):
    """A function of blocks at float32 numbers, with curves; takes one pass."""
    parts = [_evaluate(function, x[first : first + MOST], curves) for first in range(0, len(x), MOST)]
    return np.concatenate(parts)


def _evaluate(function, x, curves):
    bench = Blocks(curves=curves)
    words = np.resize(x, (-(-len(x) // 24), 6, 4))
    block = bench.put(words)
    d = bench.em.take(*words.shape[:2])
    assert function(bench.em, block, d) == d
    assert bench.passes(block) == 1
    return read(bench.run(), d).reshape(-1)[: len(x)].astype(np.float64)


def points(name, rng):
    """All of FP16, random numbers, borders of lines with their neighbours on both sides."""
    curve = CURVES[name]
    borders = ((np.arange(curve.size + 1) - curve.size // 2) / 2.0**curve.shift).astype(np.float32)
    with np.errstate(under="ignore"):
        sides = [np.nextafter(borders, np.float32(end)) for end in (-np.inf, np.inf)]
    return np.concatenate([FP16, borders, *sides, rng.uniform(-20, 20, 40_000).astype(np.float32)])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_activations_and_slopes(name, seed):
    function, reference = FUNCTIONS[name]
    for made, curve in ((function, name), (SLOPES[name], f"{name}_slope")):
        x = points(curve, np.random.default_rng(seed))
        at = torch.tensor(x, dtype=torch.float64, requires_grad=True)
        values = reference(at)
        values.sum().backward()
        wanted = (values.detach() if made is function else at.grad).numpy()
        error = np.abs(evaluate(made, x, curve) - wanted) - 1e-6 * np.minimum(np.abs(x), 8)
        worst = error.argmax()
        bound = CURVES[curve].error
        assert bound / 2 < error[worst] < bound <= 3e-5, f"{curve}({x[worst]}) is off by {error[worst]}"


def test_powers_of_two(seed):
    x = np.random.default_rng(seed).uniform(-15.96, 15, 100_000).astype(np.float32)
    found = evaluate(lambda em, x, d: em.curve("exp2", d, x), x, "exp2")
    error = np.abs(found / np.exp2(x.astype(np.float64)) - 1).max()
    assert CURVES["exp2"].error / 2 < error < CURVES["exp2"].error
    low = np.array([-16, -15.97, -17, -1e30, -np.inf], np.float32)
    np.testing.assert_array_equal(evaluate(lambda em, x, d: em.curve("exp2", d, x), low, "exp2"), 0)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_zeros_stay_and_ends_go_on(name):
    x = np.array([0.0, -0.0, 1e4, -1e4, np.inf, -np.inf, np.nan, 1e-40, -1e-40], np.float32)
    found = evaluate(FUNCTIONS[name][0], x, name)
    np.testing.assert_array_equal(found[:7], [0, 0, 1e4, 0, np.inf, 0, np.nan])
    assert np.abs(found[7:]).max() < 1e-40
    found = evaluate(SLOPES[name], x, f"{name}_slope")
    np.testing.assert_array_equal(found[2:7], [1, 0, 1, 0, np.nan])
    assert np.abs(found[:2] - 0.5).max() < 2e-5


def test_lines_are_loaded_once_before_they_are_used():
    bench = Blocks(curves=("silu", "gelu"))
    x = bench.put(np.zeros((3, 2, 4), np.float32))
    for function in (activations.gelu, activations.gelu, activations.silu, activations.gelu):
        function(bench.em, x, x)
    commands = bench.em.recorder.commands
    assert [item.opcode for item in commands].count(Opcode.LOAD) == 2
    found = [(item.y_addr, item.y_stride) for item in commands if item.opcode == Opcode.VECTOR]
    assert found == [(2048, 1024), (2048, 1024), (0, 2048), (2048, 1024)]
    assert {item.operation for item in commands if item.opcode == Opcode.VECTOR} == {Operation.CURVE}


@pytest.mark.parametrize(
    ("entries", "placed", "left_out"),
    [
        (0, {}, ()),
        (64, {}, ("gelu", "silu", "exp2", "silu_slope")),
        (1024, {"gelu": 0}, ("silu", "exp2", "silu_slope")),
        (2048, {"gelu": 0, "exp2": 1024}, ("silu", "silu_slope")),
        (4096, {"silu": 0, "gelu": 2048, "exp2": 3072}, ("silu_slope",)),
        (8192, {"silu": 0, "gelu": 2048, "exp2": 3072, "silu_slope": 4096}, ()),
    ],
)
def test_the_first_curves_get_room(entries, placed, left_out):
    arch = load("tiny")
    arch = dataclasses.replace(arch, vector=dataclasses.replace(arch.vector, curve_entries=entries))
    curves = place_curves(["gelu", "silu", "exp2", "silu_slope"], arch)
    assert {name: place.first for name, place in curves.places.items()} == placed
    assert curves.left_out == left_out

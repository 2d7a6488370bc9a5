"""VECTOR CURVE: value by value from ISA.md's rule in exact arithmetic, and against float64 functions."""

from fractions import Fraction
from math import erf, floor

import numpy as np
import pytest

from hwgen.arch.commands import command
from hwgen.arch.isa import Opcode, Operation
from models.formats import CORNERS_FP32
from models.machine import Machine
from tests.models.support import SEED, arch, assert_bits, run

WIDE = arch("sat16")
ENTRIES = WIDE.vector.curve_entries
NAN = 0x7FC00000


def evaluate(lines: np.ndarray, shift: int, x: np.ndarray, first: int = 0, **fields: int) -> np.ndarray:
    """CURVE of lines `[T, 2]` (uint32) at uint32 `x`, which fills whole words."""
    words = x.reshape(-1, WIDE.array.cols)
    machine = Machine(WIDE, 64)
    machine.state.curve[first : first + len(lines)] = lines
    machine.state.acc[: len(words)] = words
    places = {"x_stride": 1, "d_addr": len(words), "d_stride": 1, "y_addr": first, "y_stride": len(lines)}
    shape = {"rows": len(words), "words": 1, "shift": shift}
    run(machine, command(Opcode.VECTOR, operation=Operation.CURVE, **places, **shape, **fields))
    return machine.state.acc[len(words) : 2 * len(words)].reshape(x.shape)


def line_by_hand(count: int, shift: int, x: int) -> int:
    """Number of the line that bits `x` meet: steps of 2**-shift from the middle outwards, on the side of the sign."""
    exponent, fraction, side = x >> 23 & 255, x & 0x7FFFFF, count // 2
    if exponent == 255:
        steps = side
    else:
        significand = fraction | (1 << 23 if exponent else 0)
        steps = floor(significand * Fraction(2) ** (max(exponent, 1) - 150 + shift))
    steps = min(steps, side - 1)
    return side - 1 - steps if x >> 31 else side + steps


def result_by_hand(lines: np.ndarray, shift: int, x: int) -> int:
    slope, offset = lines[line_by_hand(len(lines), shift, x)].view(np.float32)
    value = np.uint32(x).view(np.float32)
    if np.isinf(value) and slope == 0:
        value = np.float32(0)
    with np.errstate(all="ignore"):
        result = np.float32(np.float32(slope * value) + offset)
    return NAN if np.isnan(result) else int(result.view(np.uint32))


def samples(rng: np.random.Generator, count: int, shift: int) -> np.ndarray:
    """Corners, random bits, numbers on the curve, and the borders of lines with their neighbours."""
    half = count / 2 / 2.0**shift
    borders = (np.arange(-count // 2 - 2, count // 2 + 3) / 2.0**shift).astype(np.float32)
    borders = rng.choice(borders, 300)
    with np.errstate(under="ignore"):
        near = [borders, -borders, *(np.nextafter(borders, np.float32(end)) for end in (np.inf, -np.inf))]
    numbers = rng.uniform(-1.2 * half, 1.2 * half, 300).astype(np.float32)
    bits = np.concatenate(
        [*(part.view(np.uint32) for part in (*near, numbers)), rng.integers(0, 1 << 32, 300, np.uint32)]
    )
    found = np.concatenate([bits, np.array([*CORNERS_FP32, 0xFF800001, 0x7FFFFFFF], np.uint32)])
    return np.resize(found, -(-len(found) // 16) * 16)


@pytest.mark.parametrize("shift", [0, 1, 3, 8, 20, 31])
@pytest.mark.parametrize("count", [2, 4, 64, ENTRIES])
def test_every_value_meets_its_line(count, shift):
    rng = np.random.default_rng(SEED)
    lines = rng.standard_normal((count, 2)).astype(np.float32)
    lines[rng.random(count) < 0.2, 0] = 0
    lines[rng.random(count) < 0.1, 0] = -0.0
    x, lines = samples(rng, count, shift), lines.view(np.uint32)
    wanted = np.array([result_by_hand(lines, shift, int(bits)) for bits in x], np.uint32)
    assert_bits(evaluate(lines, shift, x, ENTRIES - count), wanted, f"{count} lines, shift {shift}")


def test_the_rest_of_the_table_and_y_do_not_count():
    rng = np.random.default_rng(SEED)
    lines = rng.integers(0, 1 << 32, (8, 2), dtype=np.uint32)
    x = rng.standard_normal(160).astype(np.float32).view(np.uint32)
    plain = evaluate(lines, 1, x)
    assert_bits(evaluate(lines, 1, x, 16, shuffle=3, y_hold=1, z_addr=999_999), plain, "noise")
    positive = np.where((plain >> 31 == 1) & (plain & 0x7FFFFFFF <= 0x7F800000), 0, plain).astype(np.uint32)
    assert_bits(evaluate(lines, 1, x, relu=1), positive, "relu")


def gelu(x: float) -> float:
    return x * (1 + erf(x / 2**0.5)) / 2


FUNCTIONS = {
    # name: function, largest second derivative, log2 of lines a unit, what it is beyond the curve
    "gelu": (gelu, 0.7979, 6, lambda x: max(x, 0.0)),
    "tanh": (np.tanh, 0.7699, 6, np.sign),
    "sine": (np.sin, 1.0, 5, None),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_interpolation_errs_as_theory_says(name):
    """Lines between the values at their ends are off by h**2 / 8 times the largest second derivative at most."""
    function, bend, shift, beyond = FUNCTIONS[name]
    ends = np.arange(-512, 513) / 2.0**shift
    values = np.array([function(end) for end in ends])
    slope = np.diff(values) * 2.0**shift
    if beyond is not None:
        slope[[0, -1]] = [beyond(ends[1]) / ends[1] if name == "gelu" else 0, slope[-1] if name == "gelu" else 0]
    lines = np.stack([slope, values[:-1] - slope * ends[:-1]], axis=1).astype(np.float32).view(np.uint32)
    x = np.random.default_rng(SEED).uniform(ends[1], ends[-2], 16_000).astype(np.float32)
    found = evaluate(lines, shift, x.view(np.uint32)).view(np.float32)
    error = np.abs(found - np.array([function(float(value)) for value in x])).max()
    bound = bend / 8 / 4.0**shift
    assert 0.9 * bound < error < bound + 2e-6, f"{name}: {error}, theory {bound}"


def test_a_curve_goes_on_as_a_straight_line():
    """One that is |x| in its two lines; infinities and NaN follow, a slope of 0 gives the offset everywhere."""
    lines = np.array([[-1.0, 0.0], [1.0, 0.0]], np.float32).view(np.uint32)
    x = np.resize(np.array([3e38, -3e38, np.inf, -np.inf, np.nan, 0.0, -0.0, 1e-45], np.float32), 16)
    found = evaluate(lines, 31, x.view(np.uint32)).view(np.float32)
    np.testing.assert_array_equal(found, np.abs(x))
    flat = np.array([[0.0, -2.0], [-0.0, 7.0]], np.float32).view(np.uint32)
    found = evaluate(flat, 0, x.view(np.uint32)).view(np.float32)
    np.testing.assert_array_equal(found, np.where(np.isnan(x), x, np.where(np.signbit(x), -2, 7)))

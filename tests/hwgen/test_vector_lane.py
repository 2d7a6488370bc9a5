"""One lane of the vector engine against numpy, bit for bit: all operations on corner and random values; latency."""

import numpy as np
import pytest

from hwgen.arch.isa import Operation
from hwgen.vector.curve import CurveWrite
from hwgen.vector.lane import LaneControl, VectorLane
from models.formats import CORNERS_FP32
from sim.block import Block
from tests.hwgen.vector_support import INTEGERS, random_table, results, vector

COUNT = 200_000
CORNERS = np.array(CORNERS_FP32, np.uint32)


class Lane:
    """A Verilated lane, its table filled with random lines."""

    def __init__(self, mul_latency: int, add_latency: int, entries: int = 64) -> None:
        dut = VectorLane(mul_latency=mul_latency, add_latency=add_latency, curve_entries=entries)
        self.latency = dut.latency
        self._block = Block.of(dut, "lane")
        self.table, self._idle = random_table(entries), [0] * (3 if entries else 0)
        if entries:
            writes = [
                CurveWrite().const({"enable": 1, "address": address, "entry": {"slope": slope, "offset": offset}})
                for address, (slope, offset) in enumerate(self.table.tolist())
            ]
            bits = [write.as_value().value for write in writes]
            rows = [[0] * 5 + [word >> 32 * part & 0xFFFFFFFF for part in range(3)] for word in bits]
            self._block.run(np.array(rows, np.uint32))

    def run(self, item, operands):
        """Results of `operands`, uint32 `[n, 3]`, one set a cycle."""
        control = LaneControl().const({name: getattr(item, name) for name, _ in LaneControl()}).as_value().value
        padded = np.concatenate([operands, np.zeros((self.latency, 3), np.uint32)])
        words = [control & 0xFFFFFFFF, control >> 32, *self._idle]
        setting = np.tile(np.array(words, np.uint32), (len(padded), 1))
        # Ports are in the order of the signature: x, y, z, control, curve.
        return self._block.run(np.concatenate([padded, setting], axis=1))[self.latency :, 0]

    def check(self, item, operands):
        """Compare with numpy."""
        columns = (operands[:, [index]] for index in range(3))
        got, want = self.run(item, operands), results(item, *columns, self.table)[:, 0]
        bad = np.flatnonzero(got != want)
        if bad.size:
            x, y, z = operands[bad[0]]
            text = f"{item} of {x:#x}, {y:#x}, {z:#x} gave {got[bad[0]]:#x}, not {want[bad[0]]:#x}"
            pytest.fail(f"{text} ({bad.size} of {len(got)} differ)")


@pytest.fixture(scope="module")
def lane():
    return Lane(3, 4)


def corner_operands():
    """All pairs of corner values; z takes every one of them too, and is often equal to x or y."""
    x, y = (side.ravel() for side in np.meshgrid(CORNERS, CORNERS))
    z = np.resize(np.concatenate([CORNERS, CORNERS[::-1]]), len(x))
    return np.stack([x, y, z], axis=1)


def random_operands(rng, count):
    """Random bits, random numbers, numbers that are often equal, and z that nearly cancels x * y."""
    bits = rng.integers(0, 1 << 32, (count // 4, 3), dtype=np.uint32)
    numbers = rng.standard_normal((count // 4, 3)) * 2.0 ** rng.integers(-6, 7, (count // 4, 3))
    few = rng.integers(-3, 4, (count // 4, 3))
    close = rng.standard_normal((count // 4, 3))
    close[:, 2] = -close[:, 0] * close[:, 1] * (1 + rng.integers(-3, 4, len(close)) * 2.0**-24)
    floats = np.concatenate([numbers, few, close]).astype(np.float32)
    return np.concatenate([bits, floats.view(np.uint32)])


@pytest.mark.verilator
@pytest.mark.parametrize("operation", Operation)
@pytest.mark.parametrize("relu", [0, 1])
def test_operations_equal_numpy(lane, operation, relu, seed):
    rng = np.random.default_rng(seed)
    curve = {"curve": (0, 64), "shift": 3} if operation is Operation.CURVE else {}
    for operands in (corner_operands(), random_operands(rng, COUNT)):
        lane.check(vector(operation, relu=relu, **curve), operands)


@pytest.mark.verilator
@pytest.mark.parametrize("operation", INTEGERS)
@pytest.mark.parametrize("right", [0, 1])
def test_every_shift(lane, operation, right, seed):
    operands = random_operands(np.random.default_rng(seed), 400)
    for shift in range(32):
        lane.check(vector(operation, shift=shift, right=right), operands)


def around_borders(shift):
    """Where lines of a curve of 64 begin, and the numbers beside."""
    borders = (np.arange(-35, 36) / 2.0**shift).astype(np.float32)
    with np.errstate(under="ignore"):
        sides = [
            borders,
            np.nextafter(borders, np.float32(np.inf)),
            np.nextafter(borders, np.float32(-np.inf)),
            -borders,
        ]
    x = np.concatenate(sides).view(np.uint32)
    return np.stack([x, np.zeros_like(x), np.zeros_like(x)], axis=1)


@pytest.mark.verilator
@pytest.mark.parametrize("shift", range(32))
def test_curves(lane, shift, seed):
    """Every place and length of a curve, at corner values, at random ones and around the borders of lines."""
    operands = np.concatenate(
        [corner_operands(), random_operands(np.random.default_rng(seed), 2000), around_borders(shift)]
    )
    for size in (2, 4, 8, 16, 32, 64):
        for base in range(0, 64, max(size, 16)):
            lane.check(vector(Operation.CURVE, shift=shift, curve=(base, size)), operands)


@pytest.mark.verilator
@pytest.mark.parametrize(("mul_latency", "add_latency", "entries"), [(1, 1, 4096), (2, 8, 0), (6, 3, 128)])
def test_the_latency_is_the_declared_one(mul_latency, add_latency, entries, seed):
    lane, operands = Lane(mul_latency, add_latency, entries), random_operands(np.random.default_rng(seed), 2000)
    assert lane.latency == mul_latency + add_latency + (2 if entries else 0)
    for operation in Operation:
        if operation is not Operation.CURVE:
            lane.check(vector(operation), operands)
        elif entries:
            lane.check(vector(operation, shift=9, curve=(0, entries)), operands)

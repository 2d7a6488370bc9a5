# amaranth: UnusedElaboratable=no
"""Outputs and magnitudes on RTL against the golden model and numpy."""

from functools import cache

import numpy as np
import pytest

from hwgen.arch.attention import OUTPUT_BITS, SCORE_MAX, AttentionSizes
from hwgen.attention.output import Magnitude, Output, SumWord
from hwgen.fp.integer import FpFromInteger
from models.attention_engine.row import scaled
from models.attention_engine.softmax import reciprocal
from models.formats import CORNERS_FP32, encode, fp32_values
from tests.hwgen.cycle_support import CycleBlock

pytestmark = pytest.mark.verilator

SIZES = AttentionSizes(output_lanes=4)


@cache
def from_integer() -> CycleBlock:
    return CycleBlock(FpFromInteger(width=OUTPUT_BITS), "from_integer")


@cache
def magnitude() -> CycleBlock:
    return CycleBlock(Magnitude(), "magnitude_of")


@cache
def scaler(operand: str) -> CycleBlock:
    return CycleBlock(Output(SIZES, operand=operand), f"scaler_{operand}")


def test_integers_to_fp32(seed):
    """Powers of two and their neighbours, ties, both ends, random magnitudes."""
    rng = np.random.default_rng(seed)
    values = {0, -(2**47), 2**47 - 1}
    values |= {sign * (2**power + add) for power in range(47) for add in (-1, 0, 1) for sign in (-1, 1)}
    values |= {(2**24 + 2 * odd + 1) << shift for odd in range(4) for shift in range(22)}
    values |= {int(rng.integers(-(2**47), 2**47)) >> int(rng.integers(47)) for _ in range(5000)}
    values = sorted(values)
    out = from_integer().run([{"i": value % (1 << OUTPUT_BITS)} for value in values] + [{}] * FpFromInteger.LATENCY)
    wanted = np.array(values, dtype=np.int64).astype(np.float32).view(np.uint32)
    assert [row["o"] for row in out[FpFromInteger.LATENCY :]] == wanted.tolist()


def test_magnitudes(seed):
    rng = np.random.default_rng(seed)
    corner = fp32_values(CORNERS_FP32)
    values = np.concatenate(
        [
            corner[~np.isnan(corner)],
            np.arange(0, 4000) / np.float32(512),
            (rng.normal(size=4000) * np.exp(rng.uniform(-12, 18, 4000))),
            [16777215.0, 16777216.0, 1.7e7, 2.0**-9, np.nextafter(np.float32(2.0**-9), np.float32(0))],
        ],
        dtype=np.float32,
    )
    cycles = [{"i": value} for value in values.view(np.uint32).tolist()]
    out = magnitude().run(cycles + [{}] * Magnitude.LATENCY)[Magnitude.LATENCY :]
    wanted = np.minimum(np.floor(np.abs(values.astype(np.float64)) * 256 + 0.5), SCORE_MAX)
    assert [row["o"] for row in out] == wanted.astype(np.int64).tolist()


@pytest.mark.parametrize("operand", ["fp16", "bf16"])
@pytest.mark.parametrize("gaps", [0, 0.3])
def test_rows(operand, gaps, seed):
    """Rows of 16 to 128 outputs: operands, magnitudes that saturate now and then, and the cycles they come in."""
    rng, cycles, entered, outputs, wanted = np.random.default_rng(seed), [], [], [], []
    for _ in range(150):
        size = int(rng.choice([16, 48, 64, 128]))
        total = int(rng.choice([0, 65535, 65536, int(2 ** rng.uniform(16, 32))]))
        r, n = reciprocal(total)
        step = np.float32(2.0 ** rng.uniform(-20, 25))
        sums = rng.integers(-(2**47), 2**47, size) >> rng.integers(0, 47)
        output = scaled(sums if total else sums * 0, r, n, int(step.view(np.uint32)))
        outputs += encode(output, operand).tolist()
        each = np.minimum(np.floor(np.abs(output.astype(np.float64)) * 256 + 0.5), SCORE_MAX)
        wanted.append(min(int(each.sum()), SCORE_MAX))
        for start in range(0, size, 4):
            while rng.random() < gaps:
                cycles.append({"i": int(rng.integers(1 << 62))})
            word = {"sums": (sums if total else sums * 0)[start : start + 4].tolist(), "last": int(start + 4 == size)}
            word |= {"r": r, "n": n, "value_scale": int(step.view(np.uint32))}
            entered.append(len(cycles))
            cycles.append({"i": SumWord(SIZES).const(word).as_bits(), "i_valid": 1})
    latency = scaler(operand).component.latency
    out = scaler(operand).run(cycles + [{}] * latency)
    assert [at - latency for at, row in enumerate(out) if row["o_valid"]] == entered
    words = [row["o"] for row in out if row["o_valid"]]
    assert [word >> 16 * lane & 0xFFFF for word in words for lane in range(4)] == outputs
    assert [row["magnitude"] for row in out if row["o_valid"] and row["o_last"]] == wanted
    assert latency == 8


@pytest.mark.parametrize("width", [25, 65])
def test_integers_of_other_widths_are_refused(width):
    with pytest.raises(ValueError, match=f"width must be between 26 and 64, not {width}"):
        FpFromInteger(width=width)

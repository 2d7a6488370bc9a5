# amaranth: UnusedElaboratable=no
import itertools
from functools import partial

import ml_dtypes
import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from hwgen.fp.add import FpAdd
from hwgen.fp.convert import FpCompare, FpNarrow, FpWiden, relu
from hwgen.fp.formats import BF16, FP16, FP32, FloatFormat
from hwgen.fp.multiply import FpMultiply
from models.formats import CORNERS_BF16, CORNERS_FP16, CORNERS_FP32
from sim.block import Block

PAIRS = 10_000_000
CHUNK = 1 << 20
MUL_LATENCY, ADD_LATENCY = 2, 4


class Multipliers(wiring.Component):
    a: In(16)
    b: In(16)
    fp16: Out(32)
    bf16: Out(32)

    def elaborate(self, platform):
        m = Module()
        for name, fmt in (("fp16", FP16), ("bf16", BF16)):
            m.submodules[name] = unit = FpMultiply(fmt=fmt, latency=MUL_LATENCY)
            m.d.comb += [unit.a.eq(self.a), unit.b.eq(self.b), getattr(self, name).eq(unit.o)]
        return m


class Adders(wiring.Component):
    a: In(32)
    b: In(32)
    total: Out(32)
    lt: Out(1)
    eq: Out(1)
    unordered: Out(1)

    def elaborate(self, platform):
        m = Module()
        m.submodules.add = add = FpAdd(latency=ADD_LATENCY)
        m.submodules.compare = compare = FpCompare()
        m.d.comb += [unit.a.eq(self.a) for unit in (add, compare)] + [unit.b.eq(self.b) for unit in (add, compare)]
        m.d.comb += [self.total.eq(add.o), self.lt.eq(compare.lt), self.eq.eq(compare.eq)]
        m.d.comb += self.unordered.eq(compare.unordered)
        return m


class Unary(wiring.Component):
    i: In(32)
    narrow_fp16: Out(16)
    narrow_bf16: Out(16)
    widen_fp16: Out(32)
    widen_bf16: Out(32)
    relu: Out(32)

    def elaborate(self, platform):
        m = Module()
        for name, fmt in (("fp16", FP16), ("bf16", BF16)):
            m.submodules[f"narrow_{name}"] = narrow = FpNarrow(fmt=fmt)
            m.submodules[f"widen_{name}"] = widen = FpWiden(fmt=fmt)
            m.d.comb += [narrow.i.eq(self.i), widen.i.eq(self.i)]
            m.d.comb += [getattr(self, f"narrow_{name}").eq(narrow.o), getattr(self, f"widen_{name}").eq(widen.o)]
        m.d.comb += self.relu.eq(relu(self.i))
        return m


def canonical(values):
    """Bits of float32 values with the one NaN that hardware gives."""
    return np.where(np.isnan(values), np.uint32(FP32.nan), values.view(np.uint32))


def as_fp32(bits):
    return np.ascontiguousarray(bits, np.uint32).view(np.float32)


def widened(bits, fmt):
    bits = np.ascontiguousarray(bits, np.uint16)
    return bits.view(np.float16 if fmt is FP16 else ml_dtypes.bfloat16).astype(np.float32)


def product(corners):
    return np.array(list(itertools.product(corners, repeat=2)), np.uint32)


def random_bits(rng, count, width):
    return rng.integers(0, 1 << width, (count, 2), dtype=np.uint32)


def close_exponents(rng, count, fmt):
    """Random bits, the exponents at most the fraction's width and a little apart."""
    pairs = random_bits(rng, count, fmt.width)
    top = (1 << fmt.exponent) - 1
    exponent = (pairs[:, 0] >> fmt.fraction & top).astype(np.int64)
    near = np.clip(exponent + rng.integers(-fmt.fraction - 4, fmt.fraction + 5, count), 0, top)
    pairs[:, 1] = pairs[:, 1] & ~np.uint32(top << fmt.fraction) | near.astype(np.uint32) << fmt.fraction
    return pairs


def random_values(rng, count, fmt):
    values = (rng.standard_normal((count, 2)) * 2.0 ** rng.integers(-6, 7, (count, 2))).astype(np.float32)
    if fmt is FP32:
        return values.view(np.uint32)
    return values.astype(np.float16 if fmt is FP16 else ml_dtypes.bfloat16).view(np.uint16).astype(np.uint32)


def pairs_of(rng, corners, fmt, total):
    """Every pair of corners, then chunks of random pairs: half of them close, the rest random bits and values."""
    yield product(corners)
    for start in range(0, total, CHUNK):
        count = min(CHUNK, total - start)
        yield np.concatenate(
            [
                close_exponents(rng, count // 2, fmt),
                random_bits(rng, count // 4, fmt.width),
                random_values(rng, count - count // 2 - count // 4, fmt),
            ]
        )


def answers(block, inputs, latency):
    """Outputs that belong to `inputs`, from a block with a latency."""
    fill = np.zeros((latency, inputs.shape[1]), np.uint32)
    return block.run(np.concatenate([inputs, fill]))[latency:]


def assert_equal(what, inputs, got, want):
    bad = np.flatnonzero(got != want)
    if bad.size:
        index = bad[0]
        operands = ", ".join(f"{value:#x}" for value in np.atleast_1d(inputs[index]))
        pytest.fail(f"{what}({operands}) gave {got[index]:#x}, not {want[index]:#x} ({bad.size} of {len(got)} differ)")


@pytest.fixture(scope="module")
def multipliers():
    return Block.of(Multipliers(), "multipliers")


@pytest.mark.verilator
@pytest.mark.parametrize(("column", "fmt", "corners"), [(0, FP16, CORNERS_FP16), (1, BF16, CORNERS_BF16)])
def test_products_equal_numpy(multipliers, seed, column, fmt, corners):
    rng = np.random.default_rng(seed)
    everything = np.arange(1 << 16, dtype=np.uint32)
    against_corners = (np.stack([everything, np.full_like(everything, corner)], 1) for corner in corners)
    for pairs in itertools.chain(pairs_of(rng, corners, fmt, PAIRS), against_corners):
        got = answers(multipliers, pairs, MUL_LATENCY)[:, column]
        with np.errstate(all="ignore"):
            want = canonical(widened(pairs[:, 0], fmt) * widened(pairs[:, 1], fmt))
        assert_equal(f"{fmt.name} multiply", pairs, got, want)


def products_at_the_lower_end(rng, count):
    """Random bits whose product has about the magnitude of a subnormal number; half have a subnormal factor."""
    pairs = random_bits(rng, count, 32)
    exponent = rng.integers(0, 152, count)
    exponent[: count // 2] = 0
    other = np.clip(126 - exponent + rng.integers(-27, 28, count), 0, 254)
    pairs = pairs & 0x807FFFFF | np.stack([exponent, other], 1).astype(np.uint32) << 23
    few = rng.random(count) < 0.5  # with few significant bits, products are exact or ties
    pairs[few] &= np.uint32(0xFFFFFFFF) << rng.integers(0, 24, (few.sum(), 1), dtype=np.uint32)
    return rng.permuted(pairs, axis=1)


def fp32_factors(rng):
    yield product(CORNERS_FP32)
    for _ in range(0, PAIRS, CHUNK):
        yield random_bits(rng, CHUNK // 4, 32)
        yield random_values(rng, CHUNK // 4, FP32)
        yield products_at_the_lower_end(rng, CHUNK // 2)


@pytest.mark.verilator
def test_products_of_fp32_equal_numpy(seed):
    block = Block.of(FpMultiply(fmt=FP32, latency=MUL_LATENCY), "multiply_fp32")
    for pairs in fp32_factors(np.random.default_rng(seed)):
        with np.errstate(all="ignore"):
            want = canonical(as_fp32(pairs[:, 0]) * as_fp32(pairs[:, 1]))
        assert_equal("FP32 multiply", pairs, answers(block, pairs, MUL_LATENCY)[:, 0], want)


@pytest.mark.verilator
def test_sums_and_comparisons_equal_numpy(seed):
    block = Block.of(Adders(), "adders")
    for pairs in pairs_of(np.random.default_rng(seed), CORNERS_FP32, FP32, PAIRS):
        outputs = block.run(np.concatenate([pairs, np.zeros((ADD_LATENCY, 2), np.uint32)]))
        a, b = as_fp32(pairs[:, 0]), as_fp32(pairs[:, 1])
        with np.errstate(all="ignore"):
            assert_equal("add", pairs, outputs[ADD_LATENCY:, 0], canonical(a + b))
        assert_equal("lt", pairs, outputs[: len(pairs), 1], (a < b).astype(np.uint32))
        assert_equal("eq", pairs, outputs[: len(pairs), 2], (a == b).astype(np.uint32))
        unordered = np.isnan(a) | np.isnan(b)
        assert_equal("unordered", pairs, outputs[: len(pairs), 3], unordered.astype(np.uint32))


@pytest.mark.verilator
def test_sums_without_subnormals_equal_numpy(seed):
    """Addends as sums of FP16 products have them: multiples of 2**-48."""
    rng = np.random.default_rng(seed)
    block = Block.of(FpAdd(latency=ADD_LATENCY, subnormals=False), "add_normal")
    specials = [0x00000000, 0x80000000, 0x27800000, 0xA7800000, 0x7F7FFFFF, 0x7F800000, 0xFF800000, FP32.nan]
    chunks = [product([*specials, *(bits for bits in CORNERS_FP32 if bits >> 23 & 255 > 102)])]
    for _ in range(0, PAIRS, CHUNK):
        pairs = close_exponents(rng, CHUNK, FP32)
        exponent = 103 + (pairs >> 23 & 255) % 152
        pairs = pairs & 0x807F_FFFF | exponent << 23
        pairs[rng.random(pairs.shape) < 0.02] = 0
        chunks.append(pairs)
    for pairs in chunks:
        with np.errstate(all="ignore"):
            want = canonical(as_fp32(pairs[:, 0]) + as_fp32(pairs[:, 1]))
        assert_equal("add", pairs, answers(block, pairs, ADD_LATENCY)[:, 0], want)


def narrowing_inputs(rng):
    """Corners, every value of both operand formats, its ties with the next, their neighbours, and random words."""
    yield np.array(CORNERS_FP32, np.uint32)
    every = np.arange(1 << 16, dtype=np.uint32)
    bases = [(widened(every, FP16).view(np.uint32), 1 << 12), (every << 16, 1 << 15)]
    for base, half in bases:
        for offset in (0, 1, half - 1, half, half + 1, -1):
            yield base + np.uint32(offset % (1 << 32))
    for _ in range(2):
        yield rng.integers(0, 1 << 32, CHUNK, dtype=np.uint32)
        yield (rng.standard_normal(CHUNK) * 2.0 ** rng.integers(-26, 17, CHUNK)).astype(np.float32).view(np.uint32)


@pytest.mark.verilator
def test_conversions_and_relu_equal_numpy(seed):
    block = Block.of(Unary(), "unary")
    for words in (np.arange(1 << 16, dtype=np.uint32), *narrowing_inputs(np.random.default_rng(seed))):
        fp16, bf16, from_fp16, from_bf16, rectified = block.run(words[:, None]).T
        values = words.view(np.float32)
        nan = np.isnan(values)
        with np.errstate(all="ignore"):
            want_fp16 = np.where(nan, FP16.nan, values.astype(np.float16).view(np.uint16))
            want_bf16 = np.where(nan, BF16.nan, values.astype(ml_dtypes.bfloat16).view(np.uint16))
        assert_equal("narrow to FP16", words, fp16, want_fp16)
        assert_equal("narrow to BF16", words, bf16, want_bf16)
        low = words & 0xFFFF
        assert_equal("widen FP16", low, from_fp16, canonical(widened(low, FP16)))
        assert_equal("widen BF16", low, from_bf16, canonical(widened(low, BF16)))
        assert_equal("relu", words, rectified, np.where(nan | (values > 0), words, 0))


def test_formats_have_the_published_constants():
    assert (FP16.width, FP16.bias, FP16.infinity, FP16.nan) == (16, 15, 0x7C00, 0x7E00)
    assert (BF16.width, BF16.bias, BF16.infinity, BF16.nan) == (16, 127, 0x7F80, 0x7FC0)
    assert (FP32.width, FP32.bias, FP32.infinity, FP32.nan) == (32, 127, 0x7F800000, 0x7FC00000)


def simulate(unit, rows):
    """Outputs of a unit in Amaranth's simulator, in the cycle of each row of inputs."""
    outputs = []
    ports = [getattr(unit, name) for name, member in unit.signature.members.items() if member.flow is In]

    async def bench(ctx):
        for row in rows:
            for port, value in zip(ports, row, strict=False):
                ctx.set(port, int(value))
            await ctx.delay(1e-9)
            outputs.append(ctx.get(unit.o))
            if unit.latency:
                await ctx.tick()

    simulator = Simulator(unit)
    if unit.latency:
        simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return np.array(outputs, np.uint32)


def multiply_reference(rows):
    return canonical(widened(rows[:, 0], FP16) * widened(rows[:, 1], FP16))


def multiply_fp32_reference(rows):
    return canonical(as_fp32(rows[:, 0]) * as_fp32(rows[:, 1]))


def add_reference(rows):
    return canonical(as_fp32(rows[:, 0]) + as_fp32(rows[:, 1]))


def narrow_reference(rows):
    return as_fp32(rows[:, 0]).astype(np.float16).view(np.uint16)


UNITS = {"multiply": (FpMultiply, FP16, multiply_reference), "add": (FpAdd, FP32, add_reference)}
UNITS["multiply_fp32"] = (partial(FpMultiply, fmt=FP32), FP32, multiply_fp32_reference)
UNITS["narrow"] = (FpNarrow, FP32, narrow_reference)


@pytest.mark.parametrize("latency", range(10))
@pytest.mark.parametrize("unit", UNITS)
def test_latency_is_the_declared_one(unit, latency, seed):
    make, fmt, reference = UNITS[unit]
    dut = make(latency=latency)
    rows = random_values(np.random.default_rng(seed), 40, fmt)
    got = simulate(dut, rows)
    assert dut.latency == latency
    assert_equal(unit, rows, got[latency:], reference(rows)[: len(got) - latency])


@pytest.mark.parametrize("make", [FpNarrow, FpWiden])
def test_only_operand_formats_are_accepted(make):
    with pytest.raises(ValueError, match=r"^fmt must be FP16 or BF16, not "):
        make(fmt=FP32)


def test_unknown_formats_are_not_multiplied():
    with pytest.raises(ValueError, match=r"^fmt must be FP16, BF16 or FP32, not "):
        FpMultiply(fmt=FloatFormat(name="fp8", exponent=4, fraction=3))


@pytest.mark.parametrize("make", [FpMultiply, FpAdd, FpNarrow])
def test_negative_latency_is_refused(make):
    with pytest.raises(ValueError, match=r"^latency must be at least 0, not -1$"):
        make(latency=-1)

"""The N:M reducer in both styles against a plain function: all patterns, ties, zeros, NaN, stalls, rate, latency."""

import random
from dataclasses import replace
from fractions import Fraction
from functools import cache

import pytest

from hwgen.arch.config import Reducer as ReducerSettings
from hwgen.reducer.column import STYLES
from hwgen.reducer.reducer import Reducer
from tests.hwgen.reducer_support import kept, packed_beats
from tests.hwgen.stream_support import StreamBlock, Transfer
from tests.support import ARCHS, at_random, every_fourth, long

pytestmark = pytest.mark.verilator

INFINITY = {"fp16": 0x7C00, "bf16": 0x7F80}
NAN = {"fp16": 0x7E00, "bf16": 0x7FC0}


def arch_with(preset: str, style: str):
    return replace(ARCHS[preset](), reducer=ReducerSettings(style=style))


def random_words(arch, source: random.Random, length: int) -> list[list[int]]:
    """Beats whose columns are random bits, few distinct values, zeros of both signs, or full of specials."""
    fmt = arch.array.operand
    specials = [0, 0x8000, 1, 0x8001, INFINITY[fmt], INFINITY[fmt] | 0x8000, INFINITY[fmt] - 1, NAN[fmt]]
    kinds = [
        lambda: source.getrandbits(15) % INFINITY[fmt] | source.getrandbits(1) << 15,
        lambda: source.choice([0x3C00, 0xBC00, 0x3C01, 0x4000]),
        lambda: source.choice([0, 0x8000]),
        lambda: source.choice(specials),
    ]
    columns = [source.choice(kinds) for _ in range(arch.array.cols)]
    return [[column() for column in columns] for _ in range(length)]


def items(arch, sequences: list[list[list[int]]]) -> list[int]:
    """Bits of the `Beat`s of sequences."""
    return [
        sum(value << 16 * col for col, value in enumerate(word)) | (number == len(words) - 1) << arch.memory.data_bits
        for words in sequences
        for number, word in enumerate(words)
    ]


@cache
def block(preset: str, style: str) -> StreamBlock:
    return StreamBlock(Reducer(arch_with(preset, style)), "reducer")


def reduce(preset: str, style: str, sequences, n: int, m: int, **stalls) -> Transfer:
    """Send sequences through a reducer and compare what comes out."""
    arch = arch_with(preset, style)
    result = block(preset, style).transfer(items(arch, sequences), n=n, m=m, **stalls)
    wanted = [beat for words in sequences for beat in packed_beats(arch, words, n, m)]
    assert result.items == wanted, f"{n}:{m} of {sequences}"
    return result


def slots_of(arch, n: int) -> int:
    return -(-n // arch.array.lanes) * arch.array.lanes


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("preset", ["tiny", "tiny2"])
def test_every_pattern(style, preset, seed):
    """1:1 to 16:16, each on sequences of one to five groups that follow one another."""
    arch, source = arch_with(preset, style), random.Random(seed)
    for m in range(1, arch.array.group_max + 1):
        for n in range(1, m + 1):
            reduce(preset, style, [random_words(arch, source, groups * m) for groups in range(1, 6)], n, m)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("preset", ARCHS)
@pytest.mark.parametrize(("stalls", "sink"), [(0.5, 0.5), (0.1, 0.7), (0.7, 0.1)])
def test_random_stalls(style, preset, stalls, sink, seed):
    arch, source = arch_with(preset, style), random.Random(seed)
    for number in range(40):
        m = source.randint(1, arch.array.group_max)
        n = source.randint(1, m)
        sequences = [random_words(arch, source, m * source.randint(1, 4)) for _ in range(3)]
        patterns = {"stalls": at_random(seed + number, stalls), "sink": at_random(seed - number, sink)}
        reduce(preset, style, sequences, n, m, **patterns)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("sink", [every_fourth, long(60)])
def test_slow_memory(style, sink, seed):
    arch, source = arch_with("tiny", style), random.Random(seed)
    for n, m in [(1, 1), (2, 4), (3, 4), (16, 16), (2, 16), (1, 16)]:
        reduce("tiny", style, [random_words(arch, source, 8 * m)] * 2, n, m, sink=sink)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    ("group", "n", "wanted"),
    [
        ([0x3C00, 0xBC00, 0x3C00, 0xBC00], 2, [(0x3C00, 0), (0xBC00, 1)]),  # equal magnitudes: lower indices
        ([0x3800, 0x3C00, 0xBC00, 0x3C00], 2, [(0x3C00, 1), (0xBC00, 2)]),
        ([0x8000, 0, 0, 0x8000], 3, [(0x8000, 0), (0, 1), (0, 2)]),  # -0 = +0, and keeps its sign
        ([0x7C00, 0xFC00, 0x7E00, 0x7BFF], 2, [(0x7C00, 0), (0x7E00, 2)]),  # NaN above infinity
        ([0x7E00, 0x7C00, 0x7E00, 0x7E00], 2, [(0x7E00, 0), (0x7E00, 2)]),
        ([0x0001, 0x8002, 0x0000, 0x0003], 1, [(0x0003, 3)]),  # subnormals
        ([0x3C00, 0x3C01, 0x3C02, 0x3C03], 3, [(0x3C01, 1), (0x3C02, 2), (0x3C03, 3)]),
        ([0x3C03, 0x3C02, 0x3C01, 0x3C00], 3, [(0x3C03, 0), (0x3C02, 1), (0x3C01, 2)]),
    ],
)
def test_what_stays_of_a_group(style, group, n, wanted):
    assert kept(group, n) == wanted
    reduce("tiny", style, [[[value] * 4 for value in group]], n, len(group))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("preset", ["tiny", "tiny2"])
def test_rate(style, preset, seed):
    """A group takes m cycles, or 5/4 of its slots if that is more; nothing is lost between groups."""
    arch, source, groups = arch_with(preset, style), random.Random(seed), 12
    for m in range(1, arch.array.group_max + 1):
        for n in range(1, m + 1):
            run = reduce(preset, style, [random_words(arch, source, groups * m)], n, m)
            slots = -(-n // arch.array.lanes) * arch.array.lanes
            if Fraction(5, 4) * slots <= m:
                assert run.entered == consecutive(run.entered), f"{n}:{m} refuses values"
                first = run.entered[-1] + block(preset, style).component.latency(n)
                assert run.left[-1] <= first + slots + 4, f"{n}:{m} is late"
            else:
                assert run.left == consecutive(run.left), f"{n}:{m} has gaps"


def consecutive(cycles: list[int]) -> list[int]:
    """As many cycles in a row, from the first one on."""
    return list(range(cycles[0], cycles[0] + len(cycles)))


@pytest.mark.parametrize("style", STYLES)
def test_latency(style, seed):
    arch, source = arch_with("tiny", style), random.Random(seed)
    for n, m in [(1, 1), (1, 4), (2, 4), (2, 8), (8, 8), (5, 16), (16, 16)]:
        run = reduce("tiny", style, [random_words(arch, source, m)], n, m)
        assert run.left[0] == run.entered[-1] + block("tiny", style).component.latency(n), f"{n}:{m}"
    assert block("tiny", style).component.latency(8) == {"serial": 12, "parallel": 4}[style]


@pytest.mark.parametrize("style", STYLES)
def test_clear_forgets_everything(style, seed):
    arch, source = arch_with("tiny", style), random.Random(seed)
    dut = block("tiny", style)
    for cycles in range(1, 40):
        for _ in range(cycles):
            word = source.getrandbits(arch.memory.data_bits + 1)
            dut.step(i=word, i_valid=1, n=3, m=5, o_ready=cycles % 2)
        dut.step(clear=1)
        assert not dut.step()["busy"]
        reduce("tiny", style, [random_words(arch, source, 12)], 2, 4)

"""Transposer against Python's zip: blocks of several sizes, stalls, full rate, and the mark of the last column."""

import random
from functools import cache

import pytest
from amaranth.lib import data

from hwgen.memory.transpose import Transposer
from tests.hwgen.stream_support import StreamBlock
from tests.support import at_random, every_fourth, long, never

pytestmark = pytest.mark.verilator
SIZES = (4, 8, 32)


@cache
def block(cols: int) -> StreamBlock:
    shape = data.StructLayout({"data": 16 * cols, "end": 1})
    return StreamBlock(Transposer(shape=shape, cols=cols), "transposer")


def random_blocks(cols: int, source: random.Random, count: int) -> list[tuple[list[list[int]], int]]:
    """Blocks and whether each is marked."""
    return [
        ([[source.getrandbits(16) for _ in range(cols)] for _ in range(cols)], source.randrange(2))
        for _ in range(count)
    ]


def words(blocks: list[tuple[list[list[int]], int]], cols: int) -> list[int]:
    """Words of blocks; the mark is on the last word of each."""
    return [
        sum(value << 16 * col for col, value in enumerate(row)) | (mark and number == cols - 1) << 16 * cols
        for rows, mark in blocks
        for number, row in enumerate(rows)
    ]


def transpose(cols: int, blocks, **stalls):
    """Send blocks and compare their columns."""
    result = block(cols).transfer(words(blocks, cols), **stalls)
    assert result.items == words([(list(zip(*rows)), mark) for rows, mark in blocks], cols)
    return result


@pytest.mark.parametrize("cols", SIZES)
@pytest.mark.parametrize(("stalls", "sink"), [(0, 0), (0.5, 0), (0, 0.5), (0.5, 0.5)])
def test_random_blocks(cols, stalls, sink, seed):
    for count in (1, 2, 3, 12):
        patterns = {"stalls": at_random(seed + count, stalls), "sink": at_random(seed - count, sink)}
        transpose(cols, random_blocks(cols, random.Random(seed), count), **patterns)


@pytest.mark.parametrize("cols", SIZES)
@pytest.mark.parametrize("sink", [every_fourth, long(3 * 32 + 5)])
def test_slow_reader(cols, sink, seed):
    transpose(cols, random_blocks(cols, random.Random(seed), 7), sink=sink)


@pytest.mark.parametrize("cols", SIZES)
def test_one_word_a_cycle(cols, seed):
    """n words in n + latency cycles."""
    run = transpose(cols, random_blocks(cols, random.Random(seed), 6), stalls=never)
    start, count = run.entered[0], 6 * cols
    assert run.entered == list(range(start, start + count))
    first = start + block(cols).component.latency
    assert run.left == list(range(first, first + count))


@pytest.mark.parametrize("cols", SIZES)
def test_clear_forgets_everything(cols, seed):
    source, dut = random.Random(seed), block(cols)
    for cycles in range(1, 3 * cols, 3):
        for _ in range(cycles):
            dut.step(i=source.getrandbits(16 * cols), i_valid=1, o_ready=cycles % 2)
        dut.step(clear=1)
        assert not dut.step()["busy"]
        transpose(cols, random_blocks(cols, source, 2))

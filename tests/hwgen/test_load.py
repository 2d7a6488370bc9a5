"""Load engine against ISA.md: places of beats, AXI protocol, throughput."""

import random

import pytest

from hwgen.arch import load as load_arch
from hwgen.arch.isa import Opcode, Target
from tests.hwgen.load_support import check, load, random_load
from tests.support import ARCHS, at_random, every_fourth, long, never


@pytest.mark.parametrize(
    ("preset", "opcode"), [*((preset, Opcode.LOAD) for preset in ARCHS), ("tiny2", Opcode.FILL)], ids=str
)
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("stalled", [False, True])
def test_random_loads_land_where_the_isa_says(preset, opcode, seed, stalled):
    arch, source = ARCHS[preset](), random.Random(seed)
    commands = [random_load(arch, source, opcode) for _ in range(16)]
    stalls = (at_random(seed), at_random(seed + 100)) if stalled else (never, never)
    check(arch, commands, stalls=stalls[0], sink=stalls[1], latency=source.choice([1, 7, 30]), seed=seed)


@pytest.mark.parametrize("preset", ["tiny", "tiny2"])
@pytest.mark.parametrize("sink", [every_fourth, long(60)])
def test_slow_scratchpads(preset, sink):
    arch, source = load_arch(preset), random.Random(9)
    check(arch, [random_load(arch, source) for _ in range(8)], sink=sink)


@pytest.mark.parametrize("preset", ARCHS)
def test_every_chunk_size(preset):
    """The banks take a row in one round, and what is beyond is dropped; or, with a stride, in three rounds."""
    arch = ARCHS[preset]()
    for chunk_log2 in range(7):
        beats = 2**chunk_log2 * arch.array.rows // arch.array.cols
        shape = {"addr": 3, "chunk_log2": chunk_log2, "rows": 5}
        check(arch, [load(arch, Target.ACT_CHUNKS, beats=beats, pad=2, **shape)])
        if beats:
            check(arch, [load(arch, Target.ACT_CHUNKS, beats=3 * beats, stride=20, **shape)], limit=90_000)


def test_bursts_end_at_pages_and_join_rows_without_gaps():
    arch = load_arch("tiny")
    _, memory, _ = check(arch, [load(arch, Target.WGT, stride=6, rows=5, beats=6, at=512 - 20)])
    assert [(address // 8, length) for _, address, length in memory.bursts] == [(492, 16), (508, 4), (512, 10)]
    _, memory, _ = check(arch, [load(arch, Target.WGT, stride=6, rows=2, beats=6, skip=7, at=512 - 8)])
    assert [(address // 8, length) for _, address, length in memory.bursts] == [(504, 6), (511, 1), (512, 5)]


@pytest.mark.parametrize(
    ("fields", "bursts"),
    [
        ({"beats": 3, "hop": 3, "skip": 9}, [(0, 16), (16, 2)]),
        ({"beats": 3, "hop": 3, "skip": 20}, [(0, 9), (20, 9)]),
        ({"beats": 3, "hop": 5, "skip": 15}, [(0, 3), (5, 3), (10, 3), (15, 3), (20, 3), (25, 3)]),
        ({"beats": 1, "hop": 0, "skip": 1}, [(0, 1), (0, 1), (0, 1), (1, 1), (1, 1), (1, 1)]),
    ],
)
def test_runs_and_rows_without_gaps_become_one_burst(fields, bursts):
    arch = load_arch("tiny")
    _, memory, _ = check(arch, [load(arch, Target.ACT_ROWS, rows=2, planes=3, **fields)])
    assert [(address // 8, length) for _, address, length in memory.bursts] == bursts


def test_last_page_of_memory_is_readable():
    arch = load_arch("tiny2")
    check(arch, [load(arch, Target.WGT, rows=1, beats=9, at=2**32 // 8 - 9)])


@pytest.mark.parametrize("latency", [1, 30])
def test_one_beat_a_cycle(latency):
    arch = load_arch("tiny")
    bench, _, taken = check(arch, [load(arch, Target.WGT, rows=1, beats=300, at=3)], latency=latency)
    # Command to address 4 cycles, the memory's latency, beat to stream 1 cycle.
    assert [cycle for cycle, _ in taken] == [bench.taken[0] + 4 + latency + 1 + index for index in range(300)]
    assert bench.done == [taken[-1][0]]


def test_short_rows_and_instructions_follow_without_gaps():
    arch = load_arch("tiny")
    rows = [load(arch, Target.ACT_ROWS, rows=64, beats=2, skip=3)]
    short = [load(arch, Target.WGT, addr=index, rows=1, beats=6, at=512 * index) for index in range(30)]
    for commands in (rows, short):
        _, _, taken = check(arch, commands, latency=12)
        assert taken[-1][0] - taken[0][0] == len(taken) - 1


@pytest.mark.parametrize("target", [Target.ACT_ROWS, Target.ACT_CHUNKS, Target.COLS, Target.PACKED])
def test_single_beats_stream_at_one_a_cycle(target):
    """Bursts of one beat each: as many are in flight as the memory's latency needs."""
    arch = load_arch("tiny")
    item = load(arch, target, rows=12, planes=15, beats=1, hop=100, skip=7, stride=12, chunk_log2=0)
    bench, memory, taken = check(arch, [item], latency=arch.memory.outstanding - 2)
    assert [length for *_, length in memory.bursts] == [1] * 180
    first = bench.taken[0] + 4 + memory.latency + 1
    assert [cycle for cycle, _ in taken] == list(range(first, first + 180))


def test_padding_takes_one_cycle_a_beat():
    arch = load_arch("tiny")
    _, memory, taken = check(arch, [load(arch, Target.ACC16, rows=20, beats=3, pad=2, stride=5)])
    assert taken[-1][0] - taken[0][0] == len(taken) - 1
    bench, memory, taken = check(arch, [load(arch, Target.ACC16, rows=20, pad=5, stride=5, skip=4)])
    assert (len(taken), memory.bursts) == (100, [])
    assert taken[0][0] == bench.taken[0] + 5
    assert taken[-1][0] == taken[0][0] + 99

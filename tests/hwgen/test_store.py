"""Store engine against ISA.md and numpy: beats in memory, AXI protocol, throughput, latency."""

import random
from dataclasses import replace

import pytest

from hwgen.arch import load as load_arch
from hwgen.arch.config import Reducer as ReducerSettings
from hwgen.arch.isa import Format
from hwgen.lib.streams import Queue
from hwgen.memory.reader import StoreReader
from hwgen.memory.words import BUFFER_BEATS
from hwgen.reducer.column import STYLES
from tests.hwgen.store_support import PATHS, check, quick, random_store, random_words, run, store
from tests.support import ARCHS, at_random, every_fourth, long, never

PACKED_LATENCY = 16 + 2 + 2
"""Of the set-up on `tiny`: a cycle for every bit of a count of words, of a column, and two."""


@pytest.mark.parametrize("preset", ARCHS)
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("stalled", [False, True])
def test_random_stores_write_what_the_isa_says(preset, seed, stalled):
    arch, source = ARCHS[preset](), random.Random(seed)
    commands = [random_store(arch, source) for _ in range(14)]
    stalls, acc_stalls = (at_random(seed), at_random(seed + 50)) if stalled else (never, never)
    check(
        arch,
        commands,
        random_words(arch, seed, 300),
        stalls=stalls,
        acc_stalls=acc_stalls,
        latency=source.choice([1, 7, 30]),
    )


def test_every_number_of_valid_columns():
    arch = quick("tiny")
    words = random_words(arch, 7, 20)
    for path in PATHS.values():
        shape = path | {"words": 2, "rows": 4, "stride": 3}
        check(arch, [store(arch, **shape, lanes=lanes, at=100 * lanes) for lanes in (1, 2, 3, 4)], words)


def test_rounding_at_every_corner():
    """Ties, the edge of overflow and of subnormals, specials, through the engine."""
    arch = quick("tiny")
    corners = [0x00000000, 0x33000000, 0x33000001, 0x33800000, 0x387FC000, 0x387FE000, 0x387FF000, 0x38800000,
               0x3F800000, 0x3F801000, 0x3F803000, 0x3F801001, 0x477FE000, 0x477FEFFF, 0x477FF000, 0x7F7FFFFF,
               0x7F800000, 0x7F800001, 0x7FC00000, 0x7FFFFFFF]  # fmt: skip
    values = [value | sign << 31 for value in corners for sign in (0, 1)]
    words = {
        index: sum(v << 32 * col for col, v in enumerate(values[4 * index : 4 * index + 4])) for index in range(10)
    }
    for form in (Format.FP32, Format.OPERAND, Format.DENSE):
        check(arch, [store(arch, form, words=10)], words)


def test_bursts_end_at_pages_and_join_rows_without_gaps():
    arch = quick("tiny")
    words = random_words(arch, 1, 64)
    _, memory, _ = check(arch, [store(arch, Format.FP32, rows=5, words=3, stride=4, at=512 - 21)], words)
    assert [(address // 8, length) for _, address, length in memory.bursts] == [(491, 16), (507, 5), (512, 9)]
    _, memory, _ = check(arch, [store(arch, Format.OPERAND, rows=2, words=6, stride=6, skip=7, at=512 - 8)], words)
    assert [(address // 8, length) for _, address, length in memory.bursts] == [(504, 6), (511, 1), (512, 5)]


def test_packed_rows_stay_apart_by_what_they_were_before_they_were_reduced():
    """Such rows would follow one another without a gap if nothing were pruned."""
    arch = quick("tiny")
    _, memory, _ = check(
        arch, [store(arch, Format.PACKED, rows=8, words=3, n=1, m=4, skip=8)], random_words(arch, 2, 9)
    )
    assert [(address // 8, length) for _, address, length in memory.bursts] == [(0, 5), (8, 5), (16, 5)]


@pytest.mark.parametrize("form", [Format.FP32, Format.OPERAND, Format.DENSE])
def test_one_beat_a_cycle(form):
    arch = quick("tiny")
    words, count = random_words(arch, 1, 200), 200
    beats = count * (2 if form == Format.FP32 else 1)
    shape = {"rows": count, "stride": 1} if form == Format.DENSE else {"words": count}
    bench, memory, _ = check(arch, [store(arch, form, at=5, **shape)], words, latency=12)
    # Command to address 3 cycles, in which the first word is read; from there to the first beat LATENCY.
    first = bench.taken[0] + 3 + StoreReader.LATENCY
    assert memory.data_cycles == list(range(first, first + beats))
    assert bench.done == [memory.data_cycles[-1] + 12]


@pytest.mark.parametrize("form", [Format.OPERAND, Format.DENSE])
def test_transposed_beats_leave_one_a_cycle(form):
    """Single beats too: each column of OPERAND has a burst of its own."""
    arch = quick("tiny")
    rows, stride = (4, 50) if form == Format.OPERAND else (16, 13)
    item = store(arch, form, rows=rows, words=stride, stride=stride, transpose=1, skip=300)
    latency = (
        arch.memory.outstanding - 3
    )  # a response makes room for an address, a cycle later; its beat is 2 behind it
    bench, memory, acc = check(arch, [item], random_words(arch, 1, 250), latency=latency)
    first = bench.taken[0] + 3 + StoreReader.LATENCY + arch.array.cols + 1 + Queue.LATENCY
    assert memory.data_cycles == list(range(first, first + rows * stride))
    assert acc.read_cycles == list(range(acc.read_cycles[0], acc.read_cycles[0] + rows * stride))
    if form == Format.OPERAND:
        assert [length for *_, length in memory.bursts] == [1] * 200


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("transpose", [0, 1])
@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (2, 8), (3, 4), (8, 16), (4, 4)])
def test_packed_words_are_read_one_a_cycle(style, transpose, n, m):
    """Unless more than four beats leave for every four that come."""
    arch = replace(load_arch("tiny"), reducer=ReducerSettings(style=style))
    item = store(arch, Format.PACKED, rows=32, words=4, stride=4, transpose=transpose, n=n, m=m, skip=300)
    bench, memory, acc = check(arch, [item], random_words(arch, 1, 128))
    # Set-up, the queue of jobs and the walker; then the first group must have come.
    start = bench.taken[0] + PACKED_LATENCY + 2
    fill = StoreReader.LATENCY + transpose * (arch.array.cols + 1) + m - 1 + STYLES[style][0].latency(n) + 3
    fill += Queue.LATENCY
    assert memory.data_cycles[0] == start + fill
    if 5 * n <= 4 * m:
        assert acc.read_cycles == list(range(start, start + 128))
    else:
        assert memory.data_cycles == list(range(start + fill, start + fill + 128 * n // m // 4 * 5))


@pytest.mark.parametrize("order", ["fp32 packed fp32 turned", "fp32 fp32 packed turned"])
def test_words_of_the_path_are_read_while_fp32_words_leave(order):
    """Every beat of a tile of weights, its state and both packed copies leaves without a gap; the last one may wait."""
    arch = quick("tiny")
    shape, kinds = {"rows": 8, "words": 1, "planes": 8, "stride": 8}, []
    packed = {"form": Format.PACKED, "n": 1, "m": 4, "plane_skip": -40, **shape}
    for tile in range(4):
        at = 2000 * tile
        kind = {
            "fp32": store(arch, Format.FP32, words=64, at=at),
            "packed": store(arch, at=at + 600, skip=5, **packed),
            "turned": store(arch, at=at + 1300, skip=5, transpose=1, **packed),
        }
        kinds += [kind[name] for name in order.split()]
    _, memory, acc = check(arch, kinds, random_words(arch, 4, 64), latency=2)
    beats = 128 + 40 + 128
    assert memory.data_cycles[beats] - memory.data_cycles[0] == beats
    assert len(acc.read_cycles) == 4 * 4 * 64


def test_short_rows_and_instructions_follow_without_gaps():
    arch = quick("tiny")
    words = random_words(arch, 1, 64)
    rows = [store(arch, Format.OPERAND, rows=20, words=4, stride=1, skip=9)]
    short = [store(arch, Format.OPERAND, addr=index, words=5, at=512 * index) for index in range(20)]
    turned = [store(arch, Format.DENSE, rows=4, words=2, transpose=1, addr=at, at=100 * at) for at in range(20)]
    for commands in (rows, short, turned):
        _, memory, _ = check(arch, commands, words, latency=8)
        assert memory.data_cycles[-1] - memory.data_cycles[0] == len(memory.data_cycles) - 1


@pytest.mark.parametrize("stalls", [every_fourth, long(40)])
@pytest.mark.parametrize("acc_stalls", [every_fourth, long(40)])
def test_slow_memory_and_busy_accumulator(stalls, acc_stalls):
    arch, source = quick("tiny2"), random.Random(8)
    commands = [random_store(arch, source) for _ in range(3)]
    check(arch, commands, random_words(arch, 8, 300), stalls=stalls, acc_stalls=acc_stalls)


def test_words_wait_in_the_accumulator_while_memory_does_not_take_them():
    arch = quick("tiny")
    _, memory, acc = run(arch, [store(arch, Format.OPERAND, words=40, at=7)], {}, stalls=long(25))
    for index, cycle in enumerate(acc.read_cycles):
        assert index <= sum(taken < cycle for taken in memory.data_cycles) + BUFFER_BEATS


def test_paths_follow_one_another_in_any_order():
    """A path is changed only when it is empty; nothing is lost, and order in memory is program order."""
    arch, source = quick("tiny"), random.Random(3)
    paths = [source.choice(list(PATHS.values())) for _ in range(40)]
    commands = [
        store(arch, **path, rows=4, words=2, stride=2, addr=source.randrange(99), at=at % 7)
        for at, path in enumerate(paths)
    ]
    check(arch, commands, random_words(arch, 3, 120), stalls=at_random(3), limit=60_000)

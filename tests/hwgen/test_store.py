"""Store engine against ISA.md and numpy: beats in memory, AXI protocol, throughput, errors and stops."""

import random
from dataclasses import replace
from functools import partial

import ml_dtypes
import numpy as np
import pytest

from hwgen.arch import load as load_arch
from hwgen.arch.config import Reducer as ReducerSettings
from hwgen.arch.isa import Cause, Format, Opcode, command
from hwgen.memory.narrow import BUFFER_BEATS, StoreReader
from hwgen.memory.store import StoreEngine
from hwgen.reducer.column import STYLES
from tests.hwgen.reducer_support import packed_beats
from tests.support import ARCHS, AccMemory, AxiMemory, EngineBench, at_random, every_fourth, long, never, simulate

DTYPES = {"fp16": (np.float16, 0x7E00), "bf16": (ml_dtypes.bfloat16, 0x7FC0)}


def quick(preset: str):
    """An architecture with small groups, whose reducer has few cells to elaborate."""
    arch = load_arch(preset)
    return replace(arch, array=replace(arch.array, group_max=4))


def narrow(arch, value: int) -> int:
    """FP32 bits rounded to the operand format by numpy; NaN as ISA.md wants it."""
    dtype, nan = DTYPES[arch.array.operand]
    if value & 0x7FFFFFFF > 0x7F800000:
        return nan
    with np.errstate(all="ignore"):
        return int(np.uint32(value).view(np.float32).astype(dtype).view(np.uint16))


def matrix(arch, item, words: dict[int, int]) -> list[list[int]]:
    """FP32 bits of the block, `rows` x `words*C`, without the columns that are not valid."""
    cols = arch.array.cols
    rows = []
    for y in range(item.rows):
        block = [words.get(item.addr + y * item.stride + x, 0) for x in range(item.words)]
        values = [word >> 32 * col & 0xFFFFFFFF for word in block for col in range(cols)]
        rows.append(values[: len(values) - cols + item.lanes] + [0] * (cols - item.lanes))
    return rows


def sequences(arch, item, rows: list[list[int]]) -> list[list[list[int]]]:
    """Rows of beats that operands `rows` are written as, before they are reduced."""
    cols, blocks = arch.array.cols, range(0, len(rows[0]), arch.array.cols)
    if item.format == Format.OPERAND and item.transpose:
        return [[list(column)] for column in zip(*rows)]
    if item.format == Format.OPERAND:
        return [[row[x : x + cols] for x in blocks] for row in rows]
    if item.transpose:
        return [[list(column) for column in zip(*rows[y : y + cols])] for y in range(0, len(rows), cols)]
    return [[row[x : x + cols] for row in rows] for x in blocks]


def expected(arch, item, words: dict[int, int], beats: dict[int, int]) -> None:
    """Execute one STORE as ISA.md describes it."""
    rows, half = matrix(arch, item, words), arch.array.cols // 2
    if item.format == Format.FP32:
        images = [[pack(row[x : x + half], 32) for x in range(0, len(row), half)] for row in rows]
    else:
        parts = sequences(arch, item, [[narrow(arch, value) for value in row] for row in rows])
        if item.format == Format.PACKED:
            images = [packed_beats(arch, part, item.n, item.m) for part in parts]
        else:
            images = [[pack(beat, 16) for beat in part] for part in parts]
    for y, image in enumerate(images):
        start = item.dram_addr + y * item.row_stride
        beats.update({start + x * arch.beat_bytes: beat for x, beat in enumerate(image)})


def pack(values: list[int], width: int) -> int:
    return sum(value << width * place for place, value in enumerate(values))


def random_words(arch, seed: int, count: int) -> dict[int, int]:
    """Words of values around the operand formats: random bits, ordinary values, subnormals, near overflow."""
    source = random.Random(seed)

    def value() -> int:
        kind = source.randrange(4)
        if kind == 0:
            return source.getrandbits(32)
        scale = (1.0, 2.0**-24, 65520.0)[kind - 1]
        return int(np.float32(source.uniform(-1.1, 1.1) * scale).view(np.uint32))

    return {address: sum(value() << 32 * col for col in range(arch.array.cols)) for address in range(count)}


def run(arch, commands, words, *, stalls=never, acc_stalls=never, latency=10, memory=None, limit=20_000, drive=None):
    """Run commands; gives the bench, the memory and the accumulator."""
    engine = StoreEngine(arch)
    bench, acc, memory = EngineBench(engine), AccMemory(arch), memory or AxiMemory(arch)
    acc.words, memory.latency, memory.stalls = words, latency, stalls
    simulate(
        engine,
        drive(bench) if drive else partial(bench.run, commands=commands),
        background=[
            bench.watch,
            partial(memory.serve_write, port=engine.write),
            partial(acc.serve_read, port=engine.acc, stalls=acc_stalls),
        ],
        limit=limit,
    )
    assert memory.in_flight == 0
    return bench, memory, acc


def check(arch, commands, words, **options) -> tuple:
    """Run commands that have no error and compare all of memory."""
    bench, memory, acc = run(arch, commands, words, **options)
    wanted: dict[int, int] = {}
    for item in commands:
        expected(arch, item, words, wanted)
    assert memory.beats == wanted
    assert len(bench.done) == len(commands)
    assert not bench.errors
    return bench, memory, acc


def run_beats(arch, form, rows: int, words: int, transpose: int, n: int, m: int) -> int:
    """Beats that are written one behind the other."""
    cols, lanes = arch.array.cols, arch.array.lanes
    length = words * cols if transpose else rows
    match form:
        case Format.FP32:
            return 2 * words
        case Format.OPERAND:
            return 1 if transpose else words
        case Format.DENSE:
            return length
        case Format.PACKED:
            return -(-(length // m * -(-n // lanes) * lanes) // 4) * 5


def store(arch, form, *, addr=0, at=0, skip=None, rows=1, words=1, transpose=0, n=0, m=0, **fields):
    """A STORE with `at` and `skip` (row stride) in beats."""
    skip = run_beats(arch, form, rows, words, transpose, n, m) if skip is None else skip
    size, lanes = arch.beat_bytes, fields.pop("lanes", arch.array.cols)
    places = {"addr": addr, "dram_addr": at * size, "row_stride": skip * size}
    shape = {"rows": rows, "words": words, "lanes": lanes, "transpose": transpose, "n": n, "m": m}
    return command(Opcode.STORE, format=form, **places, **shape, **fields)


def random_store(arch, source: random.Random):
    form, cols = source.choice(list(Format)), arch.array.cols
    transpose = source.randrange(2) if form != Format.FP32 else 0
    rows, words = source.randint(1, 6), source.randint(1, 5)
    if transpose:
        rows = cols if form == Format.OPERAND else cols * source.randint(1, 2)
    pattern = {}
    if form == Format.PACKED:
        length = words * cols if transpose else rows
        sizes = [size for size in range(1, arch.array.group_max + 1) if length % size == 0]
        pattern["m"] = source.choice(sizes)
        pattern["n"] = source.randint(1, pattern["m"])
    return store(
        arch,
        form,
        addr=source.randrange(100),
        stride=source.randrange(20),
        rows=rows,
        words=words,
        transpose=transpose,
        lanes=source.randint(1, cols),
        at=source.randint(0, 4 * 4096 // arch.beat_bytes),
        skip=source.choice([None, source.randint(20, 700)]),
        **pattern,
    )


PACKED_LATENCY = 16 + 2 + 2
"""Of the set-up on `tiny`: a cycle for every bit of a count of words, of a column, and two."""
PATHS = {
    "fp32": {"form": Format.FP32},
    "operand": {"form": Format.OPERAND},
    "operand transposed": {"form": Format.OPERAND, "transpose": 1},
    "dense": {"form": Format.DENSE},
    "dense transposed": {"form": Format.DENSE, "transpose": 1},
    "packed": {"form": Format.PACKED, "n": 2, "m": 4},
    "packed transposed": {"form": Format.PACKED, "transpose": 1, "n": 2, "m": 4},
}
"""Every way through the engine."""


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
        check(arch, [store(arch, **path, words=2, rows=4, stride=3, lanes=lanes) for lanes in (1, 2, 3, 4)], words)


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
    first = bench.taken[0] + 3 + StoreReader.LATENCY + arch.array.cols + 1
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
    assert memory.data_cycles[0] == start + fill
    if 5 * n <= 4 * m:
        assert acc.read_cycles == list(range(start, start + 128))
    else:
        assert memory.data_cycles == list(range(start + fill, start + fill + 128 * n // m // 4 * 5))


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


def bad_stores(arch):
    """Name -> (cause, beats that are written, fields that break a rule)."""
    size, acc, end = arch.beat_bytes, arch.scratchpads.acc_depth, 1 << arch.memory.address_bits
    field, word, align = Cause.BAD_FIELD, Cause.SCRATCHPAD_RANGE, Cause.MEMORY_ALIGNMENT
    return {
        "lanes": (field, 0, {"lanes": 5}),
        "transposed sums": (field, 0, {"transpose": 1, "rows": 4}),
        "operands of 3 rows": (field, 0, {"format": 1, "transpose": 1, "rows": 3}),
        "operands of 8 rows": (field, 0, {"format": 1, "transpose": 1, "rows": 8}),
        "dense of 6 rows": (field, 0, {"format": 2, "transpose": 1, "rows": 6}),
        "packed of 6 rows": (field, 0, {"format": 3, "transpose": 1, "rows": 6, "n": 1, "m": 2}),
        "none of 4": (field, 0, {"format": 3, "rows": 4, "m": 4}),
        "5 of 4": (field, 0, {"format": 3, "rows": 4, "n": 5, "m": 4}),
        "1 of none": (field, 0, {"format": 3, "rows": 4, "n": 1}),
        "a group too large": (field, 0, {"format": 3, "rows": 8, "n": 1, "m": 8}),
        "part of a group": (field, 0, {"format": 3, "rows": 7, "n": 1, "m": 4}),
        "part of a transposed group": (field, 0, {"format": 3, "transpose": 1, "rows": 4, "n": 1, "m": 3}),
        "part of a group out of range": (field, 0, {"format": 3, "rows": 7, "n": 1, "m": 4, "addr": acc}),
        "packed out of range": (word, 0, {"format": 3, "rows": 8, "n": 1, "m": 4, "addr": acc - 7, "stride": 1}),
        "later column": (align, 2, {"format": 1, "transpose": 1, "rows": 4, "dram_addr": end - 512, "row_stride": 256}),
        "odd address": (align, 0, {"dram_addr": size // 2}),
        "odd stride": (align, 0, {"row_stride": size + 1}),
        "first address": (align, 0, {"dram_addr": end}),
        "later row": (align, 3, {"words": 3, "format": 1, "rows": 2, "dram_addr": end - 512, "row_stride": 512}),
        "end of row": (align, 2, {"words": 3, "dram_addr": end - 2 * size}),
        "first word": (word, 0, {"addr": acc}),
        "last word": (word, 0, {"addr": acc - 7, "rows": 2, "words": 4, "stride": 4}),
        "far row": (word, 0, {"rows": 65535, "stride": 2**20 - 1}),
    }


@pytest.mark.parametrize("preset", ["tiny", "tiny2"])
@pytest.mark.parametrize("name", bad_stores(quick("tiny")))
def test_errors(preset, name):
    arch = quick(preset)
    cause, written, fields = bad_stores(arch)[name]
    good, bad = (store(arch, Format.FP32, rows=2, words=3, stride=3) for _ in range(2))
    bad.operands.update(dict.fromkeys(bad.operands, 0) | {"rows": 1, "words": 1, "lanes": 4} | fields)
    bench, memory, _ = run(arch, [good, bad, good], random_words(arch, 1, 20), stalls=at_random(5))
    assert [(found, pc) for _, found, pc in bench.errors] == [(cause, 1)]
    assert len(bench.done) == 1
    assert len(memory.data_cycles) == 12 + written


def test_last_word_and_last_address_are_usable():
    arch = quick("tiny2")
    depth, at = arch.scratchpads.acc_depth, 2**32 // 8 - 6
    check(arch, [store(arch, Format.FP32, addr=depth - 3, words=3, at=at)], random_words(arch, 1, depth))


@pytest.mark.parametrize("stalls", [never, at_random(6)])
def test_write_response_stops_the_run(stalls):
    arch = quick("tiny")
    memory = AxiMemory(arch)
    memory.bad_writes = {(512 + 17) * 8}
    commands = [store(arch, Format.OPERAND, words=40, at=512 * index) for index in range(12)]
    bench, memory, _ = run(arch, commands, random_words(arch, 1, 40), memory=memory, stalls=stalls)
    assert [(cause, pc) for _, cause, pc in bench.errors] == [(Cause.WRITE_RESPONSE, 1)]
    assert len(bench.done) == 1
    assert len(memory.bursts) < 36
    assert len(memory.data_cycles) == sum(length for *_, length in memory.bursts)


@pytest.mark.parametrize("stalls", [never, long(30)])
@pytest.mark.parametrize("when", [2, 3, 4, 5, 8, 20, 30, 55])
@pytest.mark.parametrize("path", ["fp32", "packed transposed"])
def test_stop_completes_announced_bursts_and_the_engine_works_again(stalls, when, path):
    arch = quick("tiny")
    words, shape = random_words(arch, 1, 64), PATHS[path] | {"rows": 4, "words": 7, "stride": 8}
    commands = [store(arch, at=512 * index + 511, **shape) for index in range(3)]
    again = [store(arch, at=512 * index + 3000, **shape) for index in range(3)]
    stopped: list[int] = []

    def drive(bench):
        async def stop(ctx):
            await bench.run(ctx, commands, stop_at=when)
            stopped.extend([len(memory.bursts), len(memory.data_cycles), len(bench.done)])
            await bench.run(ctx, again)

        return stop

    memory = AxiMemory(arch)
    bench, memory, _ = run(arch, commands, words, memory=memory, drive=drive, stalls=stalls)
    wanted: dict[int, int] = {}
    for item in again:
        expected(arch, item, words, wanted)
    assert {place: memory.beats[place] for place in wanted} == wanted
    assert stopped[1] == sum(length for *_, length in memory.bursts[: stopped[0]])
    assert len(bench.done) == stopped[2] + 3
    assert not bench.errors

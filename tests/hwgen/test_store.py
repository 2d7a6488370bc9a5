"""Store engine against ISA.md and numpy: beats in memory, AXI protocol, throughput, errors and stops."""

import random
from functools import partial

import ml_dtypes
import numpy as np
import pytest

from hwgen.arch import load as load_arch
from hwgen.arch.isa import Cause, Format, Opcode, command
from hwgen.memory.narrow import StoreReader
from hwgen.memory.store import StoreEngine
from tests.support import ARCHS, AccMemory, AxiMemory, EngineBench, at_random, every_fourth, long, never, simulate

DTYPES = {"fp16": (np.float16, 0x7E00), "bf16": (ml_dtypes.bfloat16, 0x7FC0)}


def narrow(arch, value: int) -> int:
    """FP32 bits rounded to the operand format by numpy; NaN as ISA.md wants it."""
    dtype, nan = DTYPES[arch.array.operand]
    if value & 0x7FFFFFFF > 0x7F800000:
        return nan
    with np.errstate(all="ignore"):
        return int(np.uint32(value).view(np.float32).astype(dtype).view(np.uint16))


def expected(arch, item, words: dict[int, int], beats: dict[int, int]) -> None:
    """Execute one STORE as ISA.md describes it."""
    cols, size = arch.array.cols, arch.beat_bytes
    for y in range(item.rows):
        for x in range(item.words):
            word = words.get(item.addr + y * item.stride + x, 0)
            values = [word >> 32 * col & 0xFFFFFFFF for col in range(cols)]
            if x == item.words - 1:
                values = [value if col < item.lanes else 0 for col, value in enumerate(values)]
            start = item.dram_addr + y * item.row_stride
            if item.format == Format.FP32:
                for half in (0, 1):
                    part = values[half * cols // 2 : (half + 1) * cols // 2]
                    beats[start + (2 * x + half) * size] = sum(value << 32 * i for i, value in enumerate(part))
            else:
                beats[start + x * size] = sum(narrow(arch, value) << 16 * i for i, value in enumerate(values))


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


def store(arch, form, *, addr=0, at=0, skip=None, words=1, **fields):
    """A STORE with `at` and `skip` (row stride) in beats."""
    beats = words * (2 if form == Format.FP32 else 1)
    skip = beats if skip is None else skip
    size, lanes = arch.beat_bytes, fields.pop("lanes", arch.array.cols)
    return command(
        Opcode.STORE,
        format=form,
        lanes=lanes,
        addr=addr,
        words=words,
        dram_addr=at * size,
        row_stride=skip * size,
        **fields,
    )


def random_store(arch, source: random.Random):
    return store(
        arch,
        source.choice(list(Format)),
        addr=source.randrange(100),
        stride=source.randrange(20),
        rows=source.randint(1, 5),
        words=source.randint(1, 9),
        lanes=source.randint(1, arch.array.cols),
        at=source.randint(0, 4 * 4096 // arch.beat_bytes),
        skip=source.choice([None, source.randint(20, 700)]),
    )


@pytest.mark.parametrize("preset", ARCHS)
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("stalled", [False, True])
def test_random_stores_write_what_the_isa_says(preset, seed, stalled):
    arch, source = ARCHS[preset](), random.Random(seed)
    commands = [random_store(arch, source) for _ in range(8)]
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
    arch = load_arch("tiny")
    words = random_words(arch, 7, 20)
    for form in Format:
        check(arch, [store(arch, form, words=2, rows=2, stride=3, lanes=lanes) for lanes in (1, 2, 3, 4)], words)


def test_rounding_at_every_corner():
    """Ties, the edge of overflow and of subnormals, specials, through the engine."""
    arch = load_arch("tiny")
    corners = [0x00000000, 0x33000000, 0x33000001, 0x33800000, 0x387FC000, 0x387FE000, 0x387FF000, 0x38800000,
               0x3F800000, 0x3F801000, 0x3F803000, 0x3F801001, 0x477FE000, 0x477FEFFF, 0x477FF000, 0x7F7FFFFF,
               0x7F800000, 0x7F800001, 0x7FC00000, 0x7FFFFFFF]  # fmt: skip
    values = [value | sign << 31 for value in corners for sign in (0, 1)]
    words = {
        index: sum(v << 32 * col for col, v in enumerate(values[4 * index : 4 * index + 4])) for index in range(10)
    }
    for form in Format:
        check(arch, [store(arch, form, words=10)], words)


def test_bursts_end_at_pages_and_join_rows_without_gaps():
    arch = load_arch("tiny")
    words = random_words(arch, 1, 64)
    _, memory, _ = check(arch, [store(arch, Format.FP32, rows=5, words=3, stride=4, at=512 - 21)], words)
    assert [(address // 8, length) for _, address, length in memory.bursts] == [(491, 16), (507, 5), (512, 9)]
    _, memory, _ = check(arch, [store(arch, Format.OPERAND, rows=2, words=6, stride=6, skip=7, at=512 - 8)], words)
    assert [(address // 8, length) for _, address, length in memory.bursts] == [(504, 6), (511, 1), (512, 5)]


@pytest.mark.parametrize("form", list(Format))
def test_one_beat_a_cycle(form):
    arch = load_arch("tiny")
    words, count = random_words(arch, 1, 200), 200
    beats = count * (2 if form == Format.FP32 else 1)
    bench, memory, _ = check(arch, [store(arch, form, words=count, at=5)], words, latency=12)
    # Command to address 3 cycles, to the first read 1, to the first beat LATENCY.
    first = bench.taken[0] + 3 + 1 + StoreReader.LATENCY
    assert memory.data_cycles == list(range(first, first + beats))
    assert bench.done == [memory.data_cycles[-1] + 12]


def test_short_rows_and_instructions_follow_without_gaps():
    arch = load_arch("tiny")
    words = random_words(arch, 1, 64)
    rows = [store(arch, Format.OPERAND, rows=20, words=4, stride=1, skip=9)]
    short = [store(arch, Format.OPERAND, addr=index, words=5, at=512 * index) for index in range(20)]
    for commands in (rows, short):
        _, memory, _ = check(arch, commands, words, latency=8)
        assert memory.data_cycles[-1] - memory.data_cycles[0] == len(memory.data_cycles) - 1


@pytest.mark.parametrize("stalls", [every_fourth, long(40)])
@pytest.mark.parametrize("acc_stalls", [every_fourth, long(40)])
def test_slow_memory_and_busy_accumulator(stalls, acc_stalls):
    arch, source = load_arch("tiny2"), random.Random(8)
    commands = [random_store(arch, source) for _ in range(3)]
    check(arch, commands, random_words(arch, 8, 300), stalls=stalls, acc_stalls=acc_stalls)


def test_no_word_is_read_before_it_is_announced():
    arch = load_arch("tiny")
    _, memory, acc = run(arch, [store(arch, Format.OPERAND, words=40, at=7)], {}, stalls=long(25))
    for index, cycle in enumerate(acc.read_cycles):
        assert index < sum(length for address_cycle, _, length in memory.bursts if address_cycle < cycle)


def bad_stores(arch):
    """Name -> (cause, beats that are written, fields that break a rule)."""
    size, acc, end = arch.beat_bytes, arch.scratchpads.acc_depth, 1 << arch.memory.address_bits
    field, word, align = Cause.BAD_FIELD, Cause.SCRATCHPAD_RANGE, Cause.MEMORY_ALIGNMENT
    return {
        "lanes": (field, 0, {"lanes": 5}),
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
@pytest.mark.parametrize("name", bad_stores(load_arch("tiny")))
def test_errors(preset, name):
    arch = load_arch(preset)
    cause, written, fields = bad_stores(arch)[name]
    good, bad = (store(arch, Format.FP32, rows=2, words=3, stride=3) for _ in range(2))
    bad.operands.update(dict.fromkeys(bad.operands, 0) | {"rows": 1, "words": 1, "lanes": 4} | fields)
    bench, memory, _ = run(arch, [good, bad, good], random_words(arch, 1, 20), stalls=at_random(5))
    assert [(found, pc) for _, found, pc in bench.errors] == [(cause, 1)]
    assert len(bench.done) == 1
    assert len(memory.data_cycles) == 12 + written


def test_last_word_and_last_address_are_usable():
    arch = load_arch("tiny2")
    depth, at = arch.scratchpads.acc_depth, 2**32 // 8 - 6
    check(arch, [store(arch, Format.FP32, addr=depth - 3, words=3, at=at)], random_words(arch, 1, depth))


@pytest.mark.parametrize("stalls", [never, at_random(6)])
def test_write_response_stops_the_run(stalls):
    arch = load_arch("tiny")
    memory = AxiMemory(arch)
    memory.bad_writes = {(512 + 17) * 8}
    commands = [store(arch, Format.OPERAND, words=40, at=512 * index) for index in range(12)]
    bench, memory, _ = run(arch, commands, random_words(arch, 1, 40), memory=memory, stalls=stalls)
    assert [(cause, pc) for _, cause, pc in bench.errors] == [(Cause.WRITE_RESPONSE, 1)]
    assert len(bench.done) == 1
    assert len(memory.bursts) < 36
    assert len(memory.data_cycles) == sum(length for *_, length in memory.bursts)


@pytest.mark.parametrize("stalls", [never, long(30)])
@pytest.mark.parametrize("when", [2, 3, 4, 5, 8, 20, 55])
def test_stop_completes_announced_bursts_and_the_engine_works_again(stalls, when):
    arch = load_arch("tiny")
    words = random_words(arch, 1, 64)
    commands = [store(arch, Format.FP32, words=21, at=512 * index + 511) for index in range(3)]
    again = [store(arch, Format.FP32, words=21, at=512 * index + 3000) for index in range(3)]
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

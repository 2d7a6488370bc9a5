"""Load engine against ISA.md: places of beats, AXI protocol, throughput, errors and stops."""

import itertools
import random
from functools import partial

import pytest

from hwgen.arch import load as load_arch
from hwgen.arch.isa import Cause, Opcode, Target, command
from hwgen.memory.faults import FaultReporter
from hwgen.memory.load import LoadEngine
from tests.support import (
    ARCHS,
    AxiMemory,
    EngineBench,
    at_random,
    every_fourth,
    long,
    never,
    receive,
    simulate,
    wide_arch,
)


def operands_in(beat: int, count: int) -> list[int]:
    return [beat >> (16 * i) & 0xFFFF for i in range(count)]


def beats_of(arch, memory: AxiMemory, item, y: int) -> list[int]:
    """Row `y` of a LOAD: the runs of its planes, then zeros."""
    runs = [item.dram_addr + y * item.row_stride + z * item.plane_stride for z in range(item.planes)]
    places = [run + x * arch.beat_bytes for run in runs for x in range(item.beats)]
    return [memory.beats.get(place, 0) for place in places] + [0] * item.pad


def index_words(arch, beat: int) -> list[int]:
    """The 4/lanes index words of a beat."""
    size = 4 * arch.array.lanes * arch.array.cols
    return [beat >> (i * size) & ((1 << size) - 1) for i in range(4 // arch.array.lanes)]


def expected(arch, memory: AxiMemory, item, stored: dict) -> None:
    """Execute one LOAD as ISA.md describes it."""
    for y in range(item.rows):
        for x, beat in enumerate(beats_of(arch, memory, item, y)):
            if item.target == Target.ACT_CHUNKS:
                store_chunks(arch, item, y, x, beat, stored)
            elif item.target in (Target.COLS, Target.PACKED):
                store_slot(arch, item, y, x, beat, stored)
            else:
                store_beat(arch, item, y, x, beat, stored)


def store_beat(arch, item, y: int, x: int, beat: int, stored: dict) -> None:
    cols, lanes, rows = arch.array.cols, arch.array.lanes, arch.array.rows
    half, first = cols // 2, item.addr + y * item.stride
    values = operands_in(beat, cols)
    match item.target:
        case Target.ACT_ROWS:
            word = item.addr + (y // rows) * item.stride + x
            stored.update({("act", y % rows, word * cols + i): v for i, v in enumerate(values)})
        case Target.WGT:
            stored.update({("wgt", first + x // lanes, x % lanes, i): v for i, v in enumerate(values)})
        case Target.IDX:
            words = enumerate(index_words(arch, beat))
            stored.update({("idx", first + x * (4 // lanes) + i): word for i, word in words})
        case Target.ACC32:
            for i in range(half):
                stored["acc32", first + x // 2, (x % 2) * half + i] = beat >> (32 * i) & 0xFFFFFFFF
        case Target.ACC16:
            stored.update({("acc16", first + x, i): v for i, v in enumerate(values)})


def store_chunks(arch, item, y: int, x: int, beat: int, stored: dict) -> None:
    cols, rows, size = arch.array.cols, arch.array.rows, 2**item.chunk_log2
    for i, value in enumerate(operands_in(beat, cols)):
        u, rest = divmod(x * cols + i, size)
        if item.stride or u < rows:
            stored["act", u % rows, (item.addr + u // rows * item.stride) * cols + y * size + rest] = value


def store_slot(arch, item, y: int, x: int, beat: int, stored: dict) -> None:
    lanes = arch.array.lanes
    q, part = divmod(x, 5) if item.target == Target.PACKED else (0, None)
    if part == 4:
        for i, word in enumerate(index_words(arch, beat)):
            stored["idx", item.addr + y + (4 * q // lanes + i) * item.stride] = word
        return
    s = x if part is None else 4 * q + part
    word = item.addr + y + s // lanes * item.stride
    stored.update({("wgt", word, s % lanes, i): v for i, v in enumerate(operands_in(beat, arch.array.cols))})


def apply(arch, beat, stored: dict) -> None:
    """What a scratchpad does with a beat, by the docstring of `LoadBeat`."""
    cols, rows = arch.array.cols, arch.array.rows
    values = operands_in(beat.data, cols)
    if beat.target in (Target.ACT_ROWS, Target.ACT_CHUNKS):
        if beat.whole:
            stored.update({("act", beat.bank, beat.address * cols + i): v for i, v in enumerate(values)})
        else:
            size = 2**beat.chunk_log2
            for i, value in enumerate(values):
                if beat.bank + i // size < rows:
                    stored["act", beat.bank + i // size, beat.address * cols + beat.position + i % size] = value
    elif beat.target == Target.WGT:
        stored.update({("wgt", beat.address, beat.part, i): v for i, v in enumerate(values)})
    elif beat.target == Target.IDX:
        words = enumerate(index_words(arch, beat.data))
        stored.update({("idx", beat.address + i * beat.step): word for i, word in words})
    elif beat.target == Target.ACC32:
        half = cols // 2
        for i in range(half):
            stored["acc32", beat.address, beat.part * half + i] = beat.data >> (32 * i) & 0xFFFFFFFF
    else:
        assert beat.target == Target.ACC16
        stored.update({("acc16", beat.address, i): v for i, v in enumerate(values)})


def fill(arch, memory: AxiMemory, commands, seed: int) -> None:
    """Random content for every beat that the commands read, but for those that are too long."""
    source, size = random.Random(seed), arch.beat_bytes
    for item in (item for item in commands if item.planes * item.beats < 2**15):
        for y, z, x in itertools.product(range(item.rows), range(item.planes), range(item.beats)):
            place = item.dram_addr + y * item.row_stride + z * item.plane_stride + x * size
            memory.beats.setdefault(place, source.getrandbits(8 * size))


def run(arch, commands, *, stalls=never, sink=never, latency=10, memory=None, seed=1, limit=20_000, drive=None):
    """Run commands; gives the bench, the memory and the `(cycle, beat)` list."""
    engine = LoadEngine(arch)
    bench, memory, taken = EngineBench(engine), memory or AxiMemory(arch), []
    memory.latency, memory.stalls = latency, stalls
    fill(arch, memory, commands, seed)
    simulate(
        engine,
        drive(bench) if drive else partial(bench.run, commands=commands),
        background=[
            bench.watch,
            partial(memory.serve_read, port=engine.read),
            partial(receive, stream=engine.beats, taken=taken, stalls=sink),
        ],
        limit=limit,
    )
    assert memory.in_flight == 0
    return bench, memory, taken


def check(arch, commands, **options) -> tuple:
    """Run commands that have no error and compare all that was stored."""
    bench, memory, taken = run(arch, commands, **options)
    assert not bench.errors
    assert len(bench.done) == len(commands)
    found, wanted = {}, {}
    for _, beat in taken:
        apply(arch, beat, found)
    for item in commands:
        expected(arch, memory, item, wanted)
    assert found == wanted
    return bench, memory, taken


def load(arch, target, *, addr=0, at=0, skip=None, hop=0, **fields):
    """A LOAD with `at`, `skip` (row stride) and `hop` (plane stride) in beats."""
    size = arch.beat_bytes
    skip = fields.get("beats", 0) if skip is None else skip
    strides = {"row_stride": skip * size, "plane_stride": hop * size}
    return command(Opcode.LOAD, target=target, addr=addr, dram_addr=at * size, **strides, **fields)


def random_load(arch, source: random.Random):
    target = source.choice(list(Target))
    unit = 4 // arch.array.lanes if target == Target.IDX else 1
    rows, planes, beats = source.randint(1, 6), source.choice([1, 1, 2, 3]), source.randint(0, 7)
    pad = source.choice([0, 0, 1, 2, 3])
    total = planes * beats + pad
    pad += total == 0
    pad += {Target.ACC32: total % 2, Target.PACKED: -total % 5}.get(target, 0)
    stride, chunk_log2 = source.randint(0, 10) * unit, source.randint(0, 6)
    if target == Target.ACT_CHUNKS and arch.array.rows << chunk_log2 < arch.array.cols:
        stride = 0
    return load(
        arch,
        target,
        addr=source.randint(0, 10) * unit,
        stride=stride,
        chunk_log2=chunk_log2,
        at=source.randint(0, 4 * 4096 // arch.beat_bytes),
        skip=source.choice([None, planes * beats, source.randint(0, 700)]),
        hop=source.choice([beats, beats, source.randint(0, 50)]),
        rows=rows,
        planes=planes,
        beats=beats,
        pad=pad,
    )


@pytest.mark.parametrize("preset", ARCHS)
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("stalled", [False, True])
def test_random_loads_land_where_the_isa_says(preset, seed, stalled):
    arch, source = ARCHS[preset](), random.Random(seed)
    commands = [random_load(arch, source) for _ in range(16)]
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


def bad_loads(arch):
    """Name -> (cause, beats that are written, fields that break a rule)."""
    size, act, wgt = arch.beat_bytes, arch.scratchpads.act_depth, arch.scratchpads.wgt_depth
    acc, end = arch.scratchpads.acc_depth, 1 << arch.memory.address_bits
    field, word, align = Cause.BAD_FIELD, Cause.SCRATCHPAD_RANGE, Cause.MEMORY_ALIGNMENT
    return {
        "no beats": (field, 0, {"target": Target.WGT, "rows": 4}),
        "half a word": (field, 0, {"target": Target.ACC32, "beats": 3, "pad": 2}),
        "index address": (field, 0, {"target": Target.IDX, "beats": 1, "addr": 1}),
        "index stride": (field, 0, {"target": Target.IDX, "beats": 1, "stride": 3}),
        "too many beats": (field, 0, {"target": Target.WGT, "beats": 2**15, "planes": 2}),
        "far too many beats": (field, 0, {"target": Target.WGT, "beats": 2**15, "planes": 2**15}),
        "too much padding": (field, 0, {"target": Target.WGT, "beats": 3, "planes": 2, "pad": 2**16 - 6}),
        "half a word in planes": (field, 0, {"target": Target.ACC32, "beats": 3, "planes": 3}),
        "packed beats": (field, 0, {"target": Target.PACKED, "beats": 4, "planes": 2, "pad": 3}),
        "odd plane stride": (align, 0, {"target": Target.WGT, "beats": 1, "plane_stride": size + 1}),
        "later plane": (align, 2, {"target": Target.WGT, "beats": 1, "planes": 3, "dram_addr": end - 512,
                                   "plane_stride": 256}),
        "columns": (word, arch.array.lanes, {"target": Target.COLS, "beats": 9, "stride": 9, "addr": wgt - 1}),
        "column blocks": (word, 2, {"target": Target.COLS, "rows": 3, "beats": 1, "addr": wgt - 2}),
        "packed": (word, arch.array.lanes, {"target": Target.PACKED, "beats": 5, "stride": 2, "addr": wgt - 2}),
        "odd address": (align, 0, {"target": Target.WGT, "beats": 1, "dram_addr": size // 2}),
        "odd stride": (align, 0, {"target": Target.WGT, "beats": 1, "row_stride": size + 1}),
        "first address": (align, 0, {"target": Target.WGT, "beats": 1, "dram_addr": end}),
        "later row": (align, 2, {"target": Target.WGT, "beats": 2, "rows": 2, "dram_addr": end - 512,
                                "row_stride": 512}),
        "end of row": (align, 2, {"target": Target.ACC16, "beats": 4, "dram_addr": end - 2 * size}),
        "act rows": (word, 3, {"target": Target.ACT_ROWS, "beats": 5, "addr": act - 3}),
        "act chunks": (word, 2 * size // 2, {"target": Target.ACT_CHUNKS, "rows": 9, "beats": 2, "chunk_log2": 1,
                                             "addr": act - 2}),
        "weights": (word, 2 * arch.array.lanes, {"target": Target.WGT, "beats": 16, "addr": wgt - 2}),
        "indices": (word, 1, {"target": Target.IDX, "beats": 2, "addr": wgt - 4 // arch.array.lanes}),
        "sums": (word, 4, {"target": Target.ACC32, "beats": 4, "rows": 2, "stride": 2, "addr": acc - 2}),
        "wide stride": (word, 1, {"target": Target.ACC16, "beats": 1, "rows": 9, "stride": 2**20 - 1}),
    }  # fmt: skip


@pytest.mark.parametrize("preset", ["tiny", "tiny2"])
@pytest.mark.parametrize("name", bad_loads(load_arch("tiny")))
def test_errors(preset, name):
    arch = load_arch(preset)
    cause, written, fields = bad_loads(arch)[name]
    good = load(arch, Target.WGT, rows=3, beats=4, stride=4)
    commands = [good, command(Opcode.LOAD, **fields), good]
    bench, _, taken = run(arch, commands, stalls=at_random(5))
    assert [(found, pc) for _, found, pc in bench.errors] == [(cause, 1)]
    assert len(bench.done) == 1
    assert len(taken) == 12 + written


def test_rounds_of_banks_need_whole_beats():
    """Two banks of one value each take less than a beat; eight columns need chunks of four."""
    arch = wide_arch()
    for chunk_log2, causes in ((1, [Cause.BAD_FIELD]), (2, [])):
        bad = load(arch, Target.ACT_CHUNKS, chunk_log2=chunk_log2, beats=1, stride=1)
        bench, _, _ = run(arch, [bad])
        assert [cause for _, cause, _ in bench.errors] == causes


def test_a_late_stop_keeps_the_engine_halted():
    """Between its error and `stop` an engine that is already drained must not start the next command."""
    reporter = FaultReporter()

    async def bench(ctx):
        ctx.set(reporter.drained, 1)
        for fault, stop, halt in [(0, 0, 0), (1, 0, 0), (0, 0, 1), (0, 0, 1), (0, 1, 1), (0, 0, 1), (0, 0, 0)]:
            ctx.set(reporter.fault, fault)
            ctx.set(reporter.stop, stop)
            assert ctx.get(reporter.halt) == halt
            await ctx.tick()

    simulate(reporter, bench)


@pytest.mark.parametrize("stalls", [never, at_random(6)])
def test_read_response_stops_before_the_bad_beat(stalls):
    arch = load_arch("tiny")
    memory = AxiMemory(arch)
    memory.bad_reads = {(512 + 21) * 8}
    commands = [load(arch, Target.WGT, rows=1, beats=40, at=512 * index) for index in range(4)]
    bench, memory, taken = run(arch, commands, memory=memory, stalls=stalls)
    assert [(cause, pc) for _, cause, pc in bench.errors] == [(Cause.READ_RESPONSE, 1)]
    assert len(taken) == 40 + 21
    assert len(bench.done) == 1


@pytest.mark.parametrize("sink", [never, long(30)])
@pytest.mark.parametrize("when", [2, 3, 4, 8, 20, 55])
def test_stop_drains_and_the_engine_works_again(sink, when):
    arch = load_arch("tiny")
    commands = [load(arch, Target.WGT, addr=40 * index, rows=1, beats=40, at=512 * index) for index in range(3)]

    def drive(bench):
        async def stop(ctx):
            await bench.run(ctx, commands, stop_at=when)
            stopped.extend([len(memory.bursts), len(bench.done)])
            await bench.run(ctx, commands)

        return stop

    stopped, memory = [], AxiMemory(arch)
    bench, memory, taken = run(arch, commands, memory=memory, drive=drive, sink=sink)
    assert not bench.errors
    assert len(bench.done) == stopped[1] + 3
    assert all(cycle <= when + 1 for cycle, *_ in memory.bursts[: stopped[0]]), "requests go on after stop"
    found, wanted = {}, {}
    for _, beat in taken[-120:]:
        apply(arch, beat, found)
    for item in commands:
        expected(arch, memory, item, wanted)
    assert found == wanted

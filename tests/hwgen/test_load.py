"""Load engine against ISA.md: places of beats, AXI protocol, throughput, errors and stops."""

import random
from functools import partial

import pytest

from hwgen.arch import load as load_arch
from hwgen.arch.isa import Cause, Opcode, Target, command
from hwgen.memory.faults import FaultReporter
from hwgen.memory.load import LoadEngine
from tests.support import ARCHS, AxiMemory, EngineBench, at_random, every_fourth, long, never, receive, simulate


def operands_in(beat: int, count: int) -> list[int]:
    return [beat >> (16 * i) & 0xFFFF for i in range(count)]


def expected(arch, memory: AxiMemory, item, stored: dict) -> None:
    """Execute one LOAD as ISA.md describes it."""
    cols, lanes, rows = arch.array.cols, arch.array.lanes, arch.array.rows
    half = cols // 2
    for y in range(item.rows):
        for x in range(item.beats + item.pad):
            source = item.dram_addr + y * item.row_stride + x * arch.beat_bytes
            beat = memory.beats.get(source, 0) if x < item.beats else 0
            values = operands_in(beat, cols)
            if item.target == Target.ACT_ROWS:
                word = item.addr + (y // rows) * item.stride + x
                stored.update({("act", y % rows, word * cols + i): v for i, v in enumerate(values)})
            elif item.target == Target.ACT_CHUNKS:
                size = 2**item.chunk_log2
                for i, value in enumerate(values):
                    v = x * cols + i
                    if v // size < rows:
                        stored["act", v // size, item.addr * cols + y * size + v % size] = value
            elif item.target == Target.WGT:
                word = item.addr + y * item.stride + x // lanes
                stored.update({("wgt", word, x % lanes, i): v for i, v in enumerate(values)})
            elif item.target == Target.IDX:
                count, size = 4 // lanes, 4 * lanes * cols
                for i in range(count):
                    stored["idx", item.addr + y * item.stride + x * count + i] = beat >> (i * size) & ((1 << size) - 1)
            elif item.target == Target.ACC32:
                word = item.addr + y * item.stride + x // 2
                for i in range(half):
                    stored["acc32", word, (x % 2) * half + i] = beat >> (32 * i) & 0xFFFFFFFF
            else:
                word = item.addr + y * item.stride + x
                stored.update({("acc16", word, i): v for i, v in enumerate(values)})


def apply(arch, beat, stored: dict) -> None:
    """What a scratchpad does with a beat, by the docstring of `LoadBeat`."""
    cols, lanes, rows = arch.array.cols, arch.array.lanes, arch.array.rows
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
        size = 4 * lanes * cols
        for i in range(4 // lanes):
            stored["idx", beat.address + i] = beat.data >> (i * size) & ((1 << size) - 1)
    elif beat.target == Target.ACC32:
        half = cols // 2
        for i in range(half):
            stored["acc32", beat.address, beat.part * half + i] = beat.data >> (32 * i) & 0xFFFFFFFF
    else:
        stored.update({("acc16", beat.address, i): v for i, v in enumerate(values)})


def fill(arch, memory: AxiMemory, commands, seed: int) -> None:
    """Random content for every beat that the commands read."""
    source = random.Random(seed)
    for item in commands:
        for y in range(item.rows):
            for x in range(item.beats):
                memory.beats.setdefault(
                    item.dram_addr + y * item.row_stride + x * arch.beat_bytes, source.getrandbits(8 * arch.beat_bytes)
                )


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


def load(arch, target, *, addr=0, at=0, skip=None, **fields):
    """A LOAD with `at` and `skip` (row stride) in beats."""
    size = arch.beat_bytes
    skip = fields.get("beats", 0) if skip is None else skip
    return command(Opcode.LOAD, target=target, addr=addr, dram_addr=at * size, row_stride=skip * size, **fields)


def random_load(arch, source: random.Random):
    target = source.choice(list(Target))
    index_words = 4 // arch.array.lanes
    rows, beats, pad = source.randint(1, 6), source.randint(0, 9), source.choice([0, 0, 1, 2, 3])
    pad += beats + pad == 0
    pad += (beats + pad) % 2 if target == Target.ACC32 else 0
    unit = index_words if target == Target.IDX else 1
    return load(
        arch,
        target,
        addr=source.randint(0, 10) * unit,
        stride=source.randint(0, 10) * unit,
        chunk_log2=source.randint(0, 6),
        at=source.randint(0, 4 * 4096 // arch.beat_bytes),
        skip=source.choice([None, source.randint(0, 700)]),
        rows=rows,
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
    arch = ARCHS[preset]()
    for chunk_log2 in range(7):
        beats = 2**chunk_log2 * arch.array.rows // arch.array.cols
        check(arch, [load(arch, Target.ACT_CHUNKS, addr=3, chunk_log2=chunk_log2, rows=5, beats=beats, pad=2)])


def test_bursts_end_at_pages_and_join_rows_without_gaps():
    arch = load_arch("tiny")
    _, memory, _ = check(arch, [load(arch, Target.WGT, stride=6, rows=5, beats=6, at=512 - 20)])
    assert [(address // 8, length) for _, address, length in memory.bursts] == [(492, 16), (508, 4), (512, 10)]
    _, memory, _ = check(arch, [load(arch, Target.WGT, stride=6, rows=2, beats=6, skip=7, at=512 - 8)])
    assert [(address // 8, length) for _, address, length in memory.bursts] == [(504, 6), (511, 1), (512, 5)]


def test_last_page_of_memory_is_readable():
    arch = load_arch("tiny2")
    check(arch, [load(arch, Target.WGT, rows=1, beats=9, at=2**32 // 8 - 9)])


@pytest.mark.parametrize("latency", [1, 30])
def test_one_beat_a_cycle(latency):
    arch = load_arch("tiny")
    bench, _, taken = check(arch, [load(arch, Target.WGT, rows=1, beats=300, at=3)], latency=latency)
    # Command to address 3 cycles, the memory's latency, beat to stream 1 cycle.
    assert [cycle for cycle, _ in taken] == [bench.taken[0] + 3 + latency + 1 + index for index in range(300)]
    assert bench.done == [taken[-1][0]]


def test_short_rows_and_instructions_follow_without_gaps():
    arch = load_arch("tiny")
    rows = [load(arch, Target.ACT_ROWS, rows=64, beats=2, skip=3)]
    short = [load(arch, Target.WGT, addr=index, rows=1, beats=6, at=512 * index) for index in range(30)]
    for commands in (rows, short):
        _, _, taken = check(arch, commands, latency=12)
        assert taken[-1][0] - taken[0][0] == len(taken) - 1


def test_padding_takes_one_cycle_a_beat():
    arch = load_arch("tiny")
    _, memory, taken = check(arch, [load(arch, Target.ACC16, rows=20, beats=3, pad=2, stride=5)])
    assert taken[-1][0] - taken[0][0] == len(taken) - 1
    bench, memory, taken = check(arch, [load(arch, Target.ACC16, rows=20, pad=5, stride=5, skip=4)])
    assert (len(taken), memory.bursts) == (100, [])
    assert taken[0][0] == bench.taken[0] + 4
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

"""Load engine against ISA.md: places of beats, AXI protocol, throughput, errors and stops."""

import random
from functools import partial

import pytest

from hwgen.arch import load as load_arch
from hwgen.arch.isa import Cause, Opcode, Target, command
from hwgen.memory.load import LoadEngine
from tests.support import AxiMemory, EngineBench, at_random, every_fourth, long, never, receive, simulate


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


def run(arch, commands, *, stalls=never, sink=never, latency=10, memory=None, seed=1, limit=20_000):
    """Run commands; gives the bench, the memory and the `(cycle, beat)` list."""
    engine = LoadEngine(arch)
    bench, memory, taken = EngineBench(engine), memory or AxiMemory(arch), []
    memory.latency, memory.stalls = latency, stalls
    fill(arch, memory, commands, seed)
    simulate(
        engine,
        partial(bench.run, commands=commands),
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


@pytest.mark.parametrize("preset", ["tiny", "tiny2"])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("stalled", [False, True])
def test_random_loads_land_where_the_isa_says(preset, seed, stalled):
    arch, source = load_arch(preset), random.Random(seed)
    commands = [random_load(arch, source) for _ in range(20)]
    stalls = (at_random(seed), at_random(seed + 100)) if stalled else (never, never)
    check(arch, commands, stalls=stalls[0], sink=stalls[1], latency=source.choice([1, 7, 30]), seed=seed)


@pytest.mark.parametrize("preset", ["tiny", "tiny2"])
@pytest.mark.parametrize("sink", [every_fourth, long(60)])
def test_slow_scratchpads(preset, sink):
    arch, source = load_arch(preset), random.Random(9)
    check(arch, [random_load(arch, source) for _ in range(8)], sink=sink)

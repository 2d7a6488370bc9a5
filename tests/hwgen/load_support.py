"""LOAD as ISA.md describes it, and a bench that compares the load engine with it."""

import itertools
import random
from functools import partial

from hwgen.arch.commands import command
from hwgen.arch.isa import Opcode, Target, load_opcode
from hwgen.memory.load import LoadEngine
from tests.support import AxiMemory, EngineBench, never, receive, simulate


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
        case Target.CURVE:
            stored["curve", first + x] = beat % 2**64
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
    elif beat.target == Target.CURVE:
        stored["curve", beat.address] = beat.data % 2**64
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
    """Run commands of one engine, LOAD or FILL; gives the bench, the memory and the `(cycle, beat)` list."""
    engine = LoadEngine(arch, commands[0].opcode)
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
    """A LOAD (or FILL) with `at`, `skip` (row stride) and `hop` (plane stride) in beats."""
    size = arch.beat_bytes
    skip = fields.get("beats", 0) if skip is None else skip
    strides = {"row_stride": skip * size, "plane_stride": hop * size}
    return command(load_opcode(arch, target), target=target, addr=addr, dram_addr=at * size, **strides, **fields)


def random_load(arch, source: random.Random, opcode=Opcode.LOAD):
    room = arch.vector.curve_entries >= 128
    targets = [one for one in Target if load_opcode(arch, one) == opcode]
    target = source.choice([one for one in targets if room or one is not Target.CURVE])
    unit = 4 // arch.array.lanes if target == Target.IDX else 1
    rows, planes, beats = source.randint(1, 6), source.choice([1, 1, 2, 3]), source.randint(0, 7)
    pad = source.choice([0, 0, 1, 2, 3])
    pad += planes * beats + pad == 0
    total = planes * beats + pad
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

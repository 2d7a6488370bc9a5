"""STORE as ISA.md describes it, with numpy's rounding, and a bench that compares the store engine with it."""

import random
from dataclasses import replace
from functools import partial

import ml_dtypes
import numpy as np

from hwgen.arch import load as load_arch
from hwgen.arch.commands import command
from hwgen.arch.isa import Format, Opcode
from hwgen.memory.store import StoreEngine
from tests.hwgen.reducer_support import packed_beats
from tests.support import AccMemory, AxiMemory, EngineBench, never, simulate

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


def matrix(arch, item, words: dict[int, int], plane: int) -> list[list[int]]:
    """FP32 bits of a plane of the block, `rows` x `words*C`, without the columns that are not valid."""
    cols = arch.array.cols
    rows = []
    for y in range(item.rows):
        first = item.addr + plane * item.words + y * item.stride
        block = [words.get(first + x, 0) for x in range(item.words)]
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
    for plane in range(item.planes):
        images = plane_images(arch, item, matrix(arch, item, words, plane))
        for y, image in enumerate(images):
            start = item.dram_addr + plane * item.plane_stride + y * item.row_stride
            beats.update({start + x * arch.beat_bytes: beat for x, beat in enumerate(image)})


def plane_images(arch, item, rows: list[list[int]]) -> list[list[int]]:
    """Rows of beats that a plane is written as."""
    half = arch.array.cols // 2
    if item.format == Format.FP32:
        return [[pack(row[x : x + half], 32) for x in range(0, len(row), half)] for row in rows]
    parts = sequences(arch, item, [[narrow(arch, value) for value in row] for row in rows])
    if item.format == Format.PACKED:
        return [packed_beats(arch, part, item.n, item.m) for part in parts]
    return [[pack(beat, 16) for beat in part] for part in parts]


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


def store(arch, form, *, addr=0, at=0, skip=None, rows=1, words=1, transpose=0, n=0, m=0, plane_skip=0, **fields):
    """A STORE with `at`, `skip` (row stride) and `plane_skip` in beats."""
    skip = run_beats(arch, form, rows, words, transpose, n, m) if skip is None else skip
    size, lanes = arch.beat_bytes, fields.pop("lanes", arch.array.cols)
    places = {"addr": addr, "dram_addr": at * size, "row_stride": skip * size, "plane_stride": plane_skip * size}
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
        at=source.randint(0, 4 * 4096 // arch.beat_bytes) + 2000,
        skip=source.choice([None, source.randint(20, 700)]),
        planes=source.choice([1, source.randint(2, 4)]),
        plane_skip=source.randint(-500, 700),
        **pattern,
    )


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

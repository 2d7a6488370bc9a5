"""VECTOR as ISA.md describes it, on plain numbers, and a bench of the vector engine between accumulator memories."""

import itertools
import random
from functools import partial

import numpy as np

from hwgen.arch.commands import command
from hwgen.arch.isa import Opcode, Operation
from hwgen.vector.engine import VectorEngine
from models.formats import CORNERS_FP32
from tests.support import AccMemory, EngineBench, never, simulate

NAN = 0x7FC00000
SOURCES = {Operation.COPY: "x", Operation.CURVE: "x", Operation.MAC: "xyz", Operation.EQUAL: "xyz"}
"""Operands that an operation reads; those not named read x and y."""
INTEGERS = {
    Operation.AND: lambda x, y: x & y,
    Operation.OR: lambda x, y: x | y,
    Operation.XOR: lambda x, y: x ^ y,
    Operation.IADD: lambda x, y: x + y,
    Operation.ISUB: lambda x, y: x - y,
}
NUMBERS = {
    Operation.ADD: lambda x, y, z: x + y,
    Operation.SUB: lambda x, y, z: x - y,
    Operation.MUL: lambda x, y, z: x * y,
    Operation.MAC: lambda x, y, z: x * y + z,
}


def sources(item) -> str:
    return SOURCES.get(Operation(item.operation), "xy")


def results(item, x, y, z, table=None):
    """Results of uint32 operands of equal shape, `[..., C]`; `y` is not shuffled yet. `table` is for CURVE."""
    operation = Operation(item.operation)
    if item.shuffle and operation is not Operation.CURVE:
        distance = 1 << item.shuffle - 1
        y = np.stack([y[..., col ^ distance] for col in range(y.shape[-1])], axis=-1)
    if operation in INTEGERS:
        factor = 2**item.shift
        shifted = y // factor if item.right else y.astype(np.uint64) * factor % 2**32
        value = INTEGERS[operation](x.astype(np.int64), shifted.astype(np.int64)) % 2**32
    elif operation is Operation.CURVE:
        value = curve_results(table[item.y_addr :][: item.y_stride], item.shift, x)
    else:
        value = _numbers(operation, x, y, z)
    value = value.astype(np.uint32)
    floats = value.view(np.float32)
    return np.where((floats < 0) | (value == 0x80000000), 0, value).astype(np.uint32) if item.relu else value


def curve_results(lines, shift, x):
    """Lines `[T, 2]` at uint32 `x`: slope times x plus offset, of the line that is as many steps from the middle as
    `x * 2**shift` has whole units, on the side of its sign, or the last one on that side.
    """
    values = np.ascontiguousarray(x).view(np.float32)
    numbers = np.where(np.isnan(values), np.float32(0), values).astype(np.float64)
    units = np.trunc(numbers * 2.0**shift)
    middle = len(lines) / 2 - np.signbit(values)
    slope, offset = (np.ascontiguousarray(part).view(np.float32) for part in lines.T)
    line = np.clip(middle + units, 0, len(lines) - 1).astype(int)
    with np.errstate(all="ignore"):
        products = np.where(np.isinf(values) & (slope[line] == 0), 0 * slope[line], values * slope[line])
        result = (products + offset[line]).astype(np.float32)
    return np.where(np.isnan(result), NAN, result.view(np.uint32))


def random_table(entries, seed=5):
    """Lines for a table, uint32 `[entries, 2]`: corner values, random bits, small numbers, slopes of 0."""
    rng = np.random.default_rng(seed)
    numbers = rng.standard_normal((entries, 2)).astype(np.float32).view(np.uint32)
    kind = rng.integers(0, 6, (entries, 2))
    table = np.where(kind == 0, rng.choice(np.array(CORNERS_FP32, np.uint32), (entries, 2)), numbers)
    table = np.where(kind == 1, rng.integers(0, 1 << 32, (entries, 2), dtype=np.uint32), table)
    table[:, 0] = np.where(rng.integers(0, 6, entries) == 0, 0, table[:, 0])
    return table.astype(np.uint32)


def _numbers(operation, x, y, z):
    """Operations on FP32."""
    left, right, addend = (np.ascontiguousarray(bits).view(np.float32) for bits in (x, y, z))
    nan = np.isnan(left) | np.isnan(right)
    # Of equal numbers only zeros differ; the sign decides between them.
    greater = (left > right) | ((left == right) & (x < y))
    match operation:
        case Operation.COPY:
            return x
        case Operation.MAX:
            return np.where(nan, NAN, np.where(greater, x, y))
        case Operation.MIN:
            return np.where(nan, NAN, np.where(greater, y, x))
        case Operation.POSITIVE:
            return np.where(left > 0, y, 0)
        case Operation.EQUAL:
            return np.where(left == right, z, 0)
    with np.errstate(all="ignore"):
        result = NUMBERS[operation](left, right, addend)
    return np.where(np.isnan(result), NAN, result.view(np.uint32))


def execute(arch, item, words: dict[int, int]) -> None:
    """Carry out a VECTOR on words of the accumulator scratchpad, one after another."""
    for row in range(item.rows):
        for index in range(item.words):
            values = []
            for name in "xyz":
                addr, stride, hold = (item.operands[f"{name}_{part}"] for part in ("addr", "stride", "hold"))
                word = words.get(addr + row * stride + (0 if hold else index), 0)
                values.append(np.frombuffer(word.to_bytes(4 * arch.array.cols, "little"), "<u4"))
            word = int.from_bytes(results(item, *values, random_table(arch.vector.curve_entries)).tobytes(), "little")
            words[item.d_addr + row * item.d_stride + index] = word


def vector(
    operation=Operation.ADD,
    *,
    d=(0, 0),
    rows=1,
    words=1,
    hold="",
    relu=0,
    shuffle=0,
    shift=0,
    right=0,
    curve=None,
    **blocks,
):
    """A VECTOR from `(first word, words between rows)` of each block, x, y, z and d; `hold` names those that stay.

    `curve` is first entry and entries of a curve.
    """
    fields = {f"{name}_hold": 1 for name in hold}
    if curve:
        fields |= {"y_addr": curve[0], "y_stride": curve[1]}
    for name, pair in {"d": d, **blocks}.items():
        fields |= {f"{name}_addr": pair[0], f"{name}_stride": pair[1]}
    fields |= {"relu": relu, "shuffle": shuffle, "shift": shift, "right": right}
    return command(Opcode.VECTOR, operation=operation, rows=rows, words=words, **fields)


def random_word(arch, source: random.Random) -> int:
    """A word of corner values, random bits, random numbers and a few equal ones."""

    def value() -> int:
        kind = source.randrange(4)
        if kind == 0:
            return source.choice(CORNERS_FP32)
        if kind == 1:
            return source.getrandbits(32)
        return int(np.float32(source.uniform(-4, 4) if kind == 2 else source.randrange(-2, 3)).view(np.uint32))

    return sum(value() << 32 * col for col in range(arch.array.cols))


def random_words(arch, seed: int, count: int = 500) -> dict[int, int]:
    source = random.Random(seed)
    return {address: random_word(arch, source) for address in range(count)}


def random_vector(arch, source: random.Random):
    """A block of each source in its own region, d in another one or over a source that is not held."""
    rows, words = source.randint(1, 5), source.randint(1, 6)
    entries = arch.vector.curve_entries
    operation = source.choice([code for code in Operation if entries or code is not Operation.CURVE])
    hold = "".join(name for name in "xyz" if source.random() < 0.3)

    def block(base):
        return base + source.randrange(30), source.choice([0, source.randint(words, 12)])

    blocks = {name: block(base) for name, base in (("x", 0), ("y", 100), ("z", 200))}
    places = [(400 + source.randrange(30), source.randint(words, 12))]
    places += [blocks[name] for name in SOURCES.get(operation, "xy") if name not in hold and blocks[name][1]]
    fields = {"relu": source.randrange(2), "shuffle": source.randrange(arch.array.cols.bit_length())}
    if operation in INTEGERS:
        fields |= {"shift": source.randrange(32), "right": source.randrange(2)}
    if operation is Operation.CURVE:
        size = 2 ** source.randint(1, entries.bit_length() - 1)
        fields |= {"shift": source.randrange(8), "curve": (source.randrange(entries // size) * size, size)}
        blocks.pop("y")
    return vector(operation, **blocks, d=source.choice(places), rows=rows, words=words, hold=hold, **fields)


def _with_table(arch, engine, driver):
    """A driver that first fills the table with `random_table`."""

    async def fill(ctx):
        for address, (slope, offset) in enumerate(random_table(arch.vector.curve_entries).tolist()):
            entry = {"slope": slope, "offset": offset}
            ctx.set(engine.curve, {"enable": 1, "address": address, "entry": entry})
            await ctx.tick()
        ctx.set(engine.curve.enable, 0)
        await driver(ctx)

    return fill


class Result:
    """A run of the engine: its bench, what is in memory, cycles of accepted reads (by source) and writes.

    `halves` has the memories by name and port.
    """

    def __init__(self, bench: EngineBench, words: dict[int, int], halves: dict[tuple[str, int], AccMemory]) -> None:
        self.bench, self.words, self.halves = bench, words, halves
        self.reads = {
            name: sorted(cycle for key, item in halves.items() if key[0] == name for cycle in item.read_cycles)
            for name in "xyz"
        }
        self.writes = sorted(cycle for key, item in halves.items() if key[0] == "d" for cycle in item.write_cycles)


def run(arch, commands, words, *, stalls=None, limit=20_000, drive=None) -> Result:
    """Run commands on a copy of `words`. `stalls` has patterns by name; of two ports, port 1 is ahead by some cycles.
    `drive` makes another driver than the usual.
    """
    engine, words = VectorEngine(arch), dict(words)
    bench, halves = EngineBench(engine), {}
    patterns = dict.fromkeys("xyzd", never) | (stalls or {})
    processes = []
    for name, half in itertools.product("xyzd", range(arch.vector.words)):
        memory = halves[name, half] = AccMemory(arch, half=half if arch.vector.words == 2 else None)
        memory.words = words
        serve = memory.serve_write if name == "d" else memory.serve_read
        stalled = partial(ahead, patterns[name], 5 * half)
        processes.append(partial(serve, port=getattr(engine, name)[half], stalls=stalled))
    driver = drive(bench) if drive else partial(bench.run, commands=commands)
    if arch.vector.curve_entries and any(item.operation == Operation.CURVE for item in commands):
        driver = _with_table(arch, engine, driver)
    simulate(engine, driver, background=[bench.watch, *processes], limit=limit)
    return Result(bench, words, halves)


def ahead(stalls, cycles: int):
    """A pattern that begins `cycles` later in the one of `stalls`."""
    return itertools.islice(stalls(), cycles, None)

"""VECTOR as ISA.md describes it, on plain numbers, and a bench of the vector engine between accumulator memories."""

import random
from functools import partial

import numpy as np

from hwgen.arch.isa import Opcode, Operation, command
from hwgen.vector.engine import VectorEngine
from models.formats import CORNERS_FP32
from tests.support import AccMemory, EngineBench, never, simulate

NAN = 0x7FC00000
SOURCES = {Operation.COPY: "x", Operation.MAC: "xyz", Operation.EQUAL: "xyz"}
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


def results(item, x, y, z):
    """Results of uint32 operands of equal shape, `[..., C]`; `y` is not shuffled yet."""
    operation = Operation(item.operation)
    if item.shuffle:
        distance = 1 << item.shuffle - 1
        y = np.stack([y[..., col ^ distance] for col in range(y.shape[-1])], axis=-1)
    if operation in INTEGERS:
        factor = 2**item.shift
        shifted = y // factor if item.right else y.astype(np.uint64) * factor % 2**32
        value = INTEGERS[operation](x.astype(np.int64), shifted.astype(np.int64)) % 2**32
    else:
        value = _numbers(operation, x, y, z)
    value = value.astype(np.uint32)
    floats = value.view(np.float32)
    return np.where((floats < 0) | (value == 0x80000000), 0, value).astype(np.uint32) if item.relu else value


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
            word = int.from_bytes(results(item, *values).tobytes(), "little")
            words[item.d_addr + row * item.d_stride + index] = word


def vector(
    operation=Operation.ADD, *, d=(0, 0), rows=1, words=1, hold="", relu=0, shuffle=0, shift=0, right=0, **blocks
):
    """A VECTOR from `(first word, words between rows)` of each block, x, y, z and d; `hold` names those that stay."""
    fields = {f"{name}_hold": 1 for name in hold}
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
    operation = source.choice(list(Operation))
    hold = "".join(name for name in "xyz" if source.random() < 0.3)

    def block(base):
        return base + source.randrange(30), source.choice([0, source.randint(words, 12)])

    blocks = {name: block(base) for name, base in (("x", 0), ("y", 100), ("z", 200))}
    places = [(400 + source.randrange(30), source.randint(words, 12))]
    places += [blocks[name] for name in SOURCES.get(operation, "xy") if name not in hold and blocks[name][1]]
    fields = {"relu": source.randrange(2), "shuffle": source.randrange(arch.array.cols.bit_length())}
    if operation in INTEGERS:
        fields |= {"shift": source.randrange(32), "right": source.randrange(2)}
    return vector(operation, **blocks, d=source.choice(places), rows=rows, words=words, hold=hold, **fields)


class Result:
    """A run of the engine: its bench, what is in memory, cycles of accepted reads (by port) and writes."""

    def __init__(self, bench: EngineBench, memories: dict[str, AccMemory]) -> None:
        self.bench, self.words = bench, memories["d"].words
        self.reads = {name: memories[name].read_cycles for name in "xyz"}
        self.writes = memories["d"].write_cycles


def run(arch, commands, words, *, stalls=None, limit=20_000, drive=None) -> Result:
    """Run commands on a copy of `words`. `stalls` has patterns by port; `drive` makes another driver than the usual."""
    engine, words = VectorEngine(arch), dict(words)
    bench, memories = EngineBench(engine), {name: AccMemory(arch) for name in "xyzd"}
    patterns = dict.fromkeys("xyzd", never) | (stalls or {})
    processes = []
    for name, memory in memories.items():
        memory.words = words
        serve = memory.serve_write if name == "d" else memory.serve_read
        processes.append(partial(serve, port=getattr(engine, name), stalls=patterns[name]))
    driver = drive(bench) if drive else partial(bench.run, commands=commands)
    simulate(engine, driver, background=[bench.watch, *processes], limit=limit)
    return Result(bench, memories)

"""Vector engine against numpy float32, bit for bit; order, throughput, errors and stops."""

import random
from functools import partial

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring

from hwgen.arch import load as load_arch
from hwgen.arch.isa import Cause, Opcode, command
from hwgen.memory.acc import AccScratchpad
from hwgen.vector.engine import VectorEngine
from tests.support import ARCHS, AccMemory, EngineBench, at_random, long, never, simulate

CORNERS = [
    0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007FFFFF, 0x00800000, 0x80800000, 0x3F800000, 0xBF800000,
    0x3F800001, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00001, 0x7F800001,
]  # fmt: skip
NAN = 0x7FC00000


def is_nan(value: int) -> bool:
    return value & 0x7FFFFFFF > 0x7F800000


def expected(item, x: int, y: int) -> int:
    """One column of VECTOR as ISA.md describes it."""
    if item.add:
        with np.errstate(all="ignore"):
            x = int((np.uint32(x).view(np.float32) + np.uint32(y).view(np.float32)).view(np.uint32))
        x = NAN if is_nan(x) else x
    return 0 if item.relu and x >> 31 and not is_nan(x) else x


def execute(arch, item, words: dict[int, int]) -> None:
    columns = range(0, 32 * arch.array.cols, 32)
    for row in range(item.rows):
        for word in range(item.words):
            x, y = (words.get(base + row * stride + word, 0) for base, stride in
                    ((item.x_addr, item.x_stride), (item.y_addr, item.y_stride)))  # fmt: skip
            words[item.d_addr + row * item.d_stride + word] = sum(
                expected(item, x >> low & 0xFFFFFFFF, y >> low & 0xFFFFFFFF) << low for low in columns
            )


def random_word(arch, source: random.Random) -> int:
    def value() -> int:
        kind = source.randrange(4)
        if kind == 0:
            return source.choice(CORNERS)
        if kind == 1:
            return source.getrandbits(32)
        return int(np.float32(source.uniform(-4, 4)).view(np.uint32))

    return sum(value() << 32 * col for col in range(arch.array.cols))


def run(arch, commands, words, *, stalls=(never, never, never), limit=20_000, drive=None):
    """Run commands on a copy of `words`; gives the bench and the memory."""
    engine = VectorEngine(arch)
    bench, memory = EngineBench(engine), AccMemory(arch)
    memory.words = dict(words)
    simulate(
        engine,
        drive(bench) if drive else partial(bench.run, commands=commands),
        background=[
            bench.watch,
            partial(memory.serve_read, port=engine.x, stalls=stalls[0]),
            partial(memory.serve_read, port=engine.y, stalls=stalls[1]),
            partial(memory.serve_write, port=engine.d, stalls=stalls[2]),
        ],
        limit=limit,
    )
    return bench, memory


def vector(*, x=(0, 0), y=(0, 0), d=(0, 0), rows=1, words=1, add=1, relu=0):
    """A VECTOR from `(first word, words between rows)` of each block."""
    blocks = {f"{name}_{part}": value for name, pair in (("x", x), ("y", y), ("d", d))
              for part, value in zip(("addr", "stride"), pair)}  # fmt: skip
    return command(Opcode.VECTOR, rows=rows, words=words, add=add, relu=relu, **blocks)


def random_vector(source: random.Random):
    """Blocks in three regions, or `d` over `x`."""
    rows, words = source.randint(1, 5), source.randint(1, 6)

    def pick(base):
        return base + source.randrange(30), source.randint(words, 12)

    x, y, d = pick(0), source.choice([pick(200), (source.randrange(200, 230), 0)]), pick(400)
    d = source.choice([x, d])
    return vector(x=x, y=y, d=d, rows=rows, words=words, add=source.randrange(2), relu=source.randrange(2))


@pytest.mark.parametrize("preset", ARCHS)
@pytest.mark.parametrize("stalled", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_random_blocks_equal_numpy(preset, stalled, seed):
    arch, source = ARCHS[preset](), random.Random(seed)
    words = {address: random_word(arch, source) for address in range(500)}
    commands = [random_vector(source) for _ in range(10)]
    stalls = tuple(at_random(seed + port) for port in range(3)) if stalled else (never, never, never)
    bench, memory = run(arch, commands, words, stalls=stalls)
    for item in commands:
        execute(arch, item, words)
    assert memory.words == words
    assert len(bench.done) == len(commands)
    assert not bench.errors


@pytest.mark.parametrize(("add", "relu"), [(1, 0), (1, 1), (0, 1), (0, 0)])
def test_all_pairs_of_corner_values(add, relu):
    arch, cols = load_arch("tiny"), 4
    pairs = [(a, b) for a in CORNERS for b in CORNERS]
    pairs += [(0, 0)] * (-len(pairs) % cols)
    count = len(pairs) // cols
    words = {}
    for base, side in ((0, 0), (256, 1)):
        for index in range(count):
            values = [pair[side] for pair in pairs[cols * index : cols * index + cols]]
            words[base + index] = sum(value << 32 * col for col, value in enumerate(values))
    item = vector(x=(0, 0), y=(256, 0), d=(512, 0), words=count, add=add, relu=relu)
    _, memory = run(arch, [item], words)
    execute(arch, item, words)
    for address, word in words.items():
        assert memory.words[address] == word, f"word {address}: {memory.words[address]:x} instead of {word:x}"


def test_broadcast_row_and_result_over_x():
    arch, source = load_arch("tiny"), random.Random(2)
    words = {address: random_word(arch, source) for address in range(300)}
    item = vector(x=(0, 7), y=(256, 0), d=(0, 7), rows=9, words=7, relu=1)
    _, memory = run(arch, [item], words, stalls=(at_random(3), at_random(1), at_random(2)))
    execute(arch, item, words)
    assert memory.words == words
    assert len(memory.read_cycles) == 2 * 9 * 7


def test_next_instruction_sees_the_results_of_this_one():
    arch, source = load_arch("tiny"), random.Random(2)
    words = {address: random_word(arch, source) for address in range(300)}
    commands = [vector(x=(index, 0), y=(256, 0), d=(index + 1, 0)) for index in range(5)]
    _, memory = run(arch, commands, words)
    for item in commands:
        execute(arch, item, words)
    assert memory.words == words


@pytest.mark.parametrize("preset", ["tiny", "tiny2"])
def test_one_word_a_cycle(preset):
    arch = load_arch(preset)
    bench, memory = run(arch, [vector(x=(0, 20), y=(300, 0), d=(600, 20), rows=5, words=20)], {})
    # Command to the first read 1 cycle, then `latency`.
    first = bench.taken[0] + 1 + bench.engine.latency
    assert memory.write_cycles == list(range(first, first + 100))
    assert bench.done == [first + 99]


def test_one_word_a_cycle_out_of_three_banks_of_the_scratchpad():
    arch = load_arch("tiny")
    m = Module()
    m.submodules.engine = engine = VectorEngine(arch)
    m.submodules.acc = acc = AccScratchpad(arch)
    for port, name in ((engine.x, "read_vector_x"), (engine.y, "read_vector_y"), (engine.d, "write_vector")):
        wiring.connect(m, port, getattr(acc, name))
    bench = EngineBench(engine)
    for banks, cycles in (((0, 1, 2), 100), ((0, 0, 2), 200), ((0, 1, 0), 100)):
        blocks = {name: (256 * bank, 20) for name, bank in zip("xyd", banks)}
        bench.taken, bench.done = [], []
        simulate(m, partial(bench.run, commands=[vector(**blocks, rows=5, words=20)]), background=[bench.watch])
        assert bench.done[0] - bench.taken[0] == 1 + engine.latency + cycles - 1


@pytest.mark.parametrize("stalls", [(long(40), never, never), (never, never, long(40)), (never, long(9), long(30))])
def test_busy_scratchpad(stalls):
    arch, source = load_arch("tiny2"), random.Random(4)
    words = {address: random_word(arch, source) for address in range(500)}
    commands = [vector(x=(0, 20), y=(200, 20), d=(600, 20), rows=5, words=20), random_vector(source)]
    _, memory = run(arch, commands, words, stalls=stalls)
    for item in commands:
        execute(arch, item, words)
    assert memory.words == words


BAD = {
    "x": (Cause.SCRATCHPAD_RANGE, 2, {"x": (1022, 0), "words": 3}),
    "y": (Cause.SCRATCHPAD_RANGE, 1, {"y": (1023, 2), "rows": 3}),
    "d": (Cause.SCRATCHPAD_RANGE, 0, {"d": (1024, 0), "words": 3}),
    "far": (Cause.SCRATCHPAD_RANGE, 1, {"x": (1023, 2**20 - 1), "rows": 3}),
}


@pytest.mark.parametrize("preset", ["tiny", "tiny2"])
@pytest.mark.parametrize("name", BAD)
def test_errors(preset, name):
    cause, written, fields = BAD[name]
    arch, good = load_arch(preset), vector(x=(0, 3), y=(10, 0), d=(30, 3), rows=2, words=3)
    bad = vector()
    for field, value in fields.items():
        pair = zip((f"{field}_addr", f"{field}_stride"), value) if field in "xyd" else [(field, value)]
        bad.operands.update(pair)
    bench, memory = run(arch, [good, bad, good], {}, stalls=(at_random(1), never, at_random(2)))
    assert [(found, pc) for _, found, pc in bench.errors] == [(cause, 1)]
    assert len(bench.done) == 1
    assert len(memory.write_cycles) == 6 + written


def test_y_is_not_looked_at_without_add():
    bench, memory = run(load_arch("tiny"), [vector(y=(2**20 - 1, 5), rows=3, words=3, add=0)], {})
    assert len(memory.read_cycles) == len(memory.write_cycles) == 9
    assert not bench.errors


@pytest.mark.parametrize("when", [1, 2, 3, 4, 12, 13, 30])
@pytest.mark.parametrize("stalls", [(never, never, never), (never, at_random(1), long(30))])
def test_stop_writes_what_was_read_and_the_engine_works_again(when, stalls):
    arch, source = load_arch("tiny"), random.Random(5)
    words = {address: random_word(arch, source) for address in range(300)}
    commands = [vector(x=(0, 8), y=(100, 8), d=(300, 8), rows=3, words=8)] * 2
    again = vector(x=(3, 8), y=(100, 0), d=(500, 8), rows=2, words=5)
    stopped: list[int] = []

    def drive(bench):
        async def stop(ctx):
            await bench.run(ctx, commands, stop_at=when)
            stopped.append(len(bench.done))
            await bench.run(ctx, [again])

        return stop

    bench, memory = run(arch, commands, words, drive=drive, stalls=stalls)
    execute(arch, again, words)
    assert {place: word for place, word in memory.words.items() if place >= 500} == {
        place: word for place, word in words.items() if place >= 500
    }
    assert len(bench.done) == stopped[0] + 1
    assert not bench.errors

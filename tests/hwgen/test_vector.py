"""Vector engine against numpy, bit for bit; shuffles, holds, order, errors and stops. Cycles: test_vector_timing.py."""

import random

import numpy as np
import pytest

from hwgen.arch import load as load_arch
from hwgen.arch.isa import Cause, Operation
from tests.hwgen.vector_support import INTEGERS, execute, random_vector, random_words, run, sources, vector
from tests.support import ARCHS, at_random, every_fourth, long


def check(arch, commands, words, **options):
    """Run commands; every word of memory must be what numpy says."""
    result = run(arch, commands, words, **options)
    for item in commands:
        execute(arch, item, words)
    wrong = [address for address, word in words.items() if result.words.get(address, 0) != word]
    assert not wrong, f"{len(wrong)} words differ, the first at {wrong[0]}"
    assert result.words.keys() <= words.keys()
    assert len(result.bench.done) == len(commands)
    assert not result.bench.errors
    return result


def floats(words, addresses):
    """Words as float32 `[n, columns]`."""
    data = b"".join(words[address].to_bytes(16, "little") for address in addresses)
    return np.frombuffer(data, np.float32).reshape(-1, 4)


@pytest.mark.parametrize("preset", ARCHS)
@pytest.mark.parametrize("stalled", [False, True])
def test_random_blocks_equal_numpy(preset, stalled, seed):
    arch, source = ARCHS[preset](), random.Random(seed)
    commands = [random_vector(arch, source) for _ in range(25)]
    stalls = {name: at_random(seed + index) for index, name in enumerate("xyzd")} if stalled else {}
    check(arch, commands, random_words(arch, seed), stalls=stalls)


@pytest.mark.parametrize("operation", Operation)
def test_each_operation_reads_what_it_needs(operation, seed):
    """What it does not read may lie anywhere."""
    arch = load_arch("tiny")
    blocks = {name: (100 * index, 5) for index, name in enumerate("xyz")}
    item = vector(operation, **blocks, d=(400, 5), rows=3, words=5)
    unread = set("xyz") - set(sources(item))
    item.operands.update({f"{name}_addr": 2**20 - 3 for name in unread})
    if operation is Operation.CURVE:
        item.operands.update(y_addr=32, y_stride=32)
    result = check(arch, [item], random_words(arch, seed))
    assert {name: len(cycles) for name, cycles in result.reads.items()} == {
        name: 0 if name in unread else 15 for name in "xyz"
    }


@pytest.mark.parametrize("preset", ARCHS)
def test_shuffle(preset, seed):
    arch = ARCHS[preset]()
    shuffles = range(arch.array.cols.bit_length())
    commands = [
        vector(operation, x=(0, 4), y=(100, 4), z=(200, 4), d=(300 + 40 * place, 4), rows=2, words=4, shuffle=shuffle)
        for place, (operation, shuffle) in enumerate((op, s) for s in shuffles for op in (Operation.MUL, Operation.XOR))
    ]
    check(arch, commands, random_words(arch, seed))


@pytest.mark.parametrize("hold", ["x", "y", "z", "xy", "xyz"])
@pytest.mark.parametrize("stride", [0, 3])
def test_held_words(hold, stride, seed):
    """A held source gives one word to a row; only one with stride 0 is read once for all rows."""
    arch = load_arch("tiny")
    blocks = {name: (100 * index, stride if name in hold else 7) for index, name in enumerate("xyz")}
    item = vector(Operation.MAC, **blocks, d=(400, 7), rows=4, words=7, hold=hold)
    result = check(arch, [item], random_words(arch, seed), stalls={"x": at_random(seed), "y": at_random(seed + 1)})
    for name, cycles in result.reads.items():
        assert len(cycles) == (1 if name in hold and stride == 0 else 28)


def test_a_row_that_repeats(seed):
    arch = load_arch("tiny")
    item = vector(x=(0, 7), y=(256, 0), d=(0, 7), rows=9, words=7, relu=1)
    result = check(arch, [item], random_words(arch, seed), stalls={name: at_random(ord(name)) for name in "xyd"})
    assert len(result.reads["y"]) == 63


@pytest.mark.parametrize("over", ["x", "y", "z"])
def test_the_result_may_replace_a_source(over, seed):
    arch = load_arch("tiny")
    blocks = {"x": (0, 9), "y": (100, 9), "z": (200, 9)}
    commands = [vector(Operation.MAC, **blocks, d=blocks[over], rows=4, words=6)] * 3
    check(arch, commands, random_words(arch, seed), stalls={"d": at_random(seed)})


def test_the_next_instruction_sees_the_results_of_this_one(seed):
    arch = load_arch("tiny")
    commands = [vector(x=(index, 0), y=(256, 0), d=(index + 1, 0)) for index in range(5)]
    check(arch, commands, random_words(arch, seed))


def test_settings_change_behind_the_last_word(seed):
    """Neighbours differ in everything; the words of one are under way when the command of the next is taken."""
    arch, commands = load_arch("tiny2"), []
    for place, operation in enumerate(Operation):
        fields = {"shift": 7, "right": place % 2} if operation in INTEGERS else {}
        blocks = {"x": (place, 0), "y": (100 + place, 0), "z": (200 + place, 0), "d": (300 + place, 0)}
        if operation is Operation.CURVE:
            blocks["y"], fields = (64, 64), {"shift": 5}
        commands.append(vector(operation, **blocks, relu=place % 3 == 0, shuffle=place % 3, **fields))
    check(arch, commands, random_words(arch, seed), stalls={"d": long(20)})


def test_sum_over_rows_and_columns_by_halves():
    """32 rows of 4 columns: halves of the rows five times, then columns by shuffle; every column holds the sum."""
    arch, rng = load_arch("tiny"), np.random.default_rng(3)
    numbers = rng.integers(-1000, 1000, (32, 4)).astype(np.float32)
    words = {address: int.from_bytes(row.tobytes(), "little") for address, row in enumerate(numbers)}
    commands = [vector(x=(0, 1), y=(half, 1), d=(0, 1), rows=half) for half in (16, 8, 4, 2, 1)]
    commands += [vector(shuffle=shuffle) for shuffle in (1, 2)]
    result = check(arch, commands, words)
    assert (floats(result.words, [0]) == numbers.sum()).all()


@pytest.mark.parametrize(
    "stalls",
    [
        {"x": long(40)},
        {"d": long(40)},
        {"y": long(9), "d": long(30)},
        {"z": every_fourth},
        {"x": long(3), "z": long(5)},
    ],
)
def test_busy_scratchpad(stalls, seed):
    arch, source = load_arch("tiny2"), random.Random(seed)
    item = vector(Operation.MAC, x=(0, 20), y=(120, 20), z=(240, 20), d=(400, 20), rows=5, words=20)
    check(arch, [item, random_vector(arch, source)], random_words(arch, seed), stalls=stalls)


BAD = {
    "x": (Cause.SCRATCHPAD_RANGE, 2, vector(x=(1022, 0), words=3)),
    "y": (Cause.SCRATCHPAD_RANGE, 1, vector(y=(1023, 2), rows=3)),
    "z": (Cause.SCRATCHPAD_RANGE, 3, vector(Operation.MAC, z=(1021, 1), rows=4)),
    "d": (Cause.SCRATCHPAD_RANGE, 0, vector(d=(1024, 0), words=3)),
    "far": (Cause.SCRATCHPAD_RANGE, 1, vector(x=(1023, 2**20 - 1), rows=3)),
    "held": (Cause.SCRATCHPAD_RANGE, 6, vector(Operation.EQUAL, z=(1022, 1), rows=3, words=3, hold="z")),
    "constant": (Cause.SCRATCHPAD_RANGE, 0, vector(y=(1024, 0), rows=3, words=3, hold="y")),
    "shift": (Cause.BAD_FIELD, 0, vector(shift=1, x=(1024, 0))),
    "right": (Cause.BAD_FIELD, 0, vector(Operation.COPY, right=1)),
    "shuffle": (Cause.BAD_FIELD, 0, vector(Operation.COPY, shuffle=3)),
    "curve": (Cause.SCRATCHPAD_RANGE, 0, vector(Operation.CURVE, curve=(64, 2))),
    "long curve": (Cause.SCRATCHPAD_RANGE, 0, vector(Operation.CURVE, curve=(0, 128))),
    "x of a curve": (Cause.SCRATCHPAD_RANGE, 2, vector(Operation.CURVE, x=(1022, 0), words=3, curve=(0, 64))),
    "one entry": (Cause.BAD_FIELD, 0, vector(Operation.CURVE, curve=(0, 1))),
    "no entries": (Cause.BAD_FIELD, 0, vector(Operation.CURVE, curve=(0, 0))),
    "uneven curve": (Cause.BAD_FIELD, 0, vector(Operation.CURVE, curve=(0, 48))),
    "begin of a curve": (Cause.BAD_FIELD, 0, vector(Operation.CURVE, curve=(4, 8))),
    "right of a curve": (Cause.BAD_FIELD, 0, vector(Operation.CURVE, curve=(0, 8), right=1)),
    "shuffle of integers": (Cause.BAD_FIELD, 0, vector(Operation.XOR, shuffle=7, shift=3, right=1)),
}


@pytest.mark.parametrize("name", BAD)
def test_errors(name):
    cause, written, bad = BAD[name]
    good = vector(x=(0, 3), y=(10, 0), d=(30, 3), rows=2, words=3)
    result = run(load_arch("tiny"), [good, bad, good], {}, stalls={"x": at_random(1), "d": at_random(2)})
    assert [(found, pc) for _, found, pc in result.bench.errors] == [(cause, 1)]
    assert len(result.bench.done) == 1
    assert len(result.writes) == 6 + written


def test_a_curve_without_a_table():
    result = run(ARCHS["wide"](), [vector(Operation.CURVE, curve=(0, 2))], {})
    assert [found for _, found, _ in result.bench.errors] == [Cause.SCRATCHPAD_RANGE]


@pytest.mark.parametrize("when", [1, 2, 4, 12, 13, 25, 26, 34, 35, 36, 42])
@pytest.mark.parametrize("stalls", [{}, {"y": at_random(1), "d": long(30)}])
def test_stop_writes_what_was_read_and_the_engine_works_again(when, stalls, seed):
    arch, words = load_arch("tiny"), random_words(load_arch("tiny"), seed, 300)
    commands = [vector(x=(0, 8), y=(100, 8), d=(300, 8), rows=3, words=8)] * 2
    again = vector(Operation.MUL, x=(3, 8), y=(100, 0), d=(500, 8), rows=2, words=5)
    stopped: list[int] = []

    def drive(bench):
        async def stop(ctx):
            await bench.run(ctx, commands, stop_at=when)
            stopped.append(len(bench.done))
            await bench.run(ctx, [again])

        return stop

    result = run(arch, commands, words, drive=drive, stalls=stalls)
    execute(arch, again, words)
    assert {place: word for place, word in result.words.items() if place >= 500} == {
        place: word for place, word in words.items() if place >= 500
    }
    reads, writes = (len(cycles) for cycles in (result.reads["x"], result.writes))
    assert reads - 1 <= writes <= reads, "a word that has been read is written, unless its other source was not read"
    assert len(result.bench.done) == stopped[0] + 1
    assert all(cycle < when for cycle in result.bench.done[: stopped[0]]), "nothing is done while the engine stops"
    assert not result.bench.errors

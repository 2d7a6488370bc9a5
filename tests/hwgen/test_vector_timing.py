"""The cycles that the docstring of the vector engine promises, alone and in front of the accumulator scratchpad."""

from dataclasses import replace
from functools import partial

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring

from hwgen.arch import load as load_arch
from hwgen.arch.isa import Operation
from hwgen.memory.acc import AccScratchpad
from hwgen.vector.engine import VectorEngine
from tests.hwgen.vector_support import run, vector
from tests.support import ARCHS, EngineBench, long, simulate

BLOCKS = {"x": (0, 20), "y": (200, 20), "z": (400, 20), "d": (600, 20)}


@pytest.mark.parametrize("preset", ARCHS)
@pytest.mark.parametrize("operation", [Operation.COPY, Operation.ADD, Operation.MAC, Operation.ISUB])
@pytest.mark.parametrize("entries", [0, 64])
def test_one_step_a_cycle(preset, operation, entries):
    arch = ARCHS[preset]()
    arch = replace(arch, vector=replace(arch.vector, curve_entries=entries))
    result = run(arch, [vector(operation, **BLOCKS, rows=5, words=20)], {})
    bench, pace = result.bench, arch.vector.words
    first = bench.taken[0] + 1
    assert result.reads["x"] == [first + word // pace for word in range(100)]
    assert result.writes == [cycle + bench.engine.latency for cycle in result.reads["x"]]
    assert bench.done == result.writes[-1:]


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("words", [1, 2, 5, 6])
def test_a_row_of_two_words_a_cycle(words, first):
    """A row with an odd number of words ends with a step of one; it makes no difference where rows begin."""
    blocks = {name: (address + first * index, 9) for index, (name, (address, _)) in enumerate(BLOCKS.items())}
    result = run(load_arch("tiny2"), [vector(Operation.MAC, **blocks, rows=4, words=words)], {})
    start, steps = result.bench.taken[0] + 1, -(-words // 2)
    cycles = [start + row * steps + word // 2 for row in range(4) for word in range(words)]
    assert all(result.reads[name] == cycles for name in "xyz")
    assert result.writes == [cycle + result.bench.engine.latency for cycle in cycles]


def test_a_word_that_is_refused_comes_later_than_the_other_one():
    """The step waits for both of its words; the one that was accepted is not asked for again."""
    result = run(load_arch("tiny2"), [vector(**BLOCKS, words=40)], {}, stalls={"x": long(3), "d": long(4)})
    odd, even = (result.halves["x", half].read_cycles for half in (1, 0))
    assert len(odd) == len(even) == 20
    assert odd != even


@pytest.mark.parametrize("preset", ["tiny", "tiny2"])
@pytest.mark.parametrize("same", ["xy", "xz", "yz", "xyz"])
def test_words_that_sources_share_are_read_once(preset, same):
    blocks = dict(BLOCKS) | dict.fromkeys(same, BLOCKS[same[0]])
    result = run(load_arch(preset), [vector(Operation.MAC, **blocks, rows=3, words=7, hold="")], {})
    assert {name: len(cycles) for name, cycles in result.reads.items()} == {
        name: 0 if name in same[1:] else 21 for name in "xyz"
    }


def test_latency_is_read_operand_register_table_lane_and_queue():
    result = run(load_arch("tiny"), [vector()], {})
    assert result.bench.engine.latency == 2 + 1 + (2 + 3 + 4) + 1


@pytest.mark.parametrize("steps", [1, 3, 20])
def test_instructions_follow_one_another(steps):
    """The next command is taken in the cycle after the last reads, its first reads come after the last write."""
    result = run(load_arch("tiny"), [vector(**BLOCKS, words=steps)] * 4, {})
    latency, taken = result.bench.engine.latency, result.bench.taken
    firsts = [taken[0] + 1 + number * (steps + latency) for number in range(4)]
    assert result.reads["x"] == [first + step for first in firsts for step in range(steps)]
    assert taken[1:] == [first + steps for first in firsts[:-1]]
    assert result.bench.done == [first + steps - 1 + latency for first in firsts]


def test_a_command_that_comes_late_starts_in_the_next_cycle():
    """The last write is held up until long after; the first reads come right behind it."""
    result = run(load_arch("tiny"), [vector(**BLOCKS, words=7)] * 2, {}, stalls={"d": long(50)})
    assert result.reads["x"][7] == result.writes[6] + 1

    def drive(bench):
        async def pause(ctx):
            await bench.run(ctx, [vector(**BLOCKS, words=7)])
            await bench.run(ctx, [vector(**BLOCKS, words=7)])

        return pause

    result = run(load_arch("tiny"), [], {}, drive=drive)
    assert result.reads["x"][7] == result.bench.taken[1] + 1 > result.writes[6] + 2


def test_a_queue_full_of_results_holds_up_the_reads():
    result = run(load_arch("tiny"), [vector(**BLOCKS, rows=5, words=20)], {}, stalls={"d": long(40)})
    ahead = max(
        sum(read <= cycle for read in result.reads["x"]) - sum(write < cycle for write in result.writes)
        for cycle in range(result.bench.done[0])
    )
    assert ahead == result.bench.engine.latency + 1


CASES = {
    # operation, banks of x, y, z and d, held: cycles of a step, and those besides
    "different banks": (Operation.ADD, "0123", "", 1, 0),
    "d in a bank that is read": (Operation.ADD, "0130", "", 1, 0),
    "x and y in one": (Operation.ADD, "0023", "", 2, 0),
    "three sources": (Operation.MAC, "0123", "", 1, 0),
    "two of three": (Operation.MAC, "0103", "", 2, 0),
    "all in one": (Operation.MAC, "0000", "", 3, 0),
    "an unread source": (Operation.ADD, "0103", "", 1, 0),
    "a constant": (Operation.ADD, "0023", "y", 1, 1),
    "two constants": (Operation.MAC, "0003", "xz", 1, 2),
    "all constant": (Operation.MAC, "0003", "xyz", 1, 2),
    "a constant elsewhere": (Operation.MAC, "0103", "z", 1, 1),
}


@pytest.mark.parametrize("words", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_cycles_in_front_of_the_scratchpad(case, words):
    operation, banks, hold, cycles, besides = CASES[case]
    arch = load_arch("tiny")
    arch = replace(arch, vector=replace(arch.vector, words=words))
    m = Module()
    m.submodules.engine = engine = VectorEngine(arch)
    m.submodules.acc = acc = AccScratchpad(arch)
    names = {"x": "read_vector_x", "y": "read_vector_y", "z": "read_vector_z", "d": "write_vector"}
    for name, port in names.items():
        for user, bus in zip(getattr(engine, name), getattr(acc, port)):
            wiring.connect(m, user, bus)
    bench = EngineBench(engine)
    blocks = {
        name: (256 * int(bank) + 2 * index, 0 if name in hold else 20)
        for index, (name, bank) in enumerate(zip("xyzd", banks))
    }
    item = vector(operation, **blocks, rows=5, words=20, hold=hold)
    simulate(m, partial(bench.run, commands=[item]), background=[bench.watch])
    assert bench.done[0] - bench.taken[0] == 1 + cycles * 100 // words + besides - 1 + engine.latency

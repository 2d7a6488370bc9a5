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
def test_one_word_a_cycle(preset, operation, entries):
    arch = ARCHS[preset]()
    arch = replace(arch, vector=replace(arch.vector, curve_entries=entries))
    result = run(arch, [vector(operation, **BLOCKS, rows=5, words=20)], {})
    bench = result.bench
    first = bench.taken[0] + 1
    assert result.reads["x"] == list(range(first, first + 100))
    assert result.writes == [cycle + bench.engine.latency for cycle in result.reads["x"]]
    assert bench.done == result.writes[-1:]


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
    # operation, banks of x, y, z and d, held: cycles of 100 steps
    "different banks": (Operation.ADD, "0123", "", 100),
    "d in a bank that is read": (Operation.ADD, "0130", "", 100),
    "x and y in one": (Operation.ADD, "0023", "", 200),
    "three sources": (Operation.MAC, "0123", "", 100),
    "two of three": (Operation.MAC, "0103", "", 200),
    "all in one": (Operation.MAC, "0000", "", 300),
    "an unread source": (Operation.ADD, "0103", "", 100),
    "a constant": (Operation.ADD, "0023", "y", 101),
    "two constants": (Operation.MAC, "0003", "xz", 102),
    "all constant": (Operation.MAC, "0003", "xyz", 102),
    "a constant elsewhere": (Operation.MAC, "0103", "z", 101),
}


@pytest.mark.parametrize("case", CASES)
def test_cycles_in_front_of_the_scratchpad(case):
    operation, banks, hold, cycles = CASES[case]
    arch = load_arch("tiny")
    m = Module()
    m.submodules.engine = engine = VectorEngine(arch)
    m.submodules.acc = acc = AccScratchpad(arch)
    names = {"x": "read_vector_x", "y": "read_vector_y", "z": "read_vector_z", "d": "write_vector"}
    for name, port in names.items():
        wiring.connect(m, getattr(engine, name), getattr(acc, port))
    bench = EngineBench(engine)
    blocks = {name: (256 * int(bank), 0 if name in hold else 20) for name, bank in zip("xyzd", banks)}
    item = vector(operation, **blocks, rows=5, words=20, hold=hold)
    simulate(m, partial(bench.run, commands=[item]), background=[bench.watch])
    assert bench.done[0] - bench.taken[0] == 1 + cycles - 1 + engine.latency

"""FILL on the Verilated accelerator: errors on the second memory port, both ports at once, how they share bandwidth."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from hwgen.arch import load
from hwgen.arch.commands import command, encode
from hwgen.arch.isa import Cause, Engine, Opcode, Target
from sim.check import check_run, run_golden
from sim.cycles import run_model
from sim.memory import MemoryModel
from sim.runner import build, run_on
from tests.test_end_to_end import place, raw, run_with_a_bad_instruction

pytestmark = pytest.mark.verilator
TIMEOUT = 400_000
BEATS = 200
GOOD = encode(command(Opcode.FILL, beats=2))
FILL = {"beats": 2}
BAD_INSTRUCTIONS = {
    "token for itself": raw(Opcode.FILL, signal=1 << Engine.FILL, **FILL),
    "token for nobody": raw(Opcode.FILL, signal=1 << 5, **FILL),
    "no accumulator target": raw(Opcode.FILL, target=Target.WGT, **FILL),
    "target above the accumulators": raw(Opcode.FILL, target=Target.COLS, **FILL),
    "half a word": raw(Opcode.FILL, beats=3),
    "beyond memory": raw(Opcode.FILL, addr=1023, beats=4),
    "odd address": raw(Opcode.FILL, dram_addr=4, **FILL),
    "no memory": raw(Opcode.FILL, dram_addr=1 << 20, **FILL),
}


@pytest.fixture(scope="module")
def tiny2():
    return build(load("tiny2"))


@pytest.mark.parametrize("what", BAD_INSTRUCTIONS)
def test_a_bad_instruction_stops_the_run_as_golden_says(tiny2, what):
    status, error, after = run_with_a_bad_instruction(tiny2, GOOD, BAD_INSTRUCTIONS[what])
    assert status == error
    assert after.ok


def test_without_a_second_port_fill_is_no_instruction():
    tiny = build(load("tiny"))
    status = tiny.run(place([GOOD]), program=8192, count=1, timeout_cycles=TIMEOUT).status
    assert (status.cause, status.engine, status.pc) == (Cause.BAD_OPCODE, None, 0)


@pytest.mark.parametrize(("at", "engine", "pc"), [(80, Engine.FILL, 1), (1040, Engine.LOAD, 2)])
def test_an_error_answer_on_either_port_stops_the_run(tiny2, at, engine, pc):
    commands = [
        command(Opcode.FILL, beats=4),
        command(Opcode.FILL, beats=4, dram_addr=64, signal=1 << Engine.LOAD),
        command(Opcode.LOAD, beats=40, dram_addr=1024, wait=1 << Engine.FILL, signal=1 << Engine.FILL),
        command(Opcode.FILL, beats=4, wait=1 << Engine.LOAD),
    ]
    with tiny2.power_up() as device:
        options = {"program": 8192, "count": 4, "timeout_cycles": TIMEOUT}
        broken = MemoryModel(error_range=(at, at + 1), stalls=0.1)
        status = run_on(device, place(map(encode, commands)), memory=broken, **options).status
        after = run_on(device, place(map(encode, commands)), **options).status
    assert (status.cause, status.engine, status.pc) == (Cause.READ_RESPONSE, engine, pc)
    assert after.ok


def side_by_side():
    """A LOAD and a FILL of the same length that need nothing of each other, and a STORE of what FILL has read."""
    commands = [
        command(Opcode.LOAD, target=Target.WGT, beats=BEATS, dram_addr=0),
        command(Opcode.FILL, target=Target.ACC16, beats=BEATS, dram_addr=2048, signal=1 << Engine.STORE),
        command(Opcode.STORE, words=BEATS, lanes=4, dram_addr=4096, wait=1 << Engine.FILL),
    ]
    image = place(map(encode, commands))
    image[:4096] = np.random.default_rng(1).standard_normal(2048).astype(np.float16).view(np.uint8)
    return image, b"".join(map(encode, commands))


@pytest.mark.parametrize(
    ("bandwidth", "least", "most"),
    [
        (None, BEATS, 4 * BEATS // 3),
        (Fraction(16), BEATS, 4 * BEATS // 3),
        (Fraction(8), 2 * BEATS - 30, 2 * BEATS + 20),
    ],
    ids=str,
)
def test_both_ports_share_the_bandwidth(tiny2, bandwidth, least, most):
    """More than a beat a cycle if memory has two; if it has one, the ports take turns and end together."""
    image, encoded = side_by_side()
    memory = MemoryModel(bandwidth=bandwidth, read_latency=4)
    run = tiny2.run(image, program=8192, count=3, memory=memory, timeout_cycles=TIMEOUT)
    assert check_run(run, run_golden(tiny2.arch, image, 0, encoded), 0).equal
    counters = run.counters
    assert counters["READ_BEATS"] == 2 * BEATS + len(encoded) // 8
    assert counters["WRITE_BEATS"] == 2 * BEATS
    assert least <= counters["BUSY_LOAD"] <= most
    assert least <= counters["BUSY_FILL"] <= most
    model = run_model(tiny2.arch, encoded, address=8192, memory=memory)
    assert (model.cycles, model.counters) == (run.cycles, counters)


def loads_and_fills(first, addr=0):
    """A LOAD and a FILL of accumulator words side by side, to `addr` and to `first`, and a STORE of both."""
    half = BEATS // 2
    commands = [
        command(Opcode.LOAD, target=Target.ACC16, addr=addr, beats=half, signal=1 << Engine.STORE),
        command(Opcode.FILL, addr=first, target=Target.ACC16, beats=half, dram_addr=2048, signal=1 << Engine.STORE),
        command(Opcode.STORE, addr=addr, words=half, lanes=4, dram_addr=4096, wait=1 << Engine.LOAD | 1 << Engine.FILL),
        command(Opcode.STORE, addr=first, words=half, lanes=4, dram_addr=6144),
    ]
    return b"".join(map(encode, commands))


@pytest.mark.parametrize("first", [100, 612])
def test_load_and_fill_share_the_accumulators(tiny2, first):
    encoded, memory = loads_and_fills(first), MemoryModel(read_latency=4)
    image = place([encoded])
    image[:4096] = np.random.default_rng(2).standard_normal(2048).astype(np.float16).view(np.uint8)
    run = tiny2.run(image, program=8192, count=4, memory=memory, timeout_cycles=TIMEOUT)
    assert check_run(run, run_golden(tiny2.arch, image, 0, encoded), 0).equal
    model = run_model(tiny2.arch, encoded, address=8192, memory=memory)
    assert (model.cycles, model.counters) == (run.cycles, run.counters)


def test_in_one_bank_load_goes_before_fill():
    """In the model, which must not pass over cycles in which FILL waits, or comes to the bank where LOAD is."""
    arch = load("tiny")
    arch = replace(arch, memory=replace(arch.memory, ports=2, outstanding=8))
    busy = {}
    for first, addr in ((100, 0), (200, 260), (612, 0)):
        encoded = loads_and_fills(first, addr)
        found, whole = (
            run_model(arch, encoded, address=8192, memory=MemoryModel(read_latency=4), every_cycle=every)
            for every in (False, True)
        )
        assert (found.cycles, found.counters) == (whole.cycles, whole.counters)
        busy[first] = found.counters["BUSY_FILL"]
    assert 3 * busy[612] < 2 * busy[100]
    assert busy[612] < busy[200]

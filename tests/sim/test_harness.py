"""The harness, its memory model and its protocol checks, tried on a stand-in that copies memory and can break rules."""

import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from hwgen.arch import UserError
from sim.design import compile_verilog
from sim.device import DONE, ISSUE, STATE, Device, load_library
from sim.memory import MemoryModel

pytestmark = pytest.mark.verilator

BASE, SOURCE, TARGET, BEAT = 0x1000, 0x40, 0x8000, 8
TIMEOUT = 100_000


@pytest.fixture(scope="module")
def library():
    return load_library(compile_verilog([Path(__file__).parent / "standin.v"]))


class Copy:
    """A run of the stand-in: copies `beats` beats, then everything that can be known about it."""

    def __init__(self, library, beats, *, source=SOURCE, target=TARGET, fault=0, cycles=TIMEOUT, **memory):
        self.before = np.random.default_rng(0).integers(0, 256, 1 << 16, dtype=np.uint8)
        self.image = self.before.copy()
        with Device(library) as device:
            device.attach(self.image, BASE, MemoryModel(**memory))
            device.reset()
            registers = {0x10: BASE + source, 0x1C: beats, 0x100: BASE + target, 0x104: fault}
            for address, value in registers.items():
                device.write(address, value)
            device.start_log(10_000)
            device.write(0, 1)
            self.ended = device.run(cycles)
            self.idle = device.idle
            device.finish()
            self.cycles, self.states, (self.events, self.dropped) = device.now, device.states(), device.events()
            self.traffic, self.complaints, self.status = device.traffic(), device.complaints(), device.read(0x28)
        size = beats * BEAT
        expected = self.before.copy()
        if max(source, target) + size <= expected.size:
            expected[target : target + size] = self.before[source : source + size]
        self.exact = bool((self.image == expected).all())


@pytest.mark.parametrize(
    "memory",
    [
        {},
        {"read_latency": 1, "write_latency": 1},
        {"stalls": 0.4, "seed": 3},
        {"stalls": (0.9, 0.0, 0.0, 0.0, 0.0)},
        {"stalls": (0.0, 0.9, 0.0, 0.0, 0.9)},
        {"stalls": (0.0, 0.0, 0.9, 0.9, 0.0)},
        {"stall_every": 2},
        {"outstanding": 1},
        {"bandwidth": Fraction(3, 7)},
    ],
)
def test_copy_is_exact_under_every_disturbance(library, memory):
    run = Copy(library, 150, source=SOURCE + 8, **memory)
    assert run.ended
    assert run.idle
    assert run.complaints == []
    assert run.status == 0
    assert run.traffic == (150, 150)
    assert run.exact


def test_equal_seeds_give_equal_cycles_and_others_do_not(library):
    cycles = [Copy(library, 100, stalls=0.3, seed=seed).cycles for seed in (5, 5, 6)]
    assert cycles[0] == cycles[1] != cycles[2]


def test_latency_counts_from_the_address_to_the_first_beat(library):
    short, long = (Copy(library, 4, read_latency=latency).cycles for latency in (10, 37))
    assert long - short == 27
    short, long = (Copy(library, 4, write_latency=latency).cycles for latency in (10, 37))
    assert long - short == 27


def test_bandwidth_bounds_the_bytes_of_both_directions(library):
    rate = Fraction(5, 4)
    run = Copy(library, 300, bandwidth=rate, read_latency=1, write_latency=1)
    ideal = 2 * 300 * BEAT / rate
    assert ideal <= run.cycles <= ideal * 1.25


def test_a_stall_in_every_second_cycle_halves_the_beats(library):
    run = Copy(library, 4, stall_every=2)
    assert run.cycles >= Copy(library, 4).cycles + 6


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        (1, "ARVALID fell before READY"),
        (2, "W changed before READY"),
        (3, "WLAST came early"),
        (4, "AR burst crosses a 4 KiB boundary"),
    ],
)
def test_broken_rules_are_reported(library, fault, complaint):
    run = Copy(library, 100, source=4096 - 72, fault=fault, stalls=0.3)
    assert any(text.endswith(complaint) for text in run.complaints), run.complaints


def test_an_end_before_the_last_answer_is_seen(library):
    run = Copy(library, 8, fault=5, write_latency=30)
    assert run.ended
    assert not run.idle
    assert not run.exact, "data must not be visible before the answer"


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"error_range": (BASE + SOURCE + 80, BASE + SOURCE + 81)}, 5),
        ({"error_range": (BASE + TARGET, BASE + TARGET + 1)}, 6),
        ({"source": 1 << 16}, 5),
        ({"target": 1 << 16}, 6),
    ],
)
def test_errors_are_answered_in_the_range_and_outside_the_image(library, options, status):
    run = Copy(library, 12, **options)
    assert run.ended
    assert run.status == status
    assert run.complaints == []


def test_states_and_events_add_up(library):
    run = Copy(library, 40)
    assert (run.states.sum(axis=1) == run.cycles).all()
    assert run.dropped == 0
    kinds = run.events["kind"]
    assert (kinds == ISSUE).sum() == (kinds == DONE).sum() == 1
    for engine in range(4):
        mine = run.events[(kinds == STATE) & (run.events["engine"] == engine)]
        assert mine["length"].sum() == run.states[engine, 1:].sum()
        ends = mine["cycle"][:-1] + mine["length"][:-1]
        assert (mine["cycle"][1:] >= ends).all()


def test_events_are_bounded(library):
    image = np.zeros(1 << 12, np.uint8)
    with Device(library) as device:
        device.attach(image, 0, MemoryModel())
        device.reset()
        device.write(0x1C, 100)
        device.start_log(5)
        device.write(0, 1)
        assert device.run(TIMEOUT)
        device.finish()
        events, dropped = device.events()
    assert len(events) == 5
    assert dropped > 0


def test_a_run_that_does_not_end_stops_at_its_limit(library):
    run = Copy(library, 4000, cycles=500)
    assert not run.ended
    assert run.cycles < 600


def test_a_waveform_needs_a_build_for_it(library, tmp_path):
    with Device(library) as device, pytest.raises(ValueError, match="built without waveforms"):
        device.record(tmp_path / "wave.fst", 0, 10)


def test_a_waveform_holds_the_cycles_that_were_asked_for(tmp_path):
    library = load_library(compile_verilog([Path(__file__).parent / "standin.v"], trace=True))
    path = tmp_path / "wave.fst"
    with Device(library) as device:
        device.attach(np.zeros(1 << 12, np.uint8), 0, MemoryModel())
        device.reset()
        device.write(0x1C, 20)
        device.start_log(100)
        device.record(path, 30, 70)
        device.write(0, 1)
        assert device.run(TIMEOUT)
        device.finish()
    block, _, start, end = struct.unpack(">BQQQ", path.read_bytes()[:25])
    assert (block, start, end) == (0, 30 * 10, 69 * 10 + 5)


def test_settings_out_of_range_are_refused():
    for options, text in (
        ({"read_latency": 0}, "memory read_latency must be at least 1, not 0"),
        ({"bandwidth": Fraction(0)}, "memory bandwidth must be more than 0 bytes per cycle, not 0"),
        ({"stalls": 1.0}, "memory stalls must be in 0..0.95, not 1.0"),
        ({"stall_every": 1}, "memory stall_every must be 0 or at least 2, not 1"),
        ({"read_latency": 40.5}, "memory read_latency must be a whole number, not 40.5"),
        ({"bandwidth": 12.8}, "memory bandwidth must be a whole number or a Fraction, not 12.8"),
        ({"stalls": (0.1, 0.2)}, r"memory stalls must be one chance or 5, not \(0.1, 0.2\)"),
        ({"seed": -1}, "a seed must be in 0..4294967295, not -1"),
    ):
        with pytest.raises(UserError, match=f"^{text}$"):
            MemoryModel(**options)

"""What the runner does around a run, on the smallest accelerator."""

import numpy as np
import pytest

from hwgen.arch import load
from hwgen.arch.commands import command, encode
from hwgen.arch.isa import Engine, Opcode
from sim.device import SimulationError
from sim.memory import MemoryModel
from sim.runner import Waveform, build
from sim.timeline import instruction_spans

pytestmark = pytest.mark.verilator
COMMANDS = [
    command(Opcode.LOAD, beats=16, signal=1 << Engine.STORE),
    command(Opcode.STORE, words=4, lanes=4, dram_addr=512, wait=1 << Engine.LOAD),
]


@pytest.fixture(scope="module")
def simulator():
    return build(load("tiny"))


def run(simulator, **options):
    image = np.zeros(4096, np.uint8)
    code = b"".join(map(encode, COMMANDS))
    image[1024 : 1024 + len(code)] = np.frombuffer(code, np.uint8)
    return simulator.run(image, program=1024, count=len(COMMANDS), **options)


def test_an_image_is_not_changed_in_place(simulator):
    image = np.zeros(4096, np.uint8)
    item = command(Opcode.LOAD, beats=1)
    image[1024:1056] = np.frombuffer(encode(item), np.uint8)
    before = image.copy()
    result = simulator.run(image, program=1024, count=1)
    assert result.memory is not image
    assert (image == before).all()


def test_counters_and_events_tell_the_same_story(simulator):
    result = run(simulator, memory=MemoryModel(stalls=0.2, seed=1))
    assert result.status.ok
    assert (result.counters["READ_BEATS"], result.counters["WRITE_BEATS"]) == (16 + 8, 8)
    spans = instruction_spans(result.events, COMMANDS)
    assert [index for index, _, _ in spans] == [0, 1]
    assert spans[1][1] >= spans[0][2], "the store waits for the load"
    assert (np.diff(result.events["cycle"].astype(np.int64)) >= 0).all()
    assert result.dropped_events == 0
    assert (result.states.sum(axis=1) >= result.cycles).all()


def test_equal_runs_take_equal_cycles(simulator):
    cycles = {run(simulator, memory=MemoryModel(stalls=0.3, seed=4)).cycles for _ in range(3)}
    assert len(cycles) == 1


def test_a_run_that_does_not_end_says_what_the_engines_did(simulator):
    with pytest.raises(SimulationError, match=r"^the run did not end in 50 cycles \(cycles in each state: load \["):
        run(simulator, memory=MemoryModel(read_latency=200), timeout_cycles=50)


def test_a_waveform_needs_its_build(simulator, tmp_path):
    with pytest.raises(ValueError, match="without waveforms"):
        run(simulator, waveform=Waveform(tmp_path / "wave.fst"))


def test_progress_is_reported(simulator):
    texts = []
    run(simulator, memory=MemoryModel(read_latency=30_000), progress=texts.append)
    assert any(text.endswith(" cycles") for text in texts)

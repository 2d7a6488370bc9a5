import io
import json

import numpy as np
import pytest
from rich.console import Console

from hwgen.arch import load
from hwgen.arch.isa import Cause, Engine
from hwgen.arch.registers import TensorState
from models.machine import MachineResult
from models.machine_tensor import TensorWork
from sim.device import EVENT
from sim.report import Comparison, Report, compare, print_report
from sim.runner import RunResult, Status

TINY = load("tiny")


def report(**changes):
    counters = {f"TENSOR_{state.name}": 10 * (state + 1) for state in TensorState}
    counters |= {f"BUSY_{engine.name}": 90 for engine in Engine}
    counters |= {"READ_BEATS": 300, "WRITE_BEATS": 60}
    states = np.zeros((4, 16), np.uint64)
    states[Engine.LOAD, :4] = 100, 200, 50, 10
    status = Status(Cause.NONE, Engine.LOAD, 0)
    run = RunResult(np.zeros(64, np.uint8), status, 360, counters, states, np.zeros(0, EVENT), 0)
    golden = MachineResult(3, (TensorWork(1, 20, 320),))
    values = {"model": "[m]", "sparsity": "2:8", "dataflow": "auto", "comparison": Comparison(16, 0), "outputs": {}}
    return Report(**{"arch": TINY, "run": run, "golden": golden, **values, **changes})


def test_shares_and_sums():
    made = report()
    assert made.utilisation == 20 / 360
    assert sum(made.tensor_cycles.values()) == made.cycles
    assert made.bytes_moved == 360 * TINY.beat_bytes
    roofline = made.to_json()["roofline"]
    assert (roofline["limited_by"], roofline["share_of_limit"]) == ("read_beats", 300 / 360)
    assert roofline["macs_per_cycle"] == 320 / 360
    assert made.to_json()["engines"]["load"] == {
        **{"executing": 90, "idle": 100, "busy": 200, "waits for tokens": 50, "stalled": 10}
    }


def test_the_tensor_engine_has_one_account():
    """Its states on the `activity` port are others: idle where the registers count the wait of the next instruction."""
    made = report()
    made.run.states[Engine.TENSOR, :8] = 30, 20, 30, 20, 50, 60, 70, 80
    rows = made.to_json()
    assert rows["tensor_cycles"]["memory"] == 40
    assert rows["engines"]["tensor"] == {"executing": 90, **rows["tensor_cycles"]}


def test_json_is_plain_data():
    assert json.loads(json.dumps(report().to_json()))["comparison"]["equal"] is True
    assert report(comparison=None, golden=None).to_json()["roofline"] == {}


@pytest.mark.parametrize(
    ("comparison", "text"),
    [
        (Comparison(16, 0), "all 16 words of memory equal"),
        (Comparison(16, 3, "at 0x40: RTL 0x1, golden 0x2"), "3 of 16 words differ, first at 0x40"),
        (None, "not compared"),
    ],
)
def test_tables_say_the_verdict(comparison, text):
    console = Console(file=io.StringIO(), width=140)
    print_report(report(comparison=comparison), console)
    printed = console.file.getvalue()
    assert text in printed
    assert "[m] on tiny, 2:8" in printed
    for state in TensorState:
        assert state.name.lower() in printed


def test_the_first_difference_is_named():
    image = np.arange(64, dtype=np.uint8)
    golden = image.copy()
    assert compare(image, golden.tobytes(), 0x100).equal
    golden[[13, 40]] ^= 1
    comparison = compare(image, golden.tobytes(), 0x100)
    assert (comparison.words, comparison.different) == (16, 2)
    assert comparison.first == "at 0x10c: RTL 0x0f0e0d0c, golden 0x0f0e0c0c"


def test_status_texts():
    assert str(Status(Cause.NONE, Engine.LOAD, 0)) == "ok"
    assert str(Status(Cause.BAD_OPCODE, None, 7)) == "BAD_OPCODE in fetch at instruction 7"
    assert str(Status(Cause.WATCHDOG, Engine.STORE, 2)) == "WATCHDOG in store at instruction 2"

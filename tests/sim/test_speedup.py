"""Tables of training cycles on a small network: what they add up to, and what they compare."""

import pytest

from hwgen.arch import load
from models.pattern import Pattern
from scheduler.training.compile import compile_step
from scheduler.training.lower import TrainingOptions
from sim import tune
from sim.cycles import run_model
from sim.memory import MemoryModel
from sim.speedup import COLUMNS, capture, measure, table
from sim.step_report import kernels, markdown, timeline

ARCH = load("sat8")


@pytest.fixture(scope="module")
def results():
    return [measure("digits_cnn", pattern, ARCH, 16) for pattern in ("dense", "2:8")]


def test_states_of_the_tensor_engine_add_up_to_the_cycles(results):
    for item in results:
        assert sum(item.states.values()) == item.cycles
        assert 0 < item.tensor_busy < item.cycles


def test_sparsity_saves_cycles_within_its_bound(results):
    dense, sparse = results
    assert dense.bound == 1
    assert 1 < dense.cycles / sparse.cycles < sparse.bound < 2


def test_table_has_a_row_for_each_result(results):
    rows = table(results)
    assert [len(row) for row in rows] == [len(COLUMNS)] * 2
    assert rows[0][4:] == ["", "", ""]
    assert rows[1][4] == f"{results[0].cycles / results[1].cycles:.2f}x"


def test_report_of_a_step_accounts_for_every_instruction():
    options = TrainingOptions(pattern=Pattern(2, 8))
    program = compile_step(capture("digits_cnn", 16), ARCH, options, measure=tune.measure(ARCH, MemoryModel()))
    code = program.step
    result = run_model(ARCH, code.encode(), address=code.address, event_limit=16 * len(code.commands))
    found = kernels(program, result)
    constants = program.places.headings[0][0]  # loaded before the first kernel
    assert sum(item.instructions for item in found) == len(code.commands) - constants
    end = int((result.events["cycle"] + result.events["length"]).max()) + 1
    assert all(0 <= item.start < item.end <= end for item in found)
    assert sum(item.beats for item in found) >= result.counters["TENSOR_BUSY"]
    assert len(markdown(found).splitlines()) == len(found) + 2
    assert len(timeline(found)["traceEvents"]) == len(found)

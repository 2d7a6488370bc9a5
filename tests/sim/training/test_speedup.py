"""Tables of training cycles on a small network: what they add up to, and what they compare."""

from dataclasses import replace

import pytest

from hwgen.arch import load
from hwgen.arch.isa import Opcode
from models.pattern import Pattern
from scheduler.training.compile import compile_step
from scheduler.training.lower import TrainingOptions
from sim.cycles import FIRST_CYCLE
from sim.memory import MemoryModel
from sim.training.speedup import COLUMNS, capture, measure, table
from sim.training.step_report import kernels, markdown, timeline
from sim.training.tune import Tuner, run_code

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


@pytest.mark.parametrize("memory", [MemoryModel(), MemoryModel(stalls=0.5, seed=1)])
def test_report_of_a_step_accounts_for_every_instruction(memory):
    tuner = Tuner(ARCH, memory)
    options = TrainingOptions(pattern=Pattern(2, 8))
    program = compile_step(capture("digits_cnn", 16), ARCH, options, measure=tuner)
    result = tuner.result(program.step)
    found = kernels(program, result)
    constants = program.places.headings[0][0]  # loaded before the first kernel
    assert sum(item.instructions for item in found) == len(program.step.commands) - constants
    end = FIRST_CYCLE + result.cycles
    assert all(0 <= item.start < item.end <= end for item in found)
    assert end - max(item.end for item in found) < 10
    assert sum(item.advance for item in found) == max(item.end for item in found)
    assert sum(item.products for item in found) >= result.counters["TENSOR_BUSY"]
    assert len(markdown(found).splitlines()) == len(found) + 2
    assert len(timeline(found)["traceEvents"]) == len(found)


def test_report_refuses_a_run_without_all_events():
    tuner = Tuner(ARCH, MemoryModel())
    program = compile_step(capture("digits_cnn", 16), ARCH, measure=tuner)
    result = tuner.result(program.step)
    with pytest.raises(ValueError, match="instructions, not of all"):
        kernels(program, replace(result, events=result.events[:-1]))


def test_tuner_keeps_the_run_of_the_program_that_was_taken():
    tuner = Tuner(ARCH, MemoryModel())
    code = compile_step(capture("digits_cnn", 16), ARCH, measure=tuner).step
    again = run_code(ARCH, code, MemoryModel())
    assert tuner.result(code) is tuner.result(code)
    assert (tuner.result(code).cycles, tuner.result(code).counters) == (again.cycles, again.counters)


@pytest.mark.parametrize("model", ["vit", "resnet9"])
def test_networks_of_the_table_find_room_on_the_table_s_architecture(model):
    arch = load("sat32")
    program = compile_step(capture(model, 32), arch, TrainingOptions(pattern=Pattern(2, 8)))
    opcodes = {item.opcode for item in program.step.commands}
    assert opcodes >= {Opcode.LOAD, Opcode.TENSOR, Opcode.VECTOR, Opcode.STORE}

"""The cocotb benches pass on the emitted Verilog of `tiny`, and fail when that Verilog is broken."""

import re
import shutil

import cocotb_tools.config
import pytest

from hwgen.arch import load, preset_names
from hwgen.arch.commands import encode
from models.accesses import scratchpad_words
from models.machine import Machine
from sim.benches.designs import BENCHES, design
from sim.benches.top import zeros
from sim.cocotb_runner import BenchError, build_bench, port_rules, run_bench

pytestmark = pytest.mark.verilator


@pytest.mark.parametrize("bench", BENCHES)
def test_bench_passes(bench, seed, tmp_path):
    assert run_bench(bench, folder=tmp_path, seed=seed) >= 6


@pytest.mark.parametrize("name", preset_names())
def test_every_case_of_the_top_bench_starts_with_zeros(name):
    """The golden machine of a case knows nothing of the cases before it, which the design has been through."""
    machine = Machine(load(name), 1)
    memories = {memory: getattr(machine.state, memory) for memory in scratchpad_words(machine.arch)}
    for words in memories.values():
        words.fill(1)
    machine.run(b"".join(map(encode, zeros(machine.arch))))
    assert [memory for memory, words in memories.items() if words.any()] == []


def test_a_swapped_mux_is_found(seed, tmp_path):
    """Every lane of the vector engine gives its sum when it should not, and the other way round."""
    top, text = design("vector", load("tiny"))
    broken, count = re.subn(r"(assign \S+ +)= summed \? (\S+\s+): (\S+);", r"\1 = summed ? \3 : \2;", text)
    assert count == 1
    with pytest.raises(BenchError, match=r"written word \d+ in cycle \d+: expected"):
        run_bench("vector", folder=tmp_path, seed=seed, design_text=(top, broken))


def test_a_run_without_tests_is_a_failure(seed, tmp_path):
    with pytest.raises(BenchError, match="0 of 0 tests failed"):
        run_bench("vector", folder=tmp_path, seed=seed, testcase="no_such_test")


def test_only_ports_of_the_top_module_are_public():
    inner = "module inner(a);\n  input a;\nendmodule\n"
    outer = "module outer(a, b);\n  input [3:0] a;\n  output b;\n  wire c;\nendmodule\n"
    rules = [f'public_flat_rw -module "outer" -var "{port}"' for port in "ab"]
    assert port_rules("outer", inner + outer).splitlines() == ["`verilator_config", *rules]


def test_a_bench_is_built_once(tmp_path):
    program = build_bench(*design("vector", load("tiny")))
    assert build_bench(*design("vector", load("tiny"))) == program


def test_a_program_runs_after_the_environment_that_built_it_is_gone(seed, tmp_path, monkeypatch):
    """Programs are kept for all environments; one that named the libraries of its builder needed them to start."""
    monkeypatch.setenv("SPARSELOOM_CACHE", str(tmp_path / "cache"))
    with monkeypatch.context() as builder:
        gone = tmp_path / "libs"
        shutil.copytree(cocotb_tools.config.libs_dir, gone)
        builder.setattr(cocotb_tools.config, "libs_dir", gone)
        program = build_bench(*design("controller", load("tiny")))
    shutil.rmtree(gone)
    (tmp_path / "cache").rename(tmp_path / "moved")
    monkeypatch.setenv("SPARSELOOM_CACHE", str(tmp_path / "moved"))
    kept = tmp_path / "moved" / program.relative_to(tmp_path / "cache")
    before = kept.stat().st_mtime_ns
    assert run_bench("controller", folder=tmp_path / "run", seed=seed) >= 6
    assert kept.stat().st_mtime_ns == before

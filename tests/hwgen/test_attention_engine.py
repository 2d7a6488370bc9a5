"""Emitted Verilog of designs with an attention engine lints: a whole one, and the engine alone at full size."""

import pytest

from hwgen.arch import load
from hwgen.attention.engine import AttentionEngine
from hwgen.emit import LINT_WAIVERS, emit_verilog
from hwgen.top import Accelerator
from sim.verilator import verilate


@pytest.mark.parametrize(
    ("part", "preset"), [(Accelerator, "tiny_attention"), (AttentionEngine, "vcu1525")], ids=("whole", "engine")
)
def test_verilator_lints(part, preset, tmp_path):
    path = tmp_path / "design.v"
    path.write_text(emit_verilog(part(load(preset)), "design"))
    waivers = [f"-Wno-{warning}" for warning in LINT_WAIVERS]
    assert (
        verilate(["--lint-only", "--quiet", "-Wall", *waivers, "--top-module", "design", path], folder=tmp_path) == ""
    )

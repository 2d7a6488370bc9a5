"""The top-k bench: figures kept in the repository are those of this version; differences from the law are reported."""

import json
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from hwgen.arch import UserError
from hwgen.pruning.cycles import CycleLaw
from hwgen.pruning.words import TopKSizes
from sim.benches.topk import Sweep, bench, check_rtl, main, random_vectors

RESULTS = Path(__file__).parents[2] / "sim" / "results" / "topk.json"
QUICKLY = ["--cell-widths", "", "--vectors", "2", "--checked", "0"]
APP = Typer()
APP.command()(main)


def by_law(**sweep) -> list[dict]:
    """Rows for width 16 without RTL and Yosys."""
    return bench(Sweep(widths=[16], cell_widths=[], checked=0, **sweep), say=str)["cycles"]


def test_kept_figures_are_those_of_this_version():
    kept = json.loads(RESULTS.read_text())
    rows = by_law(ks=kept["ks"], bits=kept["bits"], vectors=kept["vectors"])
    assert rows == [row for row in kept["cycles"] if row["width"] == 16], "python -m sim.benches.topk writes them"


def test_radix_selection_beats_quick_select():
    radix, _, quick = by_law(ks=[512], bits=12, vectors=100)
    assert radix["search_worst"] * 3 < quick["search_mean"]
    assert radix["bound"] < quick["total_mean"]


@pytest.mark.verilator
def test_hardware_is_compared_with_law_and_golden(monkeypatch):
    law, vectors = CycleLaw(TopKSizes()), random_vectors(12, 2)
    check_rtl(law, vectors, [0, 512])
    with pytest.raises(
        UserError, match=r"^radix, digits of 4 at width 16, k = 512: the hardware differs from its law$"
    ):
        check_rtl(_Slower(TopKSizes()), vectors, [512])


class _Slower(CycleLaw):
    def total(self, scores, k, kept):
        return super().total(scores, k, kept) + 1


def test_command(tmp_path):
    """Without RTL and Yosys: prints and writes the rows."""
    done = CliRunner().invoke(APP, ["--widths", "8", "--ks", "1,5", *QUICKLY, "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "out" / "topk.json").read_text())
    assert [(row["width"], row["k"]) for row in result["cycles"]] == [(8, 1), (8, 5)] * 3
    assert result["cells"] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--widths", "3"], "error: top-k width must be one of 1, 2, 4, 8, 16, 32, not 3"),
        (["--widths", "a"], "error: 'a' must be whole numbers with commas between them"),
        (["--widths", "8", "--bits", "6"], "error: RadixSelect digit must be between 1 and 5, not 6"),
        (["--widths", "8", "--ks", "1025"], "error: k must be between 0 and 1024, not 1025"),
    ],
)
def test_refusals(options, message, tmp_path):
    done = CliRunner().invoke(APP, [*options, *QUICKLY, "-o", str(tmp_path / "out")])
    assert (done.exit_code, message in done.output) == (2, True), done.output
    assert not (tmp_path / "out").exists()

"""The command line as a user meets it: what works."""

import json
import sys

import numpy as np
import pytest

from hwgen.arch import load
from hwgen.arch.digest import hash32
from sim import cli

TINY = load("tiny")


def test_presets_are_listed(sparseloom):
    result = sparseloom("arch")
    assert result.code == 0
    assert all(name in result.out for name in ("tiny", "sat16", "sat32", "vcu1525"))
    listed = json.loads(sparseloom("arch", "--json").out)
    assert {item["name"] for item in listed} >= {"tiny", "sat32"}


def test_an_architecture_that_is_shown_can_be_read_back(sparseloom, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(sparseloom("arch", "tiny2").out)
    assert load(path) == load("tiny2")
    assert json.loads(sparseloom("arch", path, "--json").out)["array"]["lanes"] == 2


def test_the_zoo_is_listed(sparseloom):
    assert "mlp" in sparseloom("zoo").out
    assert set(json.loads(sparseloom("zoo", "--json").out)) >= {"mlp", "linear"}


def test_generate_writes_every_file(sparseloom, tmp_path):
    result = sparseloom("generate", "--arch", "tiny", "-o", tmp_path / "out")
    assert result.code == 0, result.err
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"accelerator.v", "accelerator.f", "accelerator.h", "registers.json", "arch.yaml", "resources.json"}
    assert load(tmp_path / "out" / "arch.yaml") == TINY
    verilog = (tmp_path / "out" / "accelerator.v").read_text()
    assert "module accelerator(" in verilog
    assert verilog.startswith(f"// Accelerator tiny: 4 x 4 x 1 multipliers, fp16; ARCH_HASH 0x{hash32(TINY):08X}")
    resources = json.loads((tmp_path / "out" / "resources.json").read_text())
    assert resources["multipliers"]["22"] == TINY.macs
    bits = sum(resources["by_formula"]["scratchpad_bits"].values())
    assert resources["memory_bits"] > bits, "queues and element buffers come on top of the scratchpads"


def test_modules_are_printed_by_their_whole_names(sparseloom, tmp_path):
    result = sparseloom("generate", "--arch", "tiny", "-o", tmp_path / "out")
    names = json.loads((tmp_path / "out" / "resources.json").read_text())["modules"]
    column = "".join(line.split("│")[1].strip() for line in result.out.splitlines() if line.startswith("│"))
    assert [name for name in names if name not in column] == []


def test_generate_prints_json_and_nothing_else(sparseloom, tmp_path):
    result = sparseloom("generate", "--arch", "tiny", "-o", tmp_path / "out", "--json")
    assert json.loads(result.out)["arch"] == "tiny"


@pytest.mark.verilator
def test_simulate_compares_every_word_and_writes_its_files(sparseloom, tmp_path):
    out = tmp_path / "run"
    result = sparseloom(
        *("simulate", "mlp:hidden=24", "--arch", "tiny", "--batch", 3, "--sparsity", "2:8"),
        *("--stalls", 0.2, "--seed", 7, "-o", out, "--json"),
    )
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert report["comparison"]["equal"]
    assert report["comparison"]["words"] > 1000
    assert sum(report["tensor_cycles"].values()) == report["cycles"]
    states = {name: sum(row.values()) - row["executing"] for name, row in report["engines"].items()}
    seen = report["cycles"] + 3
    assert states == {"load": seen, "tensor": report["cycles"], "vector": seen, "store": seen}
    assert json.loads((out / "report.json").read_text()) == report
    assert json.loads((out / "timeline.json").read_text())["traceEvents"]
    assert np.load(out / "outputs.npz").files
    assert "TENSOR" in (out / "program.lst").read_text()


@pytest.mark.verilator
def test_simulate_prints_tables(sparseloom):
    result = sparseloom("simulate", "linear:rows=5,inputs=9,outputs=7", "--arch", "tiny", "--dataflow", "ws")
    assert result.code == 0, result.err
    assert "words of memory equal" in result.out
    assert "drain" in result.out


@pytest.mark.verilator
def test_a_difference_from_golden_is_exit_code_1(sparseloom, monkeypatch):
    from sim import check

    real = check.compare

    def altered(actual, golden, base):
        return real(actual ^ np.uint8(1), golden, base)

    monkeypatch.setattr(check, "compare", altered)
    result = sparseloom("simulate", "linear:rows=2,inputs=4,outputs=4", "--arch", "tiny", "--json")
    assert result.code == 1
    assert not json.loads(result.out)["comparison"]["equal"]


def test_train_writes_listing_and_report(sparseloom, tmp_path):
    out = tmp_path / "run"
    arguments = ("--arch", "tiny", "--sparsity", "2:4", "--rtl-steps", 0, "--steps", 2, "--epochs", 1)
    result = sparseloom("train", "digits_mlp", *arguments, "--naive", "-o", out, "--json")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert (report["dataflow"], report["overlap"], len(report["losses"])) == ("os", False, 2)
    assert json.loads((out / "report.json").read_text()) == report
    listing = (out / "program.lst").read_text()
    assert "TENSOR" in listing
    assert "; FF fc1.product: output stationary, tiles of 8 x 8 words over 64, interleave 2 x 8, loops " in listing
    assert listing.count("runner-up (") == 8
    assert (out / "decisions.md").read_text().count("\n| FF |") == 3
    assert {item["chosen"]["dataflow"] for item in report["decisions"]} == {"output stationary"}


def test_an_unexpected_error_shows_its_traceback(monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(cli, "load", broken)
    monkeypatch.setattr(sys, "argv", ["sparseloom", "arch", "tiny"])
    with pytest.raises(ZeroDivisionError, match="planted"):
        cli.main()

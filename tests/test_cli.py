"""The command line as a user meets it: what works, and one sentence with exit code 2 for everything that cannot."""

import io
import json
import os
import resource
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import sim.design
from hwgen.arch import load
from models.zoo import Mlp
from sim import cli

TINY = load("tiny")


class Result:
    """Exit code and text of one call."""

    def __init__(self, code, captured):
        self.code, self.out, self.err = code, captured.out, captured.err


@pytest.fixture
def sparseloom(capfd, monkeypatch):
    """Runs the command in this process."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["sparseloom", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return Result(stop.value.code or 0, capfd.readouterr())

    return run


@pytest.fixture
def assert_refused(sparseloom, tmp_path):
    """Runs the command and expects one sentence, exit code 2, no result and nothing new in the test's folder."""

    def run(*arguments, text):
        before = sorted(tmp_path.rglob("*"))
        result = sparseloom(*arguments)
        assert result.code == 2, result.err
        assert result.out == ""
        assert result.err.startswith("error: ")
        assert result.err.count("\n") == 1, result.err
        assert text in result.err
        assert "Traceback" not in result.err
        assert sorted(tmp_path.rglob("*")) == before

    return run


def arch_file(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def settings(**changes):
    """A small architecture as YAML text, with settings `part__name` changed."""
    data = {
        "name": "mine",
        "array": {"rows": 4, "cols": 4},
        "scratchpads": {"act_depth": 256, "wgt_depth": 2048, "acc_depth": 1024},
        "memory": {"data_bits": 64},
    }
    for key, value in changes.items():
        part, _, name = key.partition("__")
        (data[part] if name else data)[name or part] = value
    return json.dumps(data)


# What works.


def test_presets_are_listed(sparseloom):
    result = sparseloom("arch")
    assert result.code == 0
    assert all(name in result.out for name in ("tiny", "sat16", "sat32", "vcu1525"))
    listed = json.loads(sparseloom("arch", "--json").out)
    assert {item["name"] for item in listed} >= {"tiny", "sat32"}


def test_an_architecture_that_is_shown_can_be_read_back(sparseloom, tmp_path):
    path = arch_file(tmp_path, sparseloom("arch", "tiny2").out)
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
    assert "module accelerator(" in (tmp_path / "out" / "accelerator.v").read_text()
    resources = json.loads((tmp_path / "out" / "resources.json").read_text())
    assert resources["multipliers"]["22"] == TINY.macs
    bits = sum(resources["by_formula"]["scratchpad_bits"].values())
    assert resources["memory_bits"] > bits, "queues and element buffers come on top of the scratchpads"


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


# Architectures that cannot be.


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("name: [", "not valid YAML"),
        ("- 1\n- 2\n", "an architecture must be a mapping of settings, not [1, 2]"),
        (settings(colour="blue"), "colour is not a known setting"),
        (settings(array__rows="many"), "array.rows"),
        (settings(array__rows=3), "rows must be a power of two, not 3"),
        (settings(array__rows=0), "array.rows"),
        (settings(memory__data_bits=128), "memory.data_bits (128) must be 16 x array.cols (64)"),
        (settings(array={"cols": 4}), "array.rows is missing"),
    ],
)
def test_a_bad_architecture_file(assert_refused, tmp_path, text, error):
    assert_refused("generate", "--arch", arch_file(tmp_path, text), "-o", tmp_path / "out", text=error)


def test_an_architecture_that_is_not_there(assert_refused, tmp_path):
    assert_refused("generate", "--arch", "sat99", "-o", tmp_path / "out", text="unknown architecture 'sat99'")
    assert_refused("generate", "--arch", "[red]", "-o", tmp_path / "out", text="unknown architecture '[red]'")
    assert_refused("arch", tmp_path / "none.yaml", text="No such file or directory")


# Options that cannot be.


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--sparsity", "5:4"), "a sparsity pattern N:M needs 1 <= N <= M, not 5:4"),
        (("--sparsity", "0:4"), "a sparsity pattern N:M needs 1 <= N <= M, not 0:4"),
        (("--sparsity", "much"), "a sparsity pattern must be N:M, such as 2:8, or dense, not 'much'"),
        (("--sparsity", "2:32"), "32"),
        (("--dataflow", "sideways"), "dataflow must be auto, os or ws, not 'sideways'"),
        (("--backend", "model"), "backend must be one of rtl, not 'model'"),
        (("--batch", "0"), "batch"),
        (("--stalls", "1.5"), "memory stalls must be in 0..0.95, not 1.5"),
        (("--waveform", "9:3"), "a waveform window must be A:B, cycles with A < B, not '9:3'"),
        (("--waveform", "3:9"), "a waveform needs a folder to go to: give -o DIR"),
        (("--weights", "none.safetensors"), "none.safetensors"),
    ],
)
def test_a_bad_option_of_simulate(assert_refused, arguments, error):
    assert_refused("simulate", "mlp", "--arch", "tiny", *arguments, text=error)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--sparsity", "5:4"), "a sparsity pattern N:M needs 1 <= N <= M, not 5:4"),
        (("--dataflow", "sideways"), "dataflow must be one of auto, os, ws, not 'sideways'"),
        (("--method", "magic"), "method must be one of dense, srste, bdwp, not 'magic'"),
        (("--steps", "0"), "steps must be at least 1 and no fewer than those on RTL"),
        (("--batch", "0"), "batch and epochs must be at least 1"),
        (("--batch", "2000"), "a batch of 2,000 is more than the 1,437 images"),
        (("--batch", "3"), "the batch of 3 must be a multiple of array.rows (4)"),
        (("--stalls", "1.5"), "memory stalls must be in 0..0.95, not 1.5"),
        (("--arch", "tiny2"), "training needs array.lanes 1, not 2"),
    ],
)
def test_a_bad_option_of_train(assert_refused, arguments, error):
    assert_refused("train", "digits_cnn", "--arch", "tiny", "--rtl-steps", 0, *arguments, text=error)


@pytest.mark.parametrize(
    ("model", "error"),
    [
        ("resnet", "unknown model 'resnet'"),
        ("linear:rows=0", "setting rows of model linear must be in 1..65536, not 0"),
        ("linear:depth=3", "model linear has no setting 'depth'"),
        ("no/such/file.py:build", "there is no such file"),
        ("no/such/file.pt2", "no/such/file.pt2"),
        ("[bold]what?", "cannot tell what model '[bold]what?' is"),
    ],
)
def test_a_model_that_is_not_there(assert_refused, model, error):
    assert_refused("simulate", model, "--arch", "tiny", text=error)


# Models that cannot be.


def model_file(tmp_path, body):
    path = tmp_path / "model.py"
    path.write_text(f"import torch\nfrom torch import nn\n\n\ndef build():\n{body}")
    return f"{path}:build"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("    raise RuntimeError('not today')\n", "line 6: RuntimeError: not today"),
        ("    return 3\n", "must return a torch.nn.Module and its example inputs"),
        ("    return nn.Linear(4, 4), (torch.zeros(0, 4),)\n", "every dimension must be at least 1"),
        ("    return nn.Sequential(nn.Linear(4, 4), nn.Tanh()), (torch.zeros(2, 4),)\n", "tanh"),
    ],
)
@pytest.mark.usefixtures("no_bytecode")
def test_a_python_model_that_cannot_run(assert_refused, tmp_path, body, error):
    assert_refused("simulate", model_file(tmp_path, body), "--arch", "tiny", text=error)


BROKEN = """\
    first = nn.Linear(64, 64)
    nn.init.constant_(first.weight, 1e30)
    return nn.Sequential(first, nn.Linear(64, 10)), (torch.zeros(2, 64),)
"""


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (
            "    return nn.Sequential(nn.Linear(64, 10), nn.Tanh()), (torch.zeros(2, 64),)\n",
            "the training step needs 2 operators that cannot be lowered: aten.tanh.default in 1",
        ),
        (
            "    return nn.Linear(4, 10), (torch.zeros(2, 4),)\n",
            "must take digits, [batch, 1, 8, 8] or [batch, 64], not",
        ),
        (BROKEN, "step 0: the loss is nan; the first tensor with a value that is not finite is 0."),
    ],
)
@pytest.mark.usefixtures("no_bytecode")
def test_a_python_model_that_cannot_be_trained(assert_refused, tmp_path, body, error):
    arguments = ("--arch", "tiny", "--rtl-steps", 0, "--steps", 1, "--epochs", 1, "--sparsity", "dense")
    assert_refused("train", model_file(tmp_path, body), *arguments, text=error)


@pytest.mark.usefixtures("no_bytecode")
def test_layers_that_stay_dense_are_named(sparseloom, tmp_path):
    model = model_file(
        tmp_path,
        "    layers = nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 10)\n"
        "    return nn.Sequential(*layers), (torch.zeros(2, 64),)\n",
    )
    arguments = ("--arch", "tiny", "--rtl-steps", 0, "--steps", 1, "--epochs", 1, "--sparsity", "2:16")
    result = sparseloom("train", model, *arguments)
    assert result.code == 0, result.err
    assert "2.weight: dense: its 24 input channels are not a multiple of 32" in result.out


@pytest.mark.usefixtures("no_bytecode")
def test_a_step_that_does_not_fit_the_memory(assert_refused, tmp_path):
    arch = arch_file(tmp_path, settings(memory={"data_bits": 64, "address_bits": 24}))
    layers = "nn.Linear(64, 2048), nn.Linear(2048, 2048), nn.Linear(2048, 10)"
    model = model_file(tmp_path, f"    return nn.Sequential({layers}), (torch.zeros(2, 64),)\n")
    text = "external memory of 16,777,216 bytes is too small: 1.weight needs 16,777,216 bytes from"
    assert_refused("train", model, "--arch", arch, "--rtl-steps", 0, "--sparsity", "dense", text=text)


@pytest.fixture
def no_bytecode(monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers(assert_refused, tmp_path, value):
    state = {name: item.numpy().copy() for name, item in Mlp().state_dict().items()}
    state["fc2.weight"][3, 5] = value
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    assert_refused("simulate", "mlp", "--arch", "tiny", "--weights", path, text="fc2.weight")


@pytest.fixture(scope="module")
def exported():
    """Bytes of a `.pt2` file."""
    buffer = io.BytesIO()
    program = torch.export.export(torch.nn.Sequential(torch.nn.Linear(4, 4)).eval(), (torch.randn(2, 4),))
    torch.export.save(program, buffer)
    return buffer.getvalue()


def replaced(archive, changes):
    """The archive with the contents of some members changed; names without the archive's top folder."""
    old, buffer = zipfile.ZipFile(io.BytesIO(archive)), io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            change = changes.get(name.split("/", 1)[1], lambda data: data)
            new.writestr(name, change(old.read(name)))
    return buffer.getvalue()


class Planted:
    """Runs a command when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def test_a_truncated_pt2_file(assert_refused, tmp_path, exported):
    path = tmp_path / "model.pt2"
    path.write_bytes(exported[: len(exported) // 2])
    assert_refused("simulate", path, "--arch", "tiny", text="model.pt2")
    path.write_bytes(b"")
    assert_refused("simulate", path, "--arch", "tiny", text="model.pt2")


def test_a_pt2_file_that_hides_code_in_a_weight(assert_refused, tmp_path, exported):
    mark = tmp_path / "it_ran"
    planted = io.BytesIO()
    torch.save(Planted(mark), planted)

    def pickled(data):
        config = json.loads(data)
        config["config"]["0.weight"]["use_pickle"] = True
        return json.dumps(config)

    changes = {
        "data/weights/model_weights_config.json": pickled,
        "data/weights/weight_0": lambda data: planted.getvalue(),
    }
    path = tmp_path / "model.pt2"
    path.write_bytes(replaced(exported, changes))
    assert_refused("simulate", path, "--arch", "tiny", text="model.pt2")
    assert not mark.exists()


@pytest.mark.verilator
def test_code_in_a_place_that_is_not_read_never_runs(sparseloom, tmp_path, exported):
    mark = tmp_path / "it_ran"
    planted = io.BytesIO()
    torch.save(Planted(mark), planted)
    path = tmp_path / "model.pt2"
    path.write_bytes(replaced(exported, {"data/sample_inputs/model.pt": lambda data: planted.getvalue()}))
    result = sparseloom("simulate", path, "--arch", "tiny", "--json")
    assert not mark.exists()
    assert result.code in (0, 2), result.err


# Output that cannot be written.


def test_a_folder_that_cannot_be_written(assert_refused, tmp_path):
    assert_refused("generate", "--arch", "tiny", "-o", "/proc/nothing/out", text="cannot write to /proc/nothing/out")
    (tmp_path / "file").write_text("")
    assert_refused("generate", "--arch", "tiny", "-o", tmp_path / "file", text="it is not a folder")


def test_a_disk_that_is_full(assert_refused, tmp_path):
    sim.design.verilog(TINY)  # so that the cache has it and only the output is limited
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        assert_refused("generate", "--arch", "tiny", "-o", tmp_path / "out", text="out: File too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("arguments", [["arch"], ["arch", "--json"]])
def test_a_full_disk_behind_standard_output(arguments):
    command = [sys.executable, "-c", "from sim.cli import main; main()", *arguments]
    with open("/dev/full", "w") as full:
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert result.returncode == 2
    assert result.stderr == "error: cannot write to standard output: No space left on device\n"

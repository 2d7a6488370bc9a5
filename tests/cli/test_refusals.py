"""One sentence and exit code 2 for options, architectures and outputs that cannot be."""

import resource
import subprocess
import sys

import pytest

import sim.design
from hwgen.arch import load
from tests.cli.support import arch_file, settings

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
        (("--seed", "-1"), "a seed must be in 0..4294967295, not -1"),
        (("--seed", 1 << 70), "a seed must be in 0..4294967295, not 1180591620717411303424"),
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
        (("--seed", "-1"), "a seed must be in 0..4294967295, not -1"),
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
        ("linear:rows=2,rows=3", "setting rows of the model is given twice, 2 and 3"),
        ("no/such/file.py:build", "there is no such file"),
        ("no/such/file.pt2", "no/such/file.pt2"),
        ("[bold]what?", "cannot tell what model '[bold]what?' is"),
    ],
)
def test_a_model_that_is_not_there(assert_refused, model, error):
    assert_refused("simulate", model, "--arch", "tiny", text=error)


# Output that cannot be written.


@pytest.mark.verilator
def test_a_waveform_of_cycles_that_never_come(assert_refused, tmp_path):
    command = ("simulate", "linear:rows=4,inputs=4,outputs=4", "--arch", "tiny", "-o", tmp_path / "out")
    text = "the waveform window 50000:60000 begins after the run, which takes "
    assert_refused(*command, "--waveform", "50000:60000", text=text)


def test_a_folder_that_cannot_be_written(assert_refused, tmp_path):
    assert_refused("generate", "--arch", "tiny", "-o", "/proc/nothing/out", text="cannot write to /proc/nothing/out")
    (tmp_path / "file").write_text("")
    assert_refused("generate", "--arch", "tiny", "-o", tmp_path / "file", text="it is not a folder")


def test_a_disk_that_is_full(assert_refused, tmp_path):
    sim.design.verilog(load("tiny"))  # so that the cache has it and only the output is limited
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

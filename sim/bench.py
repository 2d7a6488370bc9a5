"""Simulation speed: `python -m sim.bench` or `make bench`. Results go to build/bench/ as JSON with the machine's data.

A dense product keeps the array busy while the whole system runs: program fetch, loads, stores, memory model. Times are
CPU seconds. Builds start from an empty cache. The cycle model runs the same program. For comparison, cocotb serves a
memory in Python, cycle by cycle, on the same Verilog and the same program.
"""

import datetime
import json
import os
import platform
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from rich.table import Table

from hwgen.arch import Arch, load
from models.zoo import build as build_model
from scheduler.lower import compile_module
from scheduler.program import Program
from sim.check import check_run, run_golden
from sim.cocotb_speed import cocotb_speed, cpu_seconds
from sim.console import progress, standard_output
from sim.cycles import run_model
from sim.device import SimulationError
from sim.runner import Simulator, build
from sim.verilate import Progress
from sim.verilator import version

PRODUCTS = {
    "tiny": {"rows": 128, "inputs": 64, "outputs": 64},
    "sat16": {"rows": 256, "inputs": 256, "outputs": 256},
    "sat32": {"rows": 256, "inputs": 512, "outputs": 512},
}
"""The product that each architecture is timed on."""
COCOTB_ARCH, COCOTB_PRODUCT = "sat16", {"rows": 64, "inputs": 256, "outputs": 256}
MODEL_RUNS = 50
FOLDER = Path("build/bench")


def bench(say: Progress) -> dict[str, Any]:
    """Measure everything; the result is what the JSON file holds."""
    rows, simulators = [], {}
    for name in PRODUCTS:
        arch = load(name)
        say(f"{name}: building")
        with empty_cache():
            simulators[name], seconds = _timed(lambda arch=arch: build(arch))
        say(f"{name}: running")
        rows.append({"arch": name, "build_cpu_seconds": round(seconds, 1)} | _speed(simulators[name], name))
    say("cocotb")
    program, image = _program(load(COCOTB_ARCH), COCOTB_PRODUCT)
    cocotb = cocotb_speed(simulators[COCOTB_ARCH], image, program.program_address, len(program.commands))
    product = "{rows} x {inputs} x {outputs}".format(**COCOTB_PRODUCT)
    return {"machine": machine(), "results": rows, "cocotb": {"arch": COCOTB_ARCH, "product": product, **cocotb}}


@contextmanager
def empty_cache():
    """Let builds go to an empty folder, without help of a compiler cache."""
    folder = tempfile.TemporaryDirectory()
    with folder, mock.patch.dict(os.environ, {"SPARSELOOM_CACHE": folder.name, "CCACHE_DISABLE": "1"}):
        yield


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    cpu = next((s.split(":")[1].strip() for s in _lines("/proc/cpuinfo") if s.startswith("model name")), "unknown")
    compiler = os.environ.get("CXX", "c++")
    about = subprocess.run([*compiler.split(), "--version"], capture_output=True, text=True, check=True).stdout
    return {
        "cpu": cpu,
        "cores": str(os.cpu_count()),
        "system": platform.platform(),
        "python": platform.python_version(),
        "compiler": about.splitlines()[0],
        "verilator": version(),
        "date": datetime.date.today().isoformat(),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def _timed(call) -> tuple[Any, float]:
    """Result of a call and its CPU seconds, those of child processes included."""
    start = cpu_seconds()
    return call(), cpu_seconds() - start


def _program(arch: Arch, product: dict[str, int]) -> tuple[Program, np.ndarray]:
    module, examples = build_model("linear", **product)
    program = compile_module(module, examples, arch)
    image = program.image({port.name: examples[0].numpy() for port in program.inputs})
    return program, np.pad(image, (0, -image.size % 4096))


def _speed(simulator: Simulator, name: str) -> dict[str, Any]:
    program, image = _program(simulator.arch, PRODUCTS[name])
    start = time.process_time()
    run = simulator.run(image, program=program.program_address, count=len(program.commands))
    seconds = time.process_time() - start
    comparison = check_run(run, run_golden(simulator.arch, image, 0, program.encode()), 0)
    if not comparison.equal:
        raise SimulationError(f"{name} differs from the golden machine {comparison.first}")
    return {
        "product": "{rows} x {inputs} x {outputs}".format(**PRODUCTS[name]),
        "cycles": run.cycles,
        "array_busy": round(run.counters["TENSOR_BUSY"] / run.cycles, 4),
        "cycles_per_cpu_second": round(run.cycles / seconds),
        "pe_cycles_per_cpu_second": round(run.cycles * simulator.arch.macs / seconds),
        "model_cycles_per_cpu_second": _model_speed(simulator.arch, program, run.cycles),
    }


def _model_speed(arch: Arch, program: Program, cycles: int) -> int:
    """Cycles that the cycle model passes in a CPU second; it must need as many as the hardware."""
    encoded = program.encode()
    if run_model(arch, encoded, address=program.program_address).cycles != cycles:
        raise SimulationError(f"the cycle model of {arch.name} differs from the hardware")
    start = time.process_time()
    for _ in range(MODEL_RUNS):
        run_model(arch, encoded, address=program.program_address)
    return round(MODEL_RUNS * cycles / (time.process_time() - start))


def table(result: dict[str, Any]) -> Table:
    """The figures, one line for each architecture."""
    made = Table(title=f"{result['machine']['cpu']}, {result['machine']['compiler']}", title_justify="left")
    names = ("arch", "build CPU s", "product", "cycles", "array busy", "cycles / CPU s", "PE cycles / CPU s", "model")
    for name in names:
        made.add_column(name, justify="left" if name == "arch" else "right")
    for row in result["results"]:
        made.add_row(
            *(row["arch"], f"{row['build_cpu_seconds']}", row["product"], f"{row['cycles']:,}"),
            *(f"{row['array_busy']:.1%}", f"{row['cycles_per_cpu_second']:,}"),
            f"{row['pe_cycles_per_cpu_second']:.2e}",
            f"{row['model_cycles_per_cpu_second']:.2e}",
        )
    return made


def cocotb_table(result: dict[str, Any]) -> Table:
    """The comparison with cocotb."""
    title = f"cocotb on {result['arch']}, {result['product']}: a memory in Python, served in every cycle"
    made = Table(title=title, title_justify="left")
    for name in ("build", "build CPU s", "cycles / CPU s", "harness / CPU s", "ratio"):
        made.add_column(name, justify="left" if name == "build" else "right")
    for row in result["builds"]:
        rates = (
            f"{row['cycles_per_cpu_second']:,}",
            f"{result['harness_cycles_per_cpu_second']:,}",
            f"{row['ratio']}x",
        )
        made.add_row(row["build"], f"{row['build_cpu_seconds']}", *rates)
    return made


def main() -> None:
    """Measure, print, and write build/bench/bench.json."""
    with progress() as say:
        result = bench(say)
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / "bench.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    with standard_output() as console:
        console.print(table(result))
        console.print(cocotb_table(result["cocotb"]))
        console.print(f"written to {path}")


if __name__ == "__main__":
    main()

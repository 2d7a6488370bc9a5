"""How fast cocotb runs the accelerator when Python serves its memory in every cycle, beside the compiled harness."""

import json
import os
import resource
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from cocotb_tools.runner import get_runner

from hwgen.arch.registers import register
from sim import verilator
from sim.benches.speed import JOB_VARIABLE
from sim.cocotb_runner import build_bench
from sim.design import TOP
from sim.device import SimulationError
from sim.runner import Simulator, start_registers

QUIET = ("-Wno-fatal", "-Wno-lint", "-Wno-style")


def cpu_seconds() -> float:
    """CPU seconds of this process and the children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def cocotb_speed(simulator: Simulator, image: np.ndarray, program: int, count: int) -> dict[str, Any]:
    """Run a program in the harness and in cocotb, built in two ways; all must leave the same memory.

    `image` (bytes) lies at address 0. The builds: cocotb's runner as it comes, which makes every signal visible to
    Python, and the one of this project's benches, which shows the ports only. Raises `SimulationError` on a difference.
    """
    start = time.process_time()
    run = simulator.run(image, program=program, count=count)
    harness = run.cycles / (time.process_time() - start)
    rows = []
    for title, build in (("cocotb's runner", _stock_build), ("ports only", _ports_build)):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            start = cpu_seconds()
            environment, place = build(simulator.verilog, folder)
            seconds = cpu_seconds() - start
            rate = _rate(folder, place, environment, image, start_registers(program, count, 1 << 20), run.memory)
        rows.append({"build": title, "build_cpu_seconds": round(seconds, 1), "cycles_per_cpu_second": round(rate)})
        rows[-1]["ratio"] = round(harness / rate, 1)
    return {"cycles": run.cycles, "harness_cycles_per_cpu_second": round(harness), "builds": rows}


def _stock_build(text: str, folder: Path) -> tuple[Mapping[str, str], Path]:
    """As `cocotb_tools.runner` builds: every signal public, one make job."""
    source, place = folder / f"{TOP}.v", folder / "stock"
    source.write_text(text)
    environment = verilator.prepare(folder / "tools") | {"CCACHE_DISABLE": "1"}
    with mock.patch.dict(os.environ, environment):
        get_runner("verilator").build(
            sources=[source], hdl_toplevel=TOP, build_dir=place, build_args=QUIET, log_file=folder / "build.log"
        )
    return environment, place


def _ports_build(text: str, folder: Path) -> tuple[Mapping[str, str], Path]:
    """As the benches of this project are built, from an empty cache."""
    with mock.patch.dict(os.environ, {"SPARSELOOM_CACHE": str(folder / "cache"), "CCACHE_DISABLE": "1"}):
        return os.environ, build_bench(TOP, text).parent


def _rate(
    folder: Path,
    place: Path,
    environment: Mapping[str, str],
    image: np.ndarray,
    registers: list[tuple[str, int]],
    expected: np.ndarray,
) -> float:
    """Cycles per CPU second of the bench `speed`."""
    np.save(folder / "image.npy", image)
    writes = [(register(name).offset, value) for name, value in [*registers, ("CTRL", 1)]]
    (folder / "registers.json").write_text(json.dumps(writes))
    with mock.patch.dict(os.environ, {**environment, JOB_VARIABLE: str(folder)}):
        get_runner("verilator").test(
            test_module="sim.benches.speed",
            hdl_toplevel=TOP,
            hdl_toplevel_lang="verilog",
            build_dir=place,
            test_dir=folder,
            log_file=folder / "speed.log",
        )
    if not (folder / "speed.json").exists() or not np.array_equal(np.load(folder / "result.npy"), expected):
        raise SimulationError(
            f"cocotb's run differs from the harness's:\n{verilator.tail((folder / 'speed.log').read_text())}"
        )
    speed = json.loads((folder / "speed.json").read_text())
    return speed["cycles"] / speed["seconds"]

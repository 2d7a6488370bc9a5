"""Builds cocotb benches with Verilator and runs them.

    python -m sim.cocotb_runner load                        one bench
    python -m sim.cocotb_runner top --waves --folder out    with out/dump.fst for GTKWave or Surfer

A bench is built like any simulation library, with cocotb's own main program as the harness; it is rebuilt only when its
Verilog changes. The program knows nothing of the Python environment that built it, so that environments can share a
cache and come and go: whoever runs it says where cocotb's libraries are. Only the ports of the top module are visible
to cocotb: cocotb's way of building makes every signal public, which takes eight times as long to compile.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import cocotb_tools.config
from cocotb_tools.runner import get_results, get_runner

from hwgen.arch import load
from sim import verilator
from sim.benches.designs import ARCH_VARIABLE, BENCHES, design
from sim.design import TOP, repeated_modules
from sim.verilate import BuildError, build_library, cache_folder

SEED = 20260214
_PORT = re.compile(r"^  (?:input|output) (?:wire )?(?:\[\d+:0\] )?(\w+);", re.M)
_LIBRARY_PATH = "LD_LIBRARY_PATH"
_VPI_OPTIONS = ("-std=gnu++17", "-O1", "-fPIC", "-DVM_TIMING=0", "-DVM_COVERAGE=0", "-DVM_TRACE=0", "-DVM_SC=0")


class BenchError(AssertionError):
    """A bench failed; the text ends with its log."""


def build_bench(top: str, text: str, *, waves: bool = False) -> Path:
    """Compile Verilog for cocotb and return the program, which lies in a folder of its own under `cache_folder()`.

    Raises `BuildError` when a tool refuses.
    """
    libraries = cocotb_tools.config.libs_dir
    main = (cocotb_tools.config.share_dir / "lib" / "verilator" / "verilator.cpp").read_text()
    with tempfile.TemporaryDirectory() as folder:
        ports = Path(folder) / "ports.vlt"
        ports.write_text(port_rules(top, text))
        library = build_library(
            [text, ports],
            top=top,
            harness=main.replace("Vtop", f"V{top}"),
            no_inline=repeated_modules(text) if top == TOP else (),
            trace=waves,
            options=("--vpi",),
        )
    program = library.with_suffix(".cocotb") / top
    if not program.exists():
        program.parent.mkdir(exist_ok=True)
        partial = program.with_suffix(f".{os.getpid()}")
        links = [f"-L{library.parent}", f"-l:{library.name}", "-Wl,-rpath,$ORIGIN/.."]
        links += ["-Wl,--no-as-needed", f"-L{libraries}", "-lcocotbvpi_verilator"]
        _compile(["-o", partial, _vpi_object(), *links])
        partial.replace(program)
    return program


def port_rules(top: str, text: str) -> str:
    """Verilator configuration that shows cocotb the ports of the top module and nothing else."""
    body = re.search(rf"^module {top}\b.*?^endmodule", text, re.M | re.S)
    if body is None:
        raise ValueError(f"the Verilog has no module {top}")
    rules = (f'public_flat_rw -module "{top}" -var "{port}"' for port in _PORT.findall(body[0]))
    return "\n".join(("`verilator_config", *rules, ""))


def run_bench(
    bench: str,
    *,
    arch: str = "tiny",
    folder: Path,
    seed: int = SEED,
    waves: bool = False,
    testcase: str | None = None,
    design_text: tuple[str, str] | None = None,
    variables: Mapping[str, str] | None = None,
) -> int:
    """Run a bench in `folder`, which gets log, results and waveform; returns the number of tests.

    bench : a name of `BENCHES`, or another module of `sim.benches` together with `design_text`.
    arch : name of a preset. design_text : top module and Verilog in place of the emitted ones.
    testcase : run only this test. variables : more environment variables for the bench.

    Raises `BenchError` when a test fails or the simulation ends early.
    """
    top, text = design_text or design(bench, load(arch))
    program = build_bench(top, text, waves=waves)
    folder.mkdir(parents=True, exist_ok=True)
    log, results = folder.resolve() / f"{bench}.log", folder.resolve() / f"{bench}.xml"
    environment = {_LIBRARY_PATH: _with_cocotb_libraries(), ARCH_VARIABLE: arch, **(variables or {})}
    try:
        get_runner("verilator").test(
            test_module=f"sim.benches.{bench}",
            hdl_toplevel=top,
            hdl_toplevel_lang="verilog",
            build_dir=program.parent,
            test_dir=folder,
            results_xml=str(results),
            seed=seed,
            waves=waves,
            testcase=testcase,
            extra_env=environment,
            log_file=log,
        )
        tests, failed = get_results(results)
    except (SystemExit, RuntimeError):
        raise BenchError(
            f"bench {bench} on {arch}, seed {seed}:\n{verilator.tail(log.read_text(), lines=80)}"
        ) from None
    if failed or not tests:
        raise BenchError(f"{failed} of {tests} tests failed, seed {seed}:\n{verilator.tail(log.read_text(), lines=80)}")
    return tests


def _with_cocotb_libraries() -> str:
    """Where the loader looks for shared libraries: first those of the cocotb of this environment."""
    folders = [str(cocotb_tools.config.libs_dir), os.environ.get(_LIBRARY_PATH)]
    return os.pathsep.join(filter(None, folders))


def _vpi_object() -> Path:
    """Verilator's VPI, compiled once for all benches."""
    include = verilator.root() / "include"
    target = cache_folder() / f"verilated_vpi-{verilator.version().split()[1]}.o"
    if not target.exists():
        partial = target.with_suffix(f".{os.getpid()}")
        paths = [f"-I{include}", f"-I{include / 'vltstd'}"]
        _compile([*_VPI_OPTIONS, *paths, "-c", include / "verilated_vpi.cpp", "-o", partial])
        partial.replace(target)
    return target


def _compile(arguments: list[str | Path]) -> None:
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    result = subprocess.run([*compiler, *map(str, arguments)], capture_output=True, text=True, check=False)
    if result.returncode:
        raise BuildError(f"{compiler[0]} failed:\n{verilator.tail(result.stderr)}")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m sim.cocotb_runner", description="Run a cocotb bench.")
    parser.add_argument("bench", choices=BENCHES)
    parser.add_argument(
        "--arch", default="tiny", help="name of a preset; the throughput tests expect the memory port of tiny"
    )
    parser.add_argument("--folder", type=Path, default=Path("bench"), help="for log, results and waveform")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--test", help="run only the tests whose name ends like this")
    parser.add_argument("--waves", action="store_true", help="write dump.fst")
    given = parser.parse_args()
    options = {"arch": given.arch, "seed": given.seed, "waves": given.waves, "testcase": given.test}
    try:
        tests = run_bench(given.bench, folder=given.folder, **options)
    except (BenchError, BuildError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{given.bench}: {tests} tests passed, log in {given.folder / given.bench}.log")
    return 0


if __name__ == "__main__":
    sys.exit(main())

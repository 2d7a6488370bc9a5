"""Verilog to a shared library: Verilator, the C++ compiler and a cache, without make or perl.

A library is built once for each content (Verilog, harness, options, tool versions) and kept under `cache_folder()`.
The generated C++ and the harness are compiled apart, so that a new harness for the same Verilog takes seconds.
"""

import concurrent.futures
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

from sim import verilator
from sim.verilator import BuildError

VERILATOR_OPTIONS = (
    "--cc",
    "-Wno-fatal",
    "-Wno-lint",
    "-Wno-style",
    "--x-assign",
    "fast",
    "--x-initial",
    "fast",
    "-fno-dfg",
)
"""The data-flow optimiser is off: it saves 6 % of the operations, but makes instances of one module differ, so that
256 elements become 26 MB of C++ instead of 7 and run at half the speed."""
FAST = ("-O1",)
"""Compiler options for code that runs every cycle; -O3 takes three times as long to compile and runs no faster."""
SLOW = ("-O0",)
"""Compiler options for code that runs once."""
RUNTIME = ("-O2",)
JOBS = 2
_GROUP_BYTES = 1_000_000
_DEFINES = ("VM_COVERAGE", "VM_SC", "VM_TIMING", "VM_TRACE_SAIF", "VM_TRACE_VCD")
_FORMAT = 1
"""Raise when the way of building changes without a change of any option."""

_MODULE = re.compile(r"^module\s+(\w+)(.*?)^endmodule", re.M | re.S)
_INPUT = re.compile(r"(?:^|[(,])\s*input\s+(?:wire\s+)?(?:signed\s+)?(?:\[(\d+):0\]\s*)?(\w+)(?=\s*[;,)])", re.M)

Progress = Callable[[str], None]


def cache_folder() -> Path:
    """Folder of built libraries: `$SPARSELOOM_CACHE`, or `~/.cache/sparseloom`."""
    return Path(os.environ.get("SPARSELOOM_CACHE") or Path.home() / ".cache" / "sparseloom").expanduser()


def build_library(
    sources: Sequence[Path | str],
    *,
    top: str,
    harness: str,
    no_inline: Sequence[str] = (),
    trace: bool = False,
    options: Sequence[str] = (),
    progress: Progress | None = None,
) -> Path:
    """Compile Verilog and a C++ harness into a shared library and return its path.

    sources : Verilog (or Verilator configuration, `.vlt`) files as `Path`, or Verilog text as `str`.
    harness : C++ text that includes `V{top}.h` and defines `extern "C"` functions.
    no_inline : modules that stay functions of their own, shared by their instances: name what a design has many of.
    trace : the harness may open an FST file (`verilated_fst_c.h`); needs `ctx.traceEverOn(true)`.
    options : more options for Verilator.

    Processes that ask for the same library at once wait for the first. Raises `BuildError` when a tool refuses.
    """
    report = progress or (lambda text: None)
    texts = [(path.name, path.read_text()) if isinstance(path, Path) else (f"{top}.v", path) for path in sources]
    if no_inline:
        texts.append(("inline.vlt", _inline_rules(texts, no_inline)))
    model_key = _digest([top, texts, trace, list(options), verilator.version(), *_tools(), _FORMAT])
    library = cache_folder() / f"{top}-{model_key}" / f"{_digest([harness])}.so"
    if library.exists():
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    with _locked(library.parent / "lock"):
        if not library.exists():
            model = library.parent / "model"
            if not model.exists():
                _build_model(model, texts, top=top, trace=trace, options=options, report=report)
            _build_harness(library, model, harness, trace=trace, report=report)
    return library


def build_plain(name: str, text: str, options: Sequence[str] = ("-O2",)) -> Path:
    """Compile one C++ text without Verilog into a shared library and return its path; cached by content."""
    library = cache_folder() / f"{name}-{_digest([text, list(options), *_tools()])}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            (Path(folder) / f"{name}.cpp").write_text(text)
            command = [*_compiler(), "-std=gnu++17", "-fPIC", "-shared", *options, f"{name}.cpp", "-o", f"{name}.so"]
            _run(command, Path(folder))
            (Path(folder) / f"{name}.so").replace(library)
    return library


def _digest(parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


@cache
def _compiler() -> tuple[str, ...]:
    command = shlex.split(os.environ.get("CXX", "c++"))
    if shutil.which(command[0]) is None:
        raise BuildError(f"the C++ compiler {command[0]!r} is not on the PATH: install g++ or set CXX")
    return tuple(command)


@cache
def _tools() -> tuple[str, ...]:
    """What the result depends on beside the design."""
    command = _compiler()
    about = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    return (*command, about, *VERILATOR_OPTIONS, *FAST, *SLOW, *RUNTIME)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _temporary_folder(target: Path) -> Iterator[Path]:
    """A folder that becomes `target` when the block ends well, and vanishes otherwise."""
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield folder
        folder.replace(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _build_model(
    model: Path,
    texts: list[tuple[str, str]],
    *,
    top: str,
    trace: bool,
    options: Sequence[str],
    report: Progress,
) -> None:
    """Verilate and compile everything but the harness; leaves `V{top}.h` and object files in `model`."""
    with _temporary_folder(model) as folder:
        report("Verilator")
        names = []
        for number, (name, text) in enumerate(texts):
            names.append(f"{number}_{name}")
            (folder / names[-1]).write_text(text)
        arguments = [*VERILATOR_OPTIONS, *(["--trace-fst"] if trace else []), *options]
        place = ["--Mdir", ".", "--top-module", top, "--prefix", f"V{top}"]
        (folder / "verilator.log").write_text(verilator.verilate([*arguments, *place, *names], folder=folder))
        _compile_all(folder, _group_sources(folder, f"V{top}"), trace=trace, report=report)


def _inline_rules(texts: list[tuple[str, str]], modules: Sequence[str]) -> str:
    """Verilator configuration that makes each of `modules` one function for all its instances.

    `no_inline` alone does not: Verilator then replaces the inputs by what drives them, which differs between
    instances. Public inputs stay variables of the instance. Clock, reset and wide inputs are left alone: copies of
    clocks are slow, those of wide inputs cost more than they save.
    """
    lines = ["`verilator_config"]
    bodies = {name: body for _, text in texts for name, body in _MODULE.findall(text)}
    for module in modules:
        lines.append(f'no_inline -module "{module}"')
        for high, port in _INPUT.findall(bodies.get(module, "")):
            if port not in ("clk", "rst") and int(high or 0) < 64:
                lines.append(f'public_flat_rd -module "{module}" -var "{port}"')
    return "\n".join(lines) + "\n"


def _group_sources(folder: Path, prefix: str) -> list[tuple[str, tuple[str, ...]]]:
    """Gather the generated files into few translation units, so that headers are read a few times, not hundreds."""
    units: list[tuple[str, tuple[str, ...]]] = []
    for kind, flags in (("slow", SLOW), ("fast", FAST)):
        paths = [path for path in folder.glob(f"{prefix}*.cpp") if path.stem.endswith("Slow") == (kind == "slow")]
        count = max(1, min(len(paths), max(JOBS, sum(path.stat().st_size for path in paths) // _GROUP_BYTES)))
        groups: list[list[Path]] = [[] for _ in range(count)]
        for path in sorted(paths, key=lambda path: (-path.stat().st_size, path.name)):
            min(groups, key=lambda group: sum(other.stat().st_size for other in group)).append(path)
        for number, group in enumerate(filter(None, groups)):
            name = f"{kind}_{number}.cpp"
            (folder / name).write_text("".join(f'#include "{path.name}"\n' for path in group))
            units.append((name, flags))
    return units[::-1]


def _compile_all(folder: Path, units: list[tuple[str, tuple[str, ...]]], *, trace: bool, report: Progress) -> None:
    with concurrent.futures.ThreadPoolExecutor(JOBS) as pool:
        jobs = [pool.submit(_compile, folder, name, flags, trace=trace) for name, flags in units]
        for number, job in enumerate(concurrent.futures.as_completed(jobs), 1):
            job.result()
            report(f"C++ {number}/{len(jobs)}")


def _compile(folder: Path, name: str, flags: Sequence[str], *, trace: bool) -> None:
    include = verilator.root() / "include"
    defines = [*(f"-D{name}=0" for name in _DEFINES), f"-DVM_TRACE={int(trace)}", f"-DVM_TRACE_FST={int(trace)}"]
    paths = ["-I.", f"-isystem{include}", f"-isystem{include / 'vltstd'}"]
    ccache = shutil.which("ccache")
    command = [ccache, *_compiler()] if ccache else [*_compiler()]
    _run([*command, "-std=gnu++17", "-fPIC", *flags, *defines, *paths, "-c", name, "-o", f"{name}.o"], folder)


def _run(command: Sequence[str], folder: Path) -> None:
    result = subprocess.run(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False
    )
    if result.returncode:
        raise BuildError(f"{Path(command[0]).name} failed:\n{verilator.tail(result.stdout)}")


def _build_harness(library: Path, model: Path, harness: str, *, trace: bool, report: Progress) -> None:
    report("C++ harness")
    objects = [*sorted(model.glob("*.o")), *_runtime(trace=trace)]
    with tempfile.TemporaryDirectory(dir=library.parent) as name:
        folder = Path(name)
        (folder / "harness.cpp").write_text(harness)
        _compile(folder, "harness.cpp", (*RUNTIME, f"-I{model}"), trace=trace)
        command = [*_compiler(), "-shared", "-o", "library.so", "harness.cpp.o", *map(str, objects), "-lpthread"]
        _run(command, folder)
        (folder / "library.so").replace(library)


def _runtime(*, trace: bool) -> list[Path]:
    """Object files of Verilator's own C++, compiled once for all designs."""
    codecs = Path(__file__).with_name("fst_codecs.h").read_text()
    folder = cache_folder() / f"runtime-{_digest([verilator.version(), *_tools(), codecs, _FORMAT])}"
    names = ["verilated.cpp", "verilated_threads.cpp", *(["verilated_fst_c.cpp"] if trace else [])]
    objects = [folder / f"{name}.o" for name in names]
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / "lock"):
        missing = [name for name, path in zip(names, objects) if not path.exists()]
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            for name in missing:
                shutil.copy(verilator.root() / "include" / name, temporary)
            for name in ("lz4.h", "zlib.h"):
                (Path(temporary) / name).write_text(codecs)
            _compile_all(Path(temporary), [(name, RUNTIME) for name in missing], trace=trace, report=lambda text: None)
            for name in missing:
                (Path(temporary) / f"{name}.o").replace(folder / f"{name}.o")
    return objects


__all__ = ["BuildError", "build_library", "cache_folder"]

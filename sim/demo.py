"""The whole kit on one real job: `python -m sim.demo` or `make demo`.

Trains an MLP on handwritten digits, dense and with 2:8 weights, schedules it, generates and compiles two accelerators,
runs all 360 test images on each, and compares every word of memory with the golden machine.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table
from torch import nn

from hwgen.arch import load
from models.digits import accuracy, digits, train_mlp
from sim.console import print_error, progress, standard_output
from sim.generate import generate
from sim.report import Report
from sim.simulate import RunOptions, simulate
from sim.verilate import Progress

ARCHES = ("sat16", "sat32")
PATTERN = (2, 8)
FOLDER = Path("build/demo")


@dataclass(frozen=True)
class Row:
    """One run of the test split."""

    report: Report
    hardware: float
    """Accuracy of the results that RTL left in memory."""
    reference: float
    """Accuracy of the same module in PyTorch, float32."""
    folder: Path


def run(folder: Path, say: Progress) -> list[Row]:
    """Train, generate, simulate; files go to `folder`."""
    data = digits()
    modules = {}
    for name, pattern in (("dense", None), (f"{PATTERN[0]}:{PATTERN[1]}", PATTERN)):
        say(f"training the {name} MLP on {len(data.train_images):,} digits")
        modules[name] = train_mlp(pattern)
    rows = []
    for arch_name in ARCHES:
        arch = load(arch_name)
        generate(arch, folder / arch_name, progress=say)
        for sparsity, module in modules.items():
            place = folder / arch_name / f"mlp_{sparsity.replace(':', '_')}"
            rows.append(_row(arch, sparsity, module, place, say))
    return rows


def _row(arch, sparsity: str, module: nn.Module, place: Path, say: Progress) -> Row:
    data = digits()
    images = torch.from_numpy(data.test_images)
    options = RunOptions(folder=place, progress=say)
    report = simulate(module, (images,), arch, sparsity=sparsity, name="mlp 64-128-128-10", options=options)
    with torch.no_grad():
        reference = module(images).numpy()
    (logits,) = report.outputs.values()
    labels = data.test_labels
    return Row(report, accuracy(logits, labels), accuracy(reference, labels), place)


def table(rows: list[Row]) -> Table:
    """Results, one line for each run; speed-up is against the dense run on the same accelerator."""
    made = Table(title=f"{len(digits().test_labels)} test images on RTL", title_justify="left")
    for name in ("accelerator", "weights", "accuracy", "float32", "words equal", "cycles", "array busy", "speed-up"):
        made.add_column(name, justify="left" if name in ("accelerator", "weights") else "right")
    for row in rows:
        report = row.report
        dense = next(other.report.cycles for other in rows if other.report.arch == report.arch)
        compared = report.comparison
        made.add_row(
            *(report.arch.name, report.sparsity, f"{row.hardware:.2%}", f"{row.reference:.2%}"),
            *(f"{compared.words - compared.different:,} of {compared.words:,}", f"{report.cycles:,}"),
            *(f"{report.utilisation:.1%}", f"{dense / report.cycles:.2f}x"),
        )
    return made


def main() -> int:
    """Run the demo; exit code 1 if any word differs from the golden machine."""
    start = time.perf_counter()
    with progress() as say:
        rows = run(FOLDER, say)
    with standard_output() as console:
        console.print(table(rows))
        for arch_name in ARCHES:
            console.print(f"Verilog of {arch_name}: {FOLDER / arch_name / 'accelerator.v'}")
        for row in rows:
            for kind in ("report", "timeline"):
                console.print(f"{kind} of {row.report.arch.name}, {row.report.sparsity}: {row.report.files[kind]}")
        console.print("Timelines open in https://ui.perfetto.dev (nothing is uploaded).")
        console.print(f"{time.perf_counter() - start:.0f} s")
    if not all(row.report.comparison.equal for row in rows):
        print_error("RTL differs from the golden machine")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Runs a digits job: first steps on RTL and on the golden machine together, the rest on the golden machine alone."""

import json
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hwgen.arch import UserError
from scheduler.training.products.decisions import plain, table
from scheduler.training.program import TrainingProgram
from sim.files import output_folder
from sim.memory import MemoryModel
from sim.runner import build
from sim.training.digits_job import DigitsJob
from sim.training.train import GoldenTrainer, RtlTrainer, StepResult, train
from sim.verilate import Progress


@dataclass(frozen=True)
class TrainingReport:
    """What a training run gave."""

    job: DigitsJob = field(repr=False)
    rtl: tuple[StepResult, ...]
    """Steps that RTL made, all of memory equal to the golden machine's after each."""
    losses: tuple[float, ...]
    """Of all steps."""
    reference_losses: tuple[float, ...]
    """Of the same steps in PyTorch float32."""
    accuracy: float | None
    """On the test images, after all epochs; None if not all steps were made."""
    reference_accuracy: float | None
    """The same of PyTorch."""
    program: TrainingProgram = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "model": self.job.model,
            "arch": self.job.arch.name,
            "sparsity": str(self.job.pattern or "dense"),
            "method": self.job.method,
            "batch": self.job.batch,
            "epochs": self.job.epochs,
            "seed": self.job.seed,
            "dataflow": self.job.options.dataflow,
            "overlap": self.job.options.overlap,
            "instructions per step": len(self.program.step.commands),
            "rtl": [{"step": step.number, "loss": step.loss, "cycles": step.cycles} for step in self.rtl],
            "bytes compared after each step": self.rtl[0].words if self.rtl else 0,
            "losses": list(self.losses),
            "reference losses": list(self.reference_losses),
            "accuracy": self.accuracy,
            "reference accuracy": self.reference_accuracy,
            "dense": self.program.places.notes,
            "decisions": plain(self.program.places.decisions),
        }


def run(
    job: DigitsJob,
    *,
    rtl_steps: int,
    steps: int | None = None,
    memory: MemoryModel | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> TrainingReport:
    """Train; `rtl_steps` steps on RTL too, `steps` in all (all epochs if None); listing and report go to `folder`.

    Raises `SimulationError` when RTL stops or differs from the golden machine, `UserError` when the loss is no number.
    """
    if rtl_steps < 0 or (steps is not None and steps < max(1, rtl_steps)):
        raise UserError(f"steps must be at least 1 and no fewer than those on RTL, not {steps} with {rtl_steps} on RTL")
    if folder is None:
        return _run(job, rtl_steps, steps, memory, progress)
    with output_folder(folder) as partial:
        report = _run(job, rtl_steps, steps, memory, progress)
        (partial / "program.lst").write_text(report.program.listing())
        (partial / "decisions.md").write_text(table(report.program.places.decisions))
        (partial / "report.json").write_text(json.dumps(report.to_json(), indent=2) + "\n")
        return report


def _run(
    job: DigitsJob, rtl_steps: int, steps: int | None, memory: MemoryModel | None, progress: Progress | None
) -> TrainingReport:
    say = progress or (lambda text: None)
    say("scheduling")
    program = job.program()
    say("training in PyTorch")
    total = job.steps if steps is None else min(steps, job.steps)
    module, reference = job.reference(program, total)
    golden = GoldenTrainer(program)
    batches = islice(job.batches(program), total)
    done: list[StepResult] = []
    if rtl_steps:
        rtl = RtlTrainer(program, build(job.arch, progress=progress), memory)
        for result in train(program, islice(batches, rtl_steps), golden=golden, rtl=rtl):
            done.append(result)
            say(f"step {result.number + 1} of {total} on RTL: loss {result.loss:.4f}, {result.cycles:,} cycles")
        rtl.close()
    losses = [result.loss for result in done]
    for result in train(program, batches, golden=golden):
        losses.append(result.loss)
        say(f"step {len(losses)} of {total} on the golden machine: loss {result.loss:.4f}")
    whole = len(losses) == job.steps
    return TrainingReport(
        job=job,
        rtl=tuple(done),
        losses=tuple(losses),
        reference_losses=tuple(reference),
        accuracy=job.accuracy(job.trained(program, golden.memory)) if whole else None,
        reference_accuracy=job.accuracy(module) if whole else None,
        program=program,
    )


def print_training(report: TrainingReport, console: Console) -> None:
    """A table of the steps on RTL, and what came of it."""
    if report.rtl:
        table = Table(title="steps on RTL, all of memory equal to the golden machine", title_justify="left")
        for name in ("step", "loss", "loss in PyTorch float32", "cycles"):
            table.add_column(name, justify="right")
        for step, loss in zip(report.rtl, report.reference_losses):
            table.add_row(str(step.number), f"{step.loss:.4f}", f"{loss:.4f}", f"{step.cycles:,}")
        console.print(table)
    for name, note in report.program.places.notes.items():
        console.print(f"{name}: {note}", markup=False)
    last, reference = report.losses[-1], report.reference_losses[-1]
    console.print(f"loss after {len(report.losses):,} steps: {last:.4f} (PyTorch float32: {reference:.4f})")
    if report.accuracy is not None:
        console.print(f"test accuracy: {report.accuracy:.2%} (PyTorch float32: {report.reference_accuracy:.2%})")

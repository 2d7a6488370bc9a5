"""What each dataflow optimisation is worth: interleaving, pre-generation of N:M weights, offline scheduling.

`python -m sim.training.ablation` runs a training step of the digits CNN on RTL, checked against the golden machine, and
one of ResNet-18 through the cycle model, with none of them, each alone, and all together.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from hwgen.arch import load
from models.pattern import Pattern
from scheduler.training.lower import TrainingOptions
from sim.console import progress, standard_output
from sim.files import output_folder
from sim.runner import build
from sim.training.digits_job import DigitsJob
from sim.training.speedup import measure
from sim.training.train import GoldenTrainer, RtlTrainer, train
from sim.verilate import Progress

OFF = TrainingOptions(interleave=False, pregenerate=False, loss_scale=256.0).naive()
CHOICES = {
    "interleaving": {"interleave": True},
    "pre-generation": {"pregenerate": True},
    "offline scheduling": {"dataflow": "auto", "overlap": True},
}
CASES = {
    "none": OFF,
    **{name: replace(OFF, **choice) for name, choice in CHOICES.items()},
    "all": replace(OFF, **{key: value for choice in CHOICES.values() for key, value in choice.items()}),
}
FOLDER = Path("build/ablation")


def on_rtl(options: TrainingOptions, arch: str, pattern: Pattern, say: Progress) -> int:
    """Cycles of one training step of the digits CNN on RTL; raises `SimulationError` if it differs from golden."""
    job = DigitsJob(model="digits_cnn", arch=load(arch), pattern=pattern, epochs=1, options=options)
    program = job.program()
    rtl = RtlTrainer(program, build(job.arch, progress=say))
    batches = [next(job.batches(program))]
    (result,) = train(program, batches, golden=GoldenTrainer(program), rtl=rtl)
    rtl.close()
    return result.cycles


def main(
    small: Annotated[str, typer.Option(help="Architecture of the RTL runs.")] = "sat8",
    large: Annotated[str, typer.Option(help="Architecture of the cycle model's runs.")] = "sat32",
    model: Annotated[str, typer.Option(help="Network of the cycle model's runs.")] = "resnet18",
    pattern: Annotated[str, typer.Option(metavar="N:M")] = "2:8",
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR")] = FOLDER,
) -> None:
    """Cycles of a training step with and without each optimisation."""
    rtl, modelled = {}, {}
    with progress() as say:
        for name, options in CASES.items():
            say(f"digits CNN on RTL: {name}")
            rtl[name] = on_rtl(options, small, Pattern.parse(pattern), say)
        for name, options in CASES.items():
            say(f"{model} by the cycle model: {name}")
            modelled[name] = measure(model, pattern, load(large), 32, options).cycles
        with output_folder(output) as partial:
            found = {"digits_cnn on RTL": rtl, f"{model} by the cycle model": modelled, "pattern": pattern}
            (partial / "ablation.json").write_text(json.dumps(found, indent=2) + "\n")
    shown = Table(title=f"cycles of a {pattern} training step", title_justify="left")
    shown.add_column("with")
    for title in (f"digits CNN, RTL of {small}", "", f"{model}, model of {large}", ""):
        shown.add_column(title, justify="right")
    for name in CASES:
        cells = [(found[name], found["none"] / found[name]) for found in (rtl, modelled)]
        shown.add_row(name, *(text for cycles, gain in cells for text in (f"{cycles:,}", f"{gain:.2f}x")))
    with standard_output() as console:
        console.print(shown)


if __name__ == "__main__":
    typer.run(main)

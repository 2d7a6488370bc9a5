"""The accuracy table: `python -m models.recipes.accuracy`. Recipes, patterns, seeds and sets of images, in one command.

Finished runs are kept, so a command that was stopped goes on where it was, and a wider one runs only what is new.
"""

import json
import multiprocessing
import os
import platform
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import track

from hwgen.arch import UserError
from models.recipes.experiment import DATASETS, EPOCHS, Result, Run, run
from models.recipes.results import ResultFile, markdown, summarise

METHODS = "dense srste sdgp bdwp mdgf sdgf"
PATTERNS = "2:4 2:8 1:4 1:8 2:16"
FOLDER = Path("build/accuracy")


def plan(datasets: list[str], methods: list[str], patterns: list[str], seeds: int, epochs: int | None) -> list[Run]:
    """All runs of a table, in its order; dense has no pattern. Raises `UserError` for unknown names."""
    if seeds < 1:
        raise UserError(f"a table needs at least one seed, not {seeds}")
    for dataset in datasets:
        if dataset not in DATASETS:
            raise UserError(f"unknown set of images {dataset!r}: there are {', '.join(DATASETS)}")
    return [
        Run(dataset, method, pattern, seed, EPOCHS[dataset] if epochs is None else epochs)
        for dataset in datasets
        for method in methods
        for pattern in (["dense"] if method == "dense" else patterns)
        for seed in range(seeds)
    ]


def results_of(runs: list[Run], jobs: int) -> Iterator[tuple[Run, Result]]:
    """Run all, `jobs` at a time; yields results as they come."""
    if jobs == 1:
        yield from ((one, run(one)) for one in runs)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context) as pool:
        started = {pool.submit(run, one): one for one in runs}
        yield from ((started[done], done.result()) for done in as_completed(started))


def measure(runs: list[Run], file: ResultFile, jobs: int) -> dict[str, Any]:
    """Run what `file` does not have yet; returns what accuracy.json holds."""
    missing = [one for one in runs if file.get(one) is None]
    console = Console(stderr=True)
    title = f"{len(missing)} of {len(runs)} runs"
    for one, result in track(results_of(missing, jobs), title, len(missing), console=console):
        file.add(one, result)
    return {"machine": machine(), "rows": summarise((one, file.get(one)) for one in runs)}


def machine() -> dict[str, str]:
    """What the runs were made with; other versions and processors give slightly different accuracies."""
    return {"torch": torch.__version__, "python": platform.python_version(), "system": platform.platform()}


def json_text(measured: dict[str, Any]) -> str:
    """JSON with one line for each row of the table, so that differences can be read."""
    rows = ",\n  ".join(json.dumps(row) for row in measured["rows"])
    return f'{{\n "machine": {json.dumps(measured["machine"])},\n "rows": [\n  {rows}\n ]\n}}\n'


def write(path: Path, text: str) -> None:
    """Replace a file as a whole. Raises `UserError` if that is not possible."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_text(text)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"cannot write to {path}: {error.strerror or error}") from None


def main(
    datasets: Annotated[str, typer.Option(help="sets of images")] = " ".join(DATASETS),
    methods: Annotated[str, typer.Option(help="recipes")] = METHODS,
    patterns: Annotated[str, typer.Option(help="N:M patterns")] = PATTERNS,
    seeds: Annotated[int, typer.Option(help="runs of each kind")] = 5,
    epochs: Annotated[int | None, typer.Option(help="length of a run; default: by set")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="runs at a time")] = 1,
    output: Annotated[Path, typer.Option("-o", help="folder of runs.jsonl, accuracy.json, accuracy.md")] = FOLDER,
) -> None:
    """Train with every recipe and print accuracy and training loss as Markdown."""
    try:
        runs = plan(datasets.split(), methods.split(), patterns.split(), seeds, epochs)
        with ResultFile(output / "runs.jsonl") as file:
            measured = measure(runs, file, jobs)
        tables = markdown(measured["rows"])
        write(output / "accuracy.json", json_text(measured))
        write(output / "accuracy.md", tables)
    except UserError as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(2) from None
    print(tables, end="")


if __name__ == "__main__":
    typer.run(main)

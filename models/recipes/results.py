"""Results of many runs: a file that a killed sweep resumes from, and the tables made of it."""

import fcntl
import json
import os
import statistics
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch

from hwgen.arch import UserError
from models.recipes.experiment import Result, Run

REVISION = 1
"""To be raised when a change of the code changes results: older lines of a file do not count any more."""
TABLES = {"accuracy": ("Accuracy, %", 100, 2), "train_loss": ("Training loss", 1, 3)}
"""Field of a result -> title of its table, factor, decimals."""

Row = dict[str, Any]


class ResultFile:
    """One JSON line for each finished run, keyed by everything its result depends on. One process may have it open.

    A line is written by one call and then flushed to disk; a line that a crash cut short is dropped at the next start.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is writing to {path}") from None
        except OSError as error:
            raise UserError(f"cannot write to {path}: {error.strerror or error}") from None
        text = path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        os.truncate(self._file, len(whole))
        self._known = {line["key"]: Result(**line["result"]) for line in map(json.loads, whole.splitlines())}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        os.close(self._file)

    def get(self, run: Run) -> Result | None:
        """Result of a run, if it is there."""
        return self._known.get(key(run))

    def add(self, run: Run, result: Result) -> None:
        """Append a result. Raises `UserError` if the disk is full."""
        line = json.dumps({"key": key(run), "result": asdict(result)}) + "\n"
        try:
            os.write(self._file, line.encode())
            os.fsync(self._file)
        except OSError as error:
            raise UserError(f"cannot write to {self.path}: {error.strerror or error}") from None
        self._known[key(run)] = result


def key(run: Run) -> str:
    """Text that is equal for runs with equal results."""
    return json.dumps({"revision": REVISION, "torch": torch.__version__, **asdict(run)}, sort_keys=True)


def summarise(results: Iterable[tuple[Run, Result]]) -> list[Row]:
    """One row for each set of images, recipe and pattern: values of all seeds, mean and standard deviation."""
    groups: dict[tuple[str, ...], list[tuple[Run, Result]]] = {}
    for run, result in results:
        groups.setdefault((run.dataset, run.recipe, run.pattern), []).append((run, result))
    return [_row(members) for members in groups.values()]


def _row(members: list[tuple[Run, Result]]) -> Row:
    run = members[0][0]
    row: Row = {"dataset": run.dataset, "recipe": run.recipe, "pattern": run.pattern, "epochs": run.epochs}
    row |= {"width": run.width, "seeds": [run.seed for run, _ in members]}
    for name in ("accuracy", "train_loss", "seconds"):
        values = [getattr(result, name) for _, result in members]
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        row[name] = {"mean": round(statistics.mean(values), 6), "sd": round(deviation, 6)}
        row[name]["values"] = [round(value, 6) for value in values]
    return row


def markdown(rows: list[Row]) -> str:
    """Tables of accuracy and training loss for each set of images: recipes down, patterns across, mean ± sd."""
    parts = []
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        chosen = [row for row in rows if row["dataset"] == dataset]
        seeds, epochs = len(chosen[0]["seeds"]), chosen[0]["epochs"]
        for field, (title, factor, decimals) in TABLES.items():
            cells = {
                (row["recipe"], row["pattern"]): _cell(row[field]["mean"] * factor, row[field]["sd"] * factor, decimals)
                for row in chosen
            }
            dense = cells.pop(("dense", "dense"), "not run")
            text = f"{title}, set `{dataset}`, {epochs} epochs, {seeds} seeds, mean ± standard deviation; dense {dense}"
            parts.append(f"{text}:\n\n{_table(cells)}\n" if cells else f"{text}.\n")
    return "\n".join(parts)


def _cell(mean: float, deviation: float, decimals: int) -> str:
    return f"{mean:.{decimals}f} ± {deviation:.{decimals}f}"


def _table(cells: dict[tuple[str, str], str]) -> str:
    patterns = list(dict.fromkeys(pattern for _, pattern in cells))
    lines = [["recipe", *patterns], ["---"] * (len(patterns) + 1)]
    for name in dict.fromkeys(name for name, _ in cells):
        lines.append([name, *(cells.get((name, pattern), "") for pattern in patterns)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

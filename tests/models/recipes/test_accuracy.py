"""The accuracy table: what is run, what is kept when it is stopped, and what is printed."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from hwgen.arch import UserError
from models.recipes.accuracy import METHODS, PATTERNS, main, measure, plan, write
from models.recipes.experiment import EPOCHS, Result, Run, run
from models.recipes.results import ResultFile, markdown, summarise

ROOT = Path(__file__).parents[3]
FIRST = Run("digits", "bdwp", "2:8", 0, 1, 8)


def result(accuracy: float) -> Result:
    return Result(accuracy, 2 * accuracy, 1.0)


def test_a_table_has_every_combination_and_dense_once():
    runs = plan(["digits", "hard"], METHODS.split(), PATTERNS.split(), 5, None)
    assert len(runs) == len(set(runs)) == 2 * (5 * 5 + 1) * 5
    assert {run.pattern for run in runs if run.recipe == "dense"} == {"dense"}
    assert {run.dataset: run.epochs for run in runs} == EPOCHS


def test_runs_are_reproducible_and_tickets_train_twice():
    config = replace(FIRST, recipe="lottery")
    first, again, other = run(config), run(config), run(replace(config, seed=1))
    assert (first.accuracy, first.train_loss) == (again.accuracy, again.train_loss)
    assert first.train_loss != other.train_loss


def test_results_survive_and_a_torn_line_is_dropped(tmp_path):
    path = tmp_path / "new" / "runs.jsonl"
    with ResultFile(path) as file:
        file.add(FIRST, result(0.5))
        file.add(replace(FIRST, seed=1), result(0.25))
    text = path.read_text()
    path.write_text(text[:-20])
    with ResultFile(path) as file:
        assert file.get(FIRST) == result(0.5)
        assert file.get(replace(FIRST, seed=1)) is None
        file.add(replace(FIRST, seed=1), result(0.25))
    assert path.read_text() == text


@pytest.mark.parametrize(
    "change", [{"epochs": 2}, {"width": 4}, {"seed": 3}, {"pattern": "1:8"}, {"recipe": "srste"}, {"dataset": "hard"}]
)
def test_every_setting_is_part_of_the_key(tmp_path, change):
    with ResultFile(tmp_path / "runs.jsonl") as file:
        file.add(FIRST, result(0.5))
        assert file.get(replace(FIRST, **change)) is None


def test_older_revisions_do_not_count(tmp_path, monkeypatch):
    with ResultFile(tmp_path / "runs.jsonl") as file:
        file.add(FIRST, result(0.5))
    monkeypatch.setattr("models.recipes.results.REVISION", 1000)
    with ResultFile(tmp_path / "runs.jsonl") as file:
        assert file.get(FIRST) is None


def test_one_process_writes_at_a_time(tmp_path):
    path = tmp_path / "runs.jsonl"
    with ResultFile(path), pytest.raises(UserError) as caught:
        ResultFile(path)
    assert str(caught.value) == f"another process is writing to {path}"


def test_only_missing_runs_are_run(tmp_path, monkeypatch):
    seen = []

    def fake(config):
        seen.append(config)
        return result(config.seed / 10)

    monkeypatch.setattr("models.recipes.accuracy.run", fake)
    runs = plan(["digits"], ["dense", "bdwp"], ["2:8"], 2, 1)
    with ResultFile(tmp_path / "runs.jsonl") as file:
        measure(runs[:3], file, 1)
        measured = measure(runs, file, 1)
    assert seen == runs
    assert [row["accuracy"]["values"] for row in measured["rows"]] == [[0.0, 0.1], [0.0, 0.1]]


def test_tables_have_mean_and_standard_deviation():
    runs = plan(["hard"], ["dense", "srste", "bdwp"], ["2:4", "2:8"], 3, 4)
    rows = summarise((one, result({0: 0.9, 1: 0.92, 2: 0.94}[one.seed])) for one in runs[:-3])
    assert rows[0]["accuracy"] == {"mean": 0.92, "sd": 0.02, "values": [0.9, 0.92, 0.94]}
    assert markdown(rows).splitlines() == [
        "Accuracy, %, set `hard`, 4 epochs, 3 seeds, mean ± standard deviation; dense 92.00 ± 2.00:",
        "",
        "| recipe | 2:4 | 2:8 |",
        "| --- | --- | --- |",
        "| srste | 92.00 ± 2.00 | 92.00 ± 2.00 |",
        "| bdwp | 92.00 ± 2.00 |  |",
        "",
        "Training loss, set `hard`, 4 epochs, 3 seeds, mean ± standard deviation; dense 1.840 ± 0.040:",
        "",
        "| recipe | 2:4 | 2:8 |",
        "| --- | --- | --- |",
        "| srste | 1.840 ± 0.040 | 1.840 ± 0.040 |",
        "| bdwp | 1.840 ± 0.040 |  |",
    ]
    assert markdown(rows[:1]).splitlines()[0].endswith("dense 92.00 ± 2.00.")


def command(*arguments: str):
    """The command line, in this process."""
    app = typer.Typer()
    app.command()(main)
    return CliRunner().invoke(app, arguments)


def test_command_runs_and_goes_on(tmp_path):
    settings = ["--datasets", "digits", "--methods", "dense bdwp", "--patterns", "2:8", "--epochs", "1"]
    settings += ["-o", str(tmp_path / "table")]
    program = [sys.executable, "-m", "models.recipes.accuracy", *settings, "--seeds", "1"]
    alone = subprocess.run(program, capture_output=True, text=True, cwd=ROOT, timeout=300, check=True)
    wider = command(*settings, "--seeds", "2", "--jobs", "2")
    again = command(*settings, "--seeds", "2")
    assert wider.exit_code == again.exit_code == 0
    assert wider.stdout == again.stdout != alone.stdout
    assert (tmp_path / "table" / "accuracy.md").read_text() == again.stdout
    assert len((tmp_path / "table" / "runs.jsonl").read_text().splitlines()) == 4
    rows = json.loads((tmp_path / "table" / "accuracy.json").read_text())["rows"]
    assert markdown(rows) == again.stdout


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (["--datasets", "cifar"], "unknown set of images 'cifar': there are digits, hard"),
        (["--methods", "bdwq"], "unknown recipe 'bdwq': there are dense, srste, sdgp, bdwp, bimask, mdgf, "),
        (["--patterns", "8:2"], "a sparsity pattern N:M needs 1 <= N <= M, not 8:2"),
        (["--patterns", "dense"], "recipe 'srste' does not go with pattern 'dense'"),
        (["--seeds", "0"], "a table needs at least one seed, not 0"),
        (["--epochs", "0"], "a run needs at least one epoch and one channel, not 0 and 16"),
        (["-o", "/proc/none"], "cannot write to /proc/none/runs.jsonl: No such file or directory"),
    ],
)
def test_bad_settings_are_refused_in_one_sentence(tmp_path, settings, text):
    done = command("-o", str(tmp_path), *settings)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {text}")
    assert done.stderr.count("\n") == 1
    assert not os.listdir(tmp_path)


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "accuracy.md").mkdir()
    with pytest.raises(UserError, match=r"cannot write to .*accuracy\.md: Is a directory"):
        write(tmp_path / "accuracy.md", "")


def test_unknown_names_in_a_run_are_refused():
    for change, text in [({"dataset": "mnist"}, "mnist"), ({"recipe": "best"}, "best"), ({"width": 0}, "one channel")]:
        with pytest.raises(UserError, match=text):
            replace(FIRST, **change)

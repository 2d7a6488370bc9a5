"""The training page is what the capture gives today, and its example runs."""

import re
from pathlib import Path

import pytest

from scheduler.training import docs

PAGE = Path(docs.__file__).parent / "README.md"


def test_the_training_page_is_current():
    assert docs.main(["--check"]) == 0, f"run: {docs.COMMAND}"


def test_a_stale_page_is_noticed_and_filled(tmp_path, capsys):
    page = tmp_path / "README.md"
    page.write_text(PAGE.read_text().replace("momentum = 0.9", "momentum = 0.8"))
    assert docs.main(["--check", "--page", str(page)]) == 1
    assert capsys.readouterr().err == "README.md is stale; run: python -m scheduler.training.docs\n"
    assert docs.main(["--page", str(page)]) == 0
    assert page.read_text() == PAGE.read_text()


@pytest.mark.slow
def test_the_example_of_the_page_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    exec(compile(code, str(PAGE), "exec"), {})
    assert "'FF': 130853896192" in capsys.readouterr().out


def test_every_file_that_the_page_names_is_there():
    named = set(re.findall(r"`([a-z_*/]+\.py)`", PAGE.read_text()))
    assert len(named) > 15
    places = (PAGE.parent, PAGE.parents[2])
    assert [name for name in named if not any(list(place.glob(name)) for place in places)] == []

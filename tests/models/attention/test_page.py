"""The page shows the figures that are checked in, and its example runs."""

import json
import re
from pathlib import Path

import pytest

from models.attention import decode, minilm

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "models" / "attention"
PAGE = (FOLDER / "README.md").read_text()


def rows(name):
    return json.loads((ROOT / "models" / "results" / f"attention_{name}.json").read_text())["rows"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("minilm", minilm.markdown([row for row in rows("minilm") if row["texts"] == "paragraphs"])),
        ("decode", decode.markdown(rows("decode"))),
    ],
)
def test_figures_are_those_of_the_result_file(name, expected):
    (shown,) = re.findall(rf"<!-- {name} -->\n\n(.*?)\n<!-- /{name} -->", PAGE, re.S)
    assert shown == expected


def test_result_files_are_whole():
    settings = [setting.__dict__ for setting in minilm.settings(minilm.numbers(minilm.RATIOS))]
    for texts in minilm.SETS.split():
        found = [{key: row[key] for key in settings[0]} for row in rows("minilm") if row["texts"] == texts]
        assert found == settings
    assert [row["step"] for row in rows("decode")] == list(decode.policies(decode.Shape()))


def test_example_runs():
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    names = {}
    exec(example, names)
    assert names["hidden"].shape == (1, 20, 96)


def test_every_file_is_on_the_page():
    named = set(re.findall(r"`(\w+\.(?:py|json))`", PAGE))
    assert named == {path.name for path in FOLDER.iterdir() if path.is_file()} - {"README.md", "__init__.py"}

"""The page of the recipes says what the code does and shows the figures that are checked in."""

import json
import re
from pathlib import Path

from models.recipes import RECIPES
from models.recipes.results import markdown

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "models" / "recipes" / "README.md").read_text()


def test_table_of_recipes():
    rows = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| `") and " | " in line]
    table = {row[0].strip("`"): row[1:] for row in rows if len(row) == 7}
    assert list(table) == list(RECIPES)
    for name, (forward, backward, gradient, of_weight, *_) in table.items():
        recipe = RECIPES[name]
        assert (forward, backward) == (recipe.forward.value, recipe.backward.value)
        assert gradient == ("N:M along output channels" if recipe.prune_gradient else "dense")
        assert of_weight.startswith("dense") == recipe.straight_through
        assert of_weight.endswith("+ decay") == bool(recipe.decay)


def test_example_runs():
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    names = {}
    exec(example, names)
    kept = names["model"].conv3.weight.detach().reshape(32, 4, 8, 9) != 0
    assert kept.sum(2).max() == 2


def test_figures_are_those_of_the_result_file():
    (shown,) = re.findall(r"<!-- accuracy -->\n\n(.*?)\n<!-- /accuracy -->", PAGE, re.S)
    assert shown == markdown(json.loads((ROOT / "models" / "results" / "accuracy.json").read_text())["rows"])

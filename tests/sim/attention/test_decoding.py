"""A whole decoder, token by token: the table on the page, and what a small one takes."""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest

from hwgen.arch import load
from hwgen.arch.config import INSTRUCTION_BYTES
from sim.attention import decoding

ROOT = Path(__file__).parents[3]
ROWS = json.loads((ROOT / "sim" / "results" / "decoding.json").read_text())


def test_figures_are_those_of_the_result_file():
    page = (ROOT / "scheduler" / "attention" / "README.md").read_text()
    (shown,) = re.findall(r"<!-- decoding -->\n\n(.*?)\n<!-- /decoding -->", page, re.DOTALL)
    assert shown == decoding.markdown(ROWS)


def test_result_file_is_whole():
    assert [row["step"] for row in ROWS] == [setting.name for setting in decoding.SETTINGS]
    assert all(one["bytes"] >= following["bytes"] for one, following in pairwise(ROWS))
    assert all(one["cycles"] >= following["cycles"] for one, following in pairwise(ROWS))


@pytest.fixture(scope="module")
def subject() -> decoding.Subject:
    return decoding.Subject(layers=2, heads=2, width=32, prompt=9, tokens=2, arch=load("tiny_attention"))


def test_a_token_moves_what_its_instructions_say(subject):
    row = decoding.measure(subject, decoding.SETTINGS[0], lambda _: None)
    said = row["attention"] + row["services"] + row["array"] + INSTRUCTION_BYTES * row["instructions"]
    assert said <= row["bytes"] < 1.02 * said  # rows and records are fetched in whole beats
    weights = 2 * 12 * 32 * 32 * 2
    assert weights < row["array"] < 2 * weights
    assert 0 < row["cycles_attend"] < row["cycles"]


def test_pruned_weights_and_tokens_take_less(subject):
    whole, pruned = (decoding.measure(subject, decoding.SETTINGS[number], lambda _: None) for number in (0, -1))
    assert pruned["array"] < 0.5 * whole["array"]
    assert pruned["bytes"] < whole["bytes"]
    assert pruned["cycles"] < whole["cycles"]

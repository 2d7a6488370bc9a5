"""Attention layers without data, and the steps of the ablation, on layers small enough for a test."""

import pytest

from hwgen.arch.attention import AttentionSizes
from sim.attention.ablation import GPT2, STEPS, layer, measure
from sim.attention.beyond import CASES, rows
from sim.attention.workloads import Attention


def token(step: str, width: int = 16) -> dict:
    """Three layers of a token behind 992: nothing pruned yet, some, most."""
    layers = [layer(STEPS[step], GPT2, number, 993, 1) for number in (0, 1, 11)]
    return measure(layers, AttentionSizes(select_lanes=width))


def test_every_step_saves_bytes():
    found = [token(step)["bytes"] for step in STEPS]
    assert found[:-1] == sorted(set(found), reverse=True)
    assert found[-1] == found[-2], "the width of the selection fetches nothing"


def test_bytes_are_those_of_the_planes():
    """Queries of 12 bits, keys and values of 12, outputs of 16, in beats of 64; 10,000 bytes for descriptors."""
    found = token("nothing pruned, 12 bits")["bytes"]
    planes = 3 * 12 * (64 * 12 // 8) * (2 * 993 + 1) + 3 * 12 * 128
    assert planes < found < planes + 10_000


@pytest.mark.parametrize(("width", "narrower"), [(2, 1), (4, 2), (16, 4)])
def test_a_wider_selection_is_faster(width, narrower):
    step = "+ parallel top-k, 16 wide"
    assert token(step, width)["cycles"] < token(step, narrower)["cycles"]


def test_rows_in_need_of_lsbs_read_them():
    sure = Attention(heads=2, alive=2, head_size=64, queries=1, keys=100, values=100, split=True, key_bits=6)
    runs = [measure([sure], AttentionSizes())["bytes"]]
    unsure = Attention(**{**vars(sure), "unsure": 1.0})
    runs.append(measure([unsure], AttentionSizes())["bytes"])
    assert runs[1] - runs[0] == pytest.approx(2 * 100 * 32, abs=2 * 64)


def test_what_goes_beyond_the_paper_is_worth_what_the_tables_say():
    """Fewer LSBs, shared heads and long rows: bytes follow from the planes, cycles from the bytes."""
    found = {(row["what"].split(",")[0], row["case"]): row for row in rows()}
    lows = [found["LSBs", case]["bytes"] for case in CASES["LSBs, every row unsure"]]
    assert lows == sorted(lows, reverse=True)
    assert found["forgetting", "none"]["cycles"] == found["forgetting", "230/256"]["cycles"]
    shared = [row["bytes"] for (what, _), row in found.items() if what == "grouped queries"]
    assert shared[0] > 1.9 * shared[1] > 3.6 * shared[2]
    long = [row for (what, _), row in found.items() if what == "length"]
    assert all(row["port_busy"] > 0.96 for row in long)
    assert long[-1]["bytes"] == pytest.approx(16 * long[0]["bytes"], rel=0.01)
    assert all(row["products_busy"] > 0.98 for (what, _), row in found.items() if what == "head size")

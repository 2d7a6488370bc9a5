"""The picture of a step shows what the engines do, and is an image."""

from xml.etree import ElementTree

import numpy as np
import pytest

from hwgen.arch import load
from hwgen.arch.isa import Engine
from scheduler.training.compile import compile_step
from sim.memory import MemoryModel
from sim.training.speedup import capture
from sim.training.step_picture import KINDS, kinds_of, picture, shares
from sim.training.step_report import kernels
from sim.training.tune import Tuner, own_cycles, spans

ARCH = load("sat8")


@pytest.fixture(scope="module")
def step():
    tuner = Tuner(ARCH, MemoryModel())
    program = compile_step(capture("digits_cnn", 16), ARCH, measure=tuner)
    return program, tuner.result(program.step)


def test_shares_add_up_to_the_cycles_of_each_engine(step):
    program, result = step
    found = shares(program, result, bins=37)
    assert found.min() >= 0
    assert found.sum(1).max() < 1 + 1e-9
    issued, ended = spans(program.step, result)
    last, busy = ended.max() + 1, {engine.name.lower(): 0 for engine in Engine}
    for item in kernels(program, result):
        for name, cycles in item.busy.items():
            busy[name] += cycles
    before = [place for place, origin in enumerate(program.step.origins) if origin < program.places.headings[0][0]]
    busy["load"] += int(own_cycles(program.step, issued, ended)[before].sum())  # constants, before the first kernel
    np.testing.assert_allclose(found.sum((1, 2)) * last / 37, list(busy.values()), rtol=1e-9)


def test_weight_gradients_are_the_last_products(step):
    program, result = step
    found, kinds = shares(program, result, bins=20)[Engine.TENSOR], list(KINDS)
    assert found[kinds.index("forward products"), 0] > 0
    assert found[kinds.index("forward products"), -1] == 0
    assert found[kinds.index("weight gradients"), -1] > 0
    assert set(kinds_of(program)) == {0, 1, 2, 4}


def test_picture_is_well_formed(step):
    program, result = step
    root = ElementTree.fromstring(picture(program, result, "a < b"))
    texts = [item.text for item in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "a < b" in texts
    assert {engine.name.lower() for engine in Engine} <= set(texts)
    assert "products of activations" not in texts

"""Utilisation of one large product on RTL: the published bound, both dataflows, dense and 2:8."""

import pytest

from hwgen.arch import UserError, load
from hwgen.arch.isa import Dataflow
from sim.gemm import Case, check_fit, run_case
from sim.runner import build

pytestmark = pytest.mark.verilator
SIZES = {"tiny": 64, "sat32": 512}


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_array_is_busy(name):
    simulator = build(load(name))
    for flow in Dataflow:
        dense, sparse = (run_case(simulator, Case(SIZES[name], flow, pattern)) for pattern in (False, True))
        for outcome in (dense, sparse):
            assert outcome.utilisation >= 0.985, outcome
            assert sum(outcome.states.values()) == outcome.cycles
            assert outcome.states["busy"] == outcome.ideal
        assert sparse.cycles <= 1.03 / 4 * dense.cycles


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (0, r"^size 0 must be a multiple of 32 and of 64$"),
        (48, r"^size 48 must be a multiple of 32 and of 64$"),
        (128, r"^size 128 needs 1024 words of act_depth, tiny has 256$"),
    ],
)
def test_size_that_does_not_fit(size, message):
    with pytest.raises(UserError, match=message):
        check_fit(load("tiny"), Case(size, Dataflow.OUTPUT_STATIONARY, sparse=False))

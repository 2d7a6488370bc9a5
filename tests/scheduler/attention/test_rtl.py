"""A pruned BERT on the Verilated accelerator: every word of memory is that of the golden machine."""

import pytest

from models.attention import PruningPolicy, Quantization, Schedule
from sim.check import check_run, run_golden
from sim.memory import MemoryModel
from sim.runner import build
from tests.scheduler.attention.support import TINY, Case

pytestmark = pytest.mark.verilator

POLICY = PruningPolicy(
    tokens=Schedule(shares=(1.0, 0.6)),
    heads=Schedule(shares=(1.0, 0.5)),
    values=Schedule(shares=(0.8, 0.8)),
    quantization=Quantization.parse("6+4", threshold=0.2),
)


@pytest.mark.parametrize("memory", [MemoryModel(), MemoryModel(read_latency=90, stalls=0.2)], ids=["fast", "slow"])
def test_rtl_is_golden(memory):
    case = Case.bert(17)
    program = case.compile(POLICY)
    image, code = program.image(case.hidden[0].numpy()), program.code
    run = build(TINY).run(image, program=code.address, count=len(code.commands), memory=memory)
    comparison = check_run(run, run_golden(TINY, image, 0, code.encode()), 0)
    assert comparison.equal, comparison.first
    assert run.counters["BUSY_ATTEND"] > 0

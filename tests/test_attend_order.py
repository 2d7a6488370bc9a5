"""What one ATTEND leaves in memory is what the next one, or another engine, reads, however late memory answers."""

import numpy as np
import pytest

from sim.check import check_run, run_golden
from sim.memory import MemoryModel
from sim.runner import build
from tests.attend_support import ARCH, Draft, assembled, run_rtl

pytestmark = pytest.mark.verilator


@pytest.mark.parametrize("latency", [20, 400])
def test_jobs_read_what_the_one_before_wrote(seed, latency):
    """QUANTIZE, ATTENTION, SELECT, GATHER, LOAD. The memory shows a write with its answer, not before; the cores say
    `done` when they have given away their last beat.
    """
    rng = np.random.default_rng([seed, latency])
    draft = Draft(rng)
    for number in range(2):
        draft.tokens_course(draft.product(number))
    image, program, address = assembled(draft)
    memory = MemoryModel(write_latency=latency)
    with build(ARCH).power_up() as device:
        run = run_rtl(device, image, program, address, memory=memory)
    comparison = check_run(run, run_golden(ARCH, image, 0, program), 0)
    assert comparison.equal, f"program {seed}: {comparison.first}"

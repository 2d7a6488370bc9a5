"""The cycle model of programs with attention jobs: every cycle, counter, state and event equals RTL."""

import numpy as np
import pytest

from hwgen.arch import INSTRUCTION_BYTES, ProgramError, load
from hwgen.arch.commands import command, encode
from hwgen.arch.isa import Opcode
from hwgen.arch.services import Job
from models.memory import Memory
from sim.attention.facts import attend_jobs
from sim.attention.services_model import ModelService
from sim.cycles import run_model
from sim.memory import MemoryModel
from sim.runner import EVENT_LIMIT, build
from tests.attend_support import ARCH, SIZES, TIMEOUT, Draft, assembled, fixed_job, random_course
from tests.test_end_to_end import random_memory


def course(seed: int) -> Draft:
    """Jobs of every kind, on what products stored and on what other jobs wrote, between products and loads."""
    draft = random_course(seed)
    if seed % 3 == 0:
        draft.step(Opcode.ATTEND, job=Job.RESET)
        draft.tokens_course(draft.product(3))
    if seed % 3 == 1:
        length, size = int(draft.rng.integers(1, SIZES.max_length + 1)), 4 * SIZES.max_length
        saved = draft.put(bytes(size))
        draft.service(Job.SAVE, [], [(saved, size)], length=length, dst_addr=saved)
        draft.service(Job.RESTORE, [(saved, size)], [], length=length, src_addr=saved)
    return draft


@pytest.fixture(scope="module")
def simulator():
    return build(ARCH)


@pytest.mark.verilator
@pytest.mark.parametrize("number", range(20))
def test_programs_with_attention_take_the_cycles_of_rtl(simulator, seed, number):
    image, program, address = assembled(course(seed + number))
    memory = MemoryModel() if number == 0 else random_memory(np.random.default_rng(seed + number))
    run = simulator.run(
        image,
        program=address,
        count=len(program) // INSTRUCTION_BYTES,
        memory=memory,
        timeout_cycles=TIMEOUT,
    )
    assert run.status.ok
    jobs = attend_jobs(ARCH, program, Memory({0: image}))
    model = run_model(ARCH, program, address=address, memory=memory, attend=jobs, event_limit=EVENT_LIMIT)
    assert (model.cycles, model.counters) == (run.cycles, run.counters), f"program {seed + number}, {memory}"
    assert (model.states == run.states).all()
    assert (model.events == run.events).all()


def test_skipping_changes_nothing():
    image, program, address = assembled(course(5))
    jobs = attend_jobs(ARCH, program, Memory({0: image}))
    options = {"address": address, "attend": jobs, "event_limit": EVENT_LIMIT}
    runs = [run_model(ARCH, program, every_cycle=every, **options) for every in (False, True)]
    assert runs[0].counters == runs[1].counters
    assert (runs[0].events == runs[1].events).all()


def test_what_the_model_cannot_follow():
    draft, _ = fixed_job()
    _, program, _ = assembled(draft)
    with pytest.raises(ProgramError, match=r"^the program has 1 jobs of ATTEND, facts of 0 are given$"):
        run_model(ARCH, program)
    with pytest.raises(ProgramError, match=r"^instruction 0 is an ATTEND of job 0, facts are of RESET$"):
        run_model(ARCH, program, attend=[ModelService(Job.RESET)])
    other = encode(command(Opcode.ATTEND, job=Job.RESET))
    with pytest.raises(ProgramError, match=r"^instruction 0 is ATTEND, but tiny has no attention engine$"):
        run_model(load("tiny"), other)
    assert run_model(ARCH, other, attend=[ModelService(Job.RESET)]).counters["BUSY_ATTEND"] == 4

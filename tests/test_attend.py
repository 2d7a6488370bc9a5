"""ATTEND on the Verilated accelerator, beside and between the other engines: memory and status equal golden."""

import numpy as np
import pytest

from hwgen.arch.attention import JOB, JOB_BYTES, KEEP_FRACTION, unpack
from hwgen.arch.commands import command, encode
from hwgen.arch.isa import Cause, Engine, Opcode, Target
from hwgen.arch.registers import FETCH
from hwgen.arch.services import Job
from models.machine import Machine
from models.memory import Memory
from models.races import check_races
from sim.check import check_run, run_golden
from sim.memory import MemoryModel
from sim.random.dependencies import Step
from sim.report import compare
from sim.runner import build
from tests.attend_support import ARCH, PAGE, SIZES, TIMEOUT, Draft, assembled, fixed_job, random_course, run_rtl
from tests.test_end_to_end import random_memory, raw

pytestmark = pytest.mark.verilator


@pytest.fixture(scope="module")
def simulator():
    return build(ARCH)


@pytest.mark.parametrize("number", range(12))
def test_programs_with_attention_equal_golden(simulator, seed, number):
    image, program, address = assembled(random_course(seed + number))
    assert check_races(program, ARCH, Memory({0: image})) is None
    golden = run_golden(ARCH, image, 0, program)
    memory = MemoryModel() if number == 0 else random_memory(np.random.default_rng(seed + number))
    with simulator.power_up() as device:
        run = run_rtl(device, image, program, address, memory=memory)
    comparison = check_run(run, golden, 0)
    assert comparison.equal, f"program {seed + number}, {memory}: {comparison.first}"
    assert run.counters["BUSY_ATTEND"] > 0


# Errors: what the hardware reports is what the golden machine reports, and the next run works.

FAR = 1 << 20
"""No memory is there."""
ATTEND = {"job": Job.ATTENTION}


def with_bytes(draft: Draft, address: int, data: bytes) -> None:
    draft.image[address : address + len(data)] = data


def changed(**fields) -> Draft:
    """A draft whose job has some fields changed."""
    draft, address = fixed_job()
    job = unpack(JOB, bytes(draft.image[address : address + JOB_BYTES])) | fields
    word = place = 0
    for item in JOB:
        word |= job[item.name] << place
        place += item.width
    with_bytes(draft, address, word.to_bytes(JOB_BYTES, "little"))
    return draft


BAD_DESCRIPTORS = {
    "five heads": {"heads": 5},
    "a group that does not divide": {"group": 3, "heads": 4},
    "no queries": {"queries": 0},
    "an odd number of bits": {"key_bits": 7},
    "too many keys": {"keys": SIZES.max_length + 1},
    "keys that the buffer does not hold": {"hold": 1, "head_size": 128, "keys": 64},
    "a plane in the middle of a word": {"v_addr": 2},
    "records in the middle of a beat": {"heads_addr": 8},
    "keys where there is no memory": {"k_addr": FAR},
    "keys beyond all addresses": {"k_addr": 1 << 40},
    "records where there is no memory": {"heads_addr": FAR},
    "outputs where there is no memory": {"out_addr": FAR},
    "outputs beyond all addresses": {"out_addr": 1 << 40},
}
BAD_INSTRUCTIONS = {
    "no job": raw(Opcode.ATTEND, job=8),
    "token for itself": raw(Opcode.ATTEND, signal=1 << Engine.ATTEND),
    "token for an engine in between that is absent": raw(Opcode.ATTEND, signal=1 << Engine.FILL),
    "token for nobody": raw(Opcode.LOAD, beats=1, wait=1 << 6),
    "descriptor in the middle of a beat": raw(Opcode.ATTEND, addr=8),
    "descriptor beyond all addresses": raw(Opcode.ATTEND, addr=1 << 32),
    "reset in the middle of a beat": raw(Opcode.ATTEND, job=Job.RESET, addr=8),
    "descriptor where there is no memory": raw(Opcode.ATTEND, addr=FAR),
    "zeros for a descriptor": raw(Opcode.ATTEND, addr=0),
    "FILL with one port": raw(Opcode.FILL, beats=2),
}


def error_of(image, program):
    error = run_golden(ARCH, image, 0, program).error
    return error.cause, error.engine, error.pc


def status_of(run):
    status = run.status
    return status.cause, FETCH if status.engine is None else status.engine, status.pc


def run_after(device) -> None:
    """A run of a whole job on a device that has met an error; equal to golden."""
    draft, _ = fixed_job()
    draft.steps.insert(0, Step(command(Opcode.ATTEND, job=Job.RESET)))
    image, program, address = assembled(draft)
    run = run_rtl(device, image, program, address)
    assert check_run(run, run_golden(ARCH, image, 0, program), 0).equal


@pytest.mark.parametrize("what", BAD_DESCRIPTORS)
def test_a_bad_descriptor_stops_the_run_as_golden_says(simulator, what):
    image, program, address = assembled(changed(**BAD_DESCRIPTORS[what]))
    with simulator.power_up() as device:
        run = run_rtl(device, image, program, address, memory=MemoryModel(stalls=0.1))
        assert status_of(run) == error_of(image, program)
        run_after(device)


@pytest.mark.parametrize("what", BAD_INSTRUCTIONS)
def test_a_bad_instruction_stops_the_run_as_golden_says(simulator, what):
    good = encode(command(Opcode.ATTEND, job=Job.RESET))
    program = good + good + BAD_INSTRUCTIONS[what] + good
    draft = Draft(np.random.default_rng(1))
    draft.put(bytes(PAGE))
    address = draft.put(program)
    image = np.frombuffer(bytes(draft.image), np.uint8)
    with simulator.power_up() as device:
        run = run_rtl(device, image, program, address, memory=MemoryModel(stalls=0.1))
        assert status_of(run) == error_of(image, program)
        run_after(device)


@pytest.mark.parametrize("place", ["q", "k", "v", "heads", "out"])
def test_an_error_answer_stops_a_job_in_its_course(simulator, place):
    draft, descriptor = fixed_job(hold=0, value_keep=1 << KEEP_FRACTION)
    job = unpack(JOB, bytes(draft.image[descriptor : descriptor + JOB_BYTES]))
    bad = job[f"{place}_addr"] + 40
    image, program, address = assembled(draft)
    with simulator.power_up() as device:
        memory = MemoryModel(stalls=0.1, error_range=(bad, bad + 1))
        run = run_rtl(device, image, program, address, memory=memory)
        cause = Cause.WRITE_RESPONSE if place == "out" else Cause.READ_RESPONSE
        assert status_of(run) == (cause, Engine.ATTEND, 0)
        run_after(device)


@pytest.mark.parametrize("delay", range(0, 400, 25))
def test_an_error_elsewhere_gives_a_job_up(simulator, delay):
    """The bad LOAD comes `delay` beats of other LOADs after the job has begun; what was announced is completed."""
    draft, _ = fixed_job(hold=0, queries=2)
    attend = draft.steps[0].command
    waits = [command(Opcode.LOAD, beats=delay, target=Target.WGT)] if delay else []
    program = b"".join(map(encode, (attend, *waits, command(Opcode.LOAD, beats=1, dram_addr=8))))
    address = draft.put(program)
    image = np.frombuffer(bytes(draft.image), np.uint8)
    with simulator.power_up() as device:
        run = run_rtl(device, image, program, address, memory=MemoryModel(stalls=0.1, seed=delay))
        assert status_of(run) == (Cause.MEMORY_ALIGNMENT, Engine.LOAD, 1 + len(waits))
        run_after(device)


def test_importance_goes_on_from_run_to_run(simulator):
    draft, _ = fixed_job(forget=256)
    image, program, address = assembled(draft)
    machine = Machine(ARCH, {0: image})
    with simulator.power_up() as device:
        for _ in range(2):
            run = run_rtl(device, image, program, address)
            machine.run(program)
            assert compare(run.memory, machine.memory.read(0, image.size), 0).equal


def test_a_token_that_never_comes_trips_the_watchdog(simulator):
    draft, address = fixed_job()
    program = encode(command(Opcode.ATTEND, **ATTEND, addr=address)) * 2
    program += encode(command(Opcode.ATTEND, **ATTEND, addr=address, wait=1 << Engine.STORE))
    place = draft.put(program)
    with simulator.power_up() as device:
        run = run_rtl(device, np.frombuffer(bytes(draft.image), np.uint8), program, place, watchdog=400)
    assert status_of(run) == (Cause.WATCHDOG, Engine.ATTEND, 2)


def test_both_ports_work_side_by_side(simulator):
    """A job and a LOAD that need nothing of each other take hardly longer than the job alone."""
    alone, _ = fixed_job(hold=0, queries=8)
    attend = encode(alone.steps[0].command)
    both = attend + encode(command(Opcode.LOAD, target=Target.WGT, beats=600))
    place = alone.put(both)
    image = np.frombuffer(bytes(alone.image), np.uint8)
    runs = [simulator.run(image, program=place, count=count, timeout_cycles=TIMEOUT) for count in (1, 2)]
    assert runs[0].counters["BUSY_ATTEND"] > 600
    assert runs[1].cycles - runs[0].cycles < 20
    assert runs[1].counters["READ_BEATS"] == runs[0].counters["READ_BEATS"] + 600 + 2
    assert runs[0].counters["WRITE_BEATS"] == runs[1].counters["WRITE_BEATS"] > 0

"""The cycle model against RTL: every counter, every state, every event; and against itself without skipping."""

import re
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from hwgen.arch import INSTRUCTION_BYTES, ProgramError, load
from hwgen.arch.commands import command, encode
from hwgen.arch.config import Reducer
from hwgen.arch.isa import Dataflow, Engine, Opcode, Target
from models.zoo import build as build_model
from scheduler.lower import compile_module
from scheduler.options import Options, Pattern, SparsityPolicy
from sim.cycles import CycleDevice, run_model
from sim.device import STATE, SimulationError
from sim.gemm import Case, product
from sim.memory import MemoryModel
from sim.random.programs import random_program
from sim.runner import EVENT_LIMIT, build, run_on

TIMEOUT = 2_000_000
PROGRAMS = 60
"""Random programs for each architecture."""


def arch_of(name):
    """A preset, or `tiny` with two result words a cycle and the other reducer."""
    if name != "tiny_two":
        return load(name)
    arch = load("tiny")
    return replace(arch, name=name, array=replace(arch.array, drain=2), reducer=Reducer(style="parallel"))


def memory_of(number):
    """One memory after the other: as it is by default, slow, far away, disturbed regularly, disturbed at random."""
    rng = np.random.default_rng(number)
    kinds = (
        {},
        {"bandwidth": Fraction(int(rng.integers(1, 40)), int(rng.integers(1, 4)))},
        {"read_latency": int(rng.integers(1, 300)), "write_latency": int(rng.integers(1, 200))},
        {"outstanding": int(rng.integers(1, 5)), "read_latency": int(rng.integers(1, 40))},
        {"stall_every": int(rng.integers(2, 9)), "bandwidth": Fraction(17, 2)},
        {"stalls": tuple(float(c) for c in rng.choice([0.0, 0.1, 0.3, 0.7], 5)), "seed": number},
    )
    return MemoryModel(**kinds[number % len(kinds)])


def rushed(program):
    """The same program without tokens: engines get in each other's way as much as they can, data do not matter."""
    encoded = b"".join(encode(command(item.opcode, **item.operands)) for item in program.commands)
    image, start = program.image.copy(), program.program - program.base
    image[start : start + len(encoded)] = np.frombuffer(encoded, np.uint8)
    return image, encoded


def difference(run, model):
    """What is not equal, as text: counters, then the first event that differs."""
    counters = {name: (run.counters[name], model.counters[name]) for name in run.counters}
    found = [f"{name} {a} != {b}" for name, (a, b) in counters.items() if a != b]
    for first, second in zip(run.events, model.events):
        if first != second:
            return "; ".join([*found, f"first event {describe(first)} != {describe(second)}"])
    if len(run.events) != len(model.events):
        found.append(f"{len(run.events)} != {len(model.events)} events")
    if not np.array_equal(run.states, model.states):
        found.append(f"states {run.states.tolist()} != {model.states.tolist()}")
    return "; ".join(found)


def describe(event):
    kind = ("state", "issue", "done")[event["kind"]]
    return f"{Engine(event['engine']).name} {kind} {event['state']} at {event['cycle']} for {event['length']}"


def assert_equal(simulator, image, encoded, *, base, address, memory, about=""):
    """Run on RTL and on the model: all that a run tells must be equal, the cycles of the watching host included."""
    count = len(encoded) // INSTRUCTION_BYTES
    options = {"memory": memory, "timeout_cycles": TIMEOUT}
    run = simulator.run(image, base=base, program=address, count=count, **options)
    assert run.status.ok, run.status
    model = run_model(simulator.arch, encoded, address=address, event_limit=EVENT_LIMIT, **options)
    assert run.cycles == model.cycles, f"{about}: {run.cycles} cycles, model {model.cycles}: {difference(run, model)}"
    assert not difference(run, model), f"{about}: {difference(run, model)}"
    assert model.dropped_events == run.dropped_events == 0


@pytest.fixture(scope="module", params=["tiny", "tiny2", "tiny_two"])
def simulator(request):
    return build(arch_of(request.param))


@pytest.mark.verilator
@pytest.mark.parametrize("rush", [False, True], ids=["ordered", "rushed"])
def test_random_programs_take_the_cycles_of_rtl(simulator, rush, seed):
    for number in range(seed, seed + PROGRAMS):
        program, memory = random_program(simulator.arch, number), memory_of(number)
        image, encoded = rushed(program) if rush else (program.image, program.encoded)
        where = {"base": program.base, "address": program.program, "about": f"program {number}, {memory}"}
        assert_equal(simulator, image, encoded, memory=memory, **where)


@pytest.mark.verilator
@pytest.mark.parametrize("dataflow", ["os", "ws"])
@pytest.mark.parametrize("pattern", [None, Pattern(2, 8)], ids=str)
def test_scheduled_networks_take_the_cycles_of_rtl(simulator, dataflow, pattern):
    module, examples = build_model("residual_mlp")
    options = Options(sparsity=SparsityPolicy(pattern), dataflow=dataflow)
    program = compile_module(module, examples, simulator.arch, options)
    image = program.image({port.name: examples[0].numpy() for port in program.inputs})
    for memory in (MemoryModel(), MemoryModel(bandwidth=Fraction(5)), MemoryModel(stalls=0.2, seed=4)):
        assert_equal(simulator, image, program.encode(), base=0, address=program.program_address, memory=memory)


@pytest.mark.verilator
@pytest.mark.slow
@pytest.mark.parametrize("dataflow", Dataflow, ids=lambda flow: flow.name)
def test_larger_products_take_the_cycles_of_rtl(dataflow):
    simulator = build(load("sat16"))
    for sparse in (False, True):
        image, commands = product(simulator.arch, Case(256, dataflow, sparse))
        encoded = b"".join(map(encode, commands))
        assert_equal(simulator, image, encoded, base=0, address=0, memory=MemoryModel(), about=f"sparse {sparse}")


@pytest.mark.verilator
@pytest.mark.slow
def test_random_programs_on_a_larger_array_take_the_cycles_of_rtl(seed):
    simulator = build(load("sat16"))
    for number in range(seed, seed + 6):
        program = random_program(simulator.arch, number)
        where = {"base": program.base, "address": program.program, "about": f"program {number}"}
        assert_equal(simulator, program.image, program.encoded, memory=memory_of(number), **where)


@pytest.mark.parametrize("name", ["tiny", "tiny2", "tiny_two", "sat16"])
def test_skipping_changes_nothing(name, seed):
    arch = arch_of(name)
    for number in range(seed, seed + 60):
        program, memory = random_program(arch, number), memory_of(number)
        options = {"address": program.program, "memory": memory, "event_limit": EVENT_LIMIT}
        for encoded in (program.encoded, rushed(program)[1]):
            patient = run_model(arch, encoded, every_cycle=True, **options)
            swift = run_model(arch, encoded, **options)
            assert not difference(patient, swift), f"program {number}, {memory}: {difference(patient, swift)}"


@pytest.mark.verilator
def test_runs_of_one_device_take_the_cycles_of_rtl(simulator, seed):
    with simulator.power_up() as rtl, CycleDevice(simulator.arch) as model:
        for number in range(seed, seed + 20):
            program, memory = random_program(simulator.arch, number), memory_of(number)
            options = {"memory": memory, "timeout_cycles": TIMEOUT}
            place = {"base": program.base, "program": program.program, "count": len(program.commands)}
            run = run_on(rtl, program.image, **place, **options)
            result = model.run(program.encoded, address=program.program, event_limit=EVENT_LIMIT, **options)
            assert not difference(run, result), f"program {number}, {memory}: {difference(run, result)}"


@pytest.mark.verilator
def test_a_program_of_nothing(simulator):
    assert_equal(simulator, np.zeros(4096, np.uint8), b"", base=0, address=0, memory=MemoryModel())


def test_a_long_program():
    copy = command(Opcode.VECTOR, x_addr=1, d_addr=2)
    count = 200_000
    result = run_model(load("tiny"), encode(copy) * count)
    assert result.counters["READ_BEATS"] == count * INSTRUCTION_BYTES // load("tiny").beat_bytes
    assert result.counters["BUSY_VECTOR"] == result.states[Engine.VECTOR, 1] + result.states[Engine.VECTOR, 3]


def test_events_are_kept_up_to_the_limit():
    program = random_program(load("tiny"), 1).encoded
    everything = run_model(load("tiny"), program, event_limit=EVENT_LIMIT)
    some, none = run_model(load("tiny"), program, event_limit=10), run_model(load("tiny"), program)
    assert (len(some.events), some.dropped_events) == (10, len(everything.events) - 10)
    assert (len(none.events), none.dropped_events) == (0, len(everything.events))
    alone = run_model(load("tiny"), program, event_limit=EVENT_LIMIT, state_events=False)
    assert np.array_equal(alone.events, everything.events[everything.events["kind"] != STATE])
    assert len(alone.events) == 2 * len(program) // INSTRUCTION_BYTES


def test_a_program_that_hangs_says_what_it_waits_for():
    to_tensor, to_vector = 1 << Engine.TENSOR, 1 << Engine.VECTOR
    program = [
        command(Opcode.LOAD, target=Target.ACC16, beats=1),
        command(Opcode.VECTOR, wait=to_tensor),
        command(Opcode.STORE, wait=to_tensor | to_vector),
    ]
    message = (
        r"^the program hangs in cycle \d+: instruction 1 \(VECTOR\) waits for a token of tensor; "
        r"instruction 2 \(STORE\) waits for a token of tensor and vector$"
    )
    with pytest.raises(SimulationError, match=message):
        run_model(load("tiny"), b"".join(map(encode, program)), timeout_cycles=10_000)


def test_a_program_that_does_not_end_in_time():
    program = encode(command(Opcode.LOAD, target=Target.ACT_ROWS, rows=50, beats=4, stride=4))
    with pytest.raises(
        SimulationError, match=r"^the program has not ended in cycle 100: instruction 0 \(LOAD\) is not"
    ):
        run_model(load("tiny"), program, timeout_cycles=100)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (bytes(32), "instruction 1: no instruction has opcode 0"),
        (b"\x02" + bytes(31), "instruction 1: TENSOR.tile_cols must be at least 1"),
        (b"\x06" + bytes(31), "instruction 1 is ATTEND, but tiny has no attention engine"),
        (bytes(8), "40 bytes are no whole number of instructions of 32 bytes"),
    ],
)
def test_programs_that_cannot_run(broken, message):
    with pytest.raises(ProgramError, match=f"^{re.escape(message)}$"):
        run_model(load("tiny"), encode(command(Opcode.VECTOR)) + broken)

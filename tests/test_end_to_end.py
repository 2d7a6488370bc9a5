"""Random programs on the Verilated accelerator, with a memory that stalls at random: every word equals golden."""

from fractions import Fraction

import numpy as np
import pytest

from hwgen.arch import INSTRUCTION_BYTES, load
from hwgen.arch.commands import command, encode
from hwgen.arch.isa import TABLE, Cause, Dataflow, Engine, Opcode, Target
from hwgen.arch.registers import FETCH, TensorState
from models.machine import Machine
from models.memory import Memory
from sim.check import check_run, run_golden
from sim.memory import MemoryModel
from sim.random.programs import random_program
from sim.report import compare
from sim.runner import build, run_on
from tests.hwgen.tensor_tiles import draining_two

pytestmark = pytest.mark.verilator
TIMEOUT = 400_000
ARCHES = (load("tiny"), load("tiny2"), draining_two("tiny"), load("sat16"))
PROGRAMS = dict(zip((arch.name for arch in ARCHES), (30, 20, 20, 4), strict=True))
"""Random programs for each architecture; more than 50 in all."""


@pytest.fixture(scope="module", params=ARCHES, ids=list(PROGRAMS))
def simulator(request):
    return build(request.param)


@pytest.fixture(scope="module")
def tiny():
    return build(load("tiny"))


def random_memory(rng):
    """A memory with random latencies and disturbances."""
    return MemoryModel(
        read_latency=int(rng.integers(1, 60)),
        write_latency=int(rng.integers(1, 40)),
        outstanding=int(rng.integers(1, 20)),
        bandwidth=[None, None, Fraction(7, 2), Fraction(40)][rng.integers(4)],
        stalls=tuple(float(chance) for chance in rng.choice([0.0, 0.0, 0.2, 0.6], 5)),
        stall_every=int(rng.choice([0, 0, 2, 7])),
        seed=int(rng.integers(1 << 30)),
    )


def place_of(program):
    return {
        "base": program.base,
        "program": program.program,
        "count": len(program.commands),
        "timeout_cycles": TIMEOUT,
    }


def test_random_programs_equal_golden(simulator, seed):
    """One after the other: every program but the first finds on chip what the ones before have left."""
    machine = Machine(simulator.arch, 1)
    with simulator.power_up() as device:
        for number in range(PROGRAMS[simulator.arch.name]):
            program = random_program(simulator.arch, seed + number)
            memory = random_memory(np.random.default_rng(seed + number))
            machine.state.memory = Memory({program.base: program.image})
            result = machine.run(program.encoded)
            run = run_on(device, program.image, **place_of(program), memory=memory)
            about = f"program {seed + number}, {memory}"
            assert run.status.ok, f"{about}: {run.status}"
            comparison = compare(run.memory, machine.memory.read(program.base, program.image.size), program.base)
            assert comparison.equal, f"{about}: {comparison.first}"
            assert sum(run.counters[f"TENSOR_{s.name}"] for s in TensorState) == run.cycles
            assert run.counters["TENSOR_BUSY"] == result.beats


def test_disturbed_and_undisturbed_runs_leave_the_same_memory(tiny, seed):
    program = random_program(tiny.arch, seed)
    memories = (MemoryModel(), MemoryModel(stalls=0.5))
    images = [tiny.run(program.image, **place_of(program), memory=memory).memory for memory in memories]
    assert (images[0] == images[1]).all()


@pytest.mark.parametrize("reset", [False, True])
def test_scratchpads_keep_their_contents_from_run_to_run(tiny, reset):
    load_word = command(Opcode.LOAD, target=Target.ACC32, beats=2, addr=5, dram_addr=0)
    store_word = command(Opcode.STORE, addr=5, words=1, lanes=4, dram_addr=64)
    with tiny.power_up() as device:
        images = []
        for item in (load_word, store_word):
            image = np.zeros(4096, np.uint8)
            image[:16] = np.arange(16) if item is load_word else 0
            image[1024:1056] = np.frombuffer(encode(item), np.uint8)
            images.append(run_on(device, image, program=1024, count=1, timeout_cycles=TIMEOUT).memory)
            if reset:
                device.reset()
    assert (images[1][64:80] == np.arange(16)).all()


def test_a_tensor_that_waits_for_indices_reads_the_last_of_them(tiny):
    """They are written one by one behind the end of the LOAD; the weights that stay in the array are read first."""
    image, rng = np.zeros(4096, np.uint8), np.random.default_rng(1)
    image[: 5 * 8] = rng.standard_normal(20).astype(np.float16).view(np.uint8)
    image[4 * 8 : 5 * 8] = 0x21  # indices 1 and 2
    image[64:96] = rng.standard_normal(16).astype(np.float16).view(np.uint8)
    weights = {"sparse": 1, "n": 1, "m": 4, "groups": 1, "wgt_addr": 11, "dataflow": Dataflow.WEIGHT_STATIONARY}
    program = [
        command(Opcode.LOAD, target=Target.ACT_ROWS, rows=4, beats=1, dram_addr=64, row_stride=8),
        command(Opcode.LOAD, target=Target.PACKED, beats=5, addr=8, stride=1, signal=1 << Engine.TENSOR),
        command(Opcode.TENSOR, first=1, last=1, wait=1 << Engine.LOAD, signal=1 << Engine.STORE, **weights),
        command(Opcode.STORE, words=1, lanes=4, dram_addr=128, wait=1 << Engine.TENSOR),
    ]
    encoded = b"".join(map(encode, program))
    image[1024 : 1024 + len(encoded)] = np.frombuffer(encoded, np.uint8)
    run = tiny.run(image, program=1024, count=4, timeout_cycles=TIMEOUT)
    assert check_run(run, run_golden(tiny.arch, image, 0, encoded), 0).equal
    assert run.memory[128:144].any()


# Errors: what the hardware reports is what the golden machine reports, and the next run works.


def raw(opcode, **fields):
    """An instruction whose fields are not checked."""
    word = int.from_bytes(encode(command(opcode)), "little")
    row = TABLE[opcode]
    widths = {item.name: item.width for item in row.fields}
    for name, value in fields.items():
        mask = (1 << widths[name]) - 1
        word = word & ~(mask << row.offsets[name]) | value << row.offsets[name]
    return word.to_bytes(INSTRUCTION_BYTES, "little")


LOAD = {"beats": 1}
OS = {"first": 1, "last": 1}
WS = {"dataflow": 1, "first": 1, "last": 1}
BAD_INSTRUCTIONS = {
    "no opcode": bytes(32),
    "unknown opcode": bytes([77]) + bytes(31),
    "reserved bits": raw(Opcode.LOAD, reserved=1, **LOAD),
    "token for itself": raw(Opcode.LOAD, signal=1, **LOAD),
    "token for nobody": raw(Opcode.STORE, signal=1 << 4, words=1, lanes=1),
    "no target": raw(Opcode.LOAD, target=9, **LOAD),
    "no rows": raw(Opcode.LOAD, rows=0, **LOAD),
    "nothing to load": raw(Opcode.LOAD, beats=0),
    "half an accumulator word": raw(Opcode.LOAD, target=4, beats=3),
    "index words out of step": raw(Opcode.LOAD, target=3, addr=1, beats=1),
    "load beyond activations": raw(Opcode.LOAD, target=0, addr=255, beats=2),
    "load beyond accumulators": raw(Opcode.LOAD, target=5, addr=1020, rows=3, stride=2, beats=1),
    "load from an odd address": raw(Opcode.LOAD, dram_addr=4, **LOAD),
    "load with an odd stride": raw(Opcode.LOAD, row_stride=12, rows=2, **LOAD),
    "load beyond the address bits": raw(Opcode.LOAD, dram_addr=1 << 40, **LOAD),
    "more kept than there are": raw(
        Opcode.TENSOR, sparse=1, n=5, m=4, tile_cols=1, tile_rows=1, groups=1, rows=1, **OS
    ),
    "group of nothing": raw(Opcode.TENSOR, sparse=1, n=0, m=0, tile_cols=1, tile_rows=1, groups=1, rows=1, **OS),
    "too much interleaving": raw(Opcode.TENSOR, tile_cols=6, tile_rows=3, groups=1, rows=1, **OS),
    "more rows than the tile has": raw(Opcode.TENSOR, tile_cols=1, tile_rows=1, groups=1, rows=5, **OS),
    "ring too small": raw(Opcode.TENSOR, sparse=1, n=1, m=16, tile_cols=1, tile_rows=4, groups=1, rows=1, **OS),
    "weights beyond memory": raw(Opcode.TENSOR, tile_cols=1, tile_rows=1, groups=2, rows=1, wgt_addr=2047, **OS),
    "activations beyond memory": raw(Opcode.TENSOR, tile_cols=1, tile_rows=1, groups=5, rows=1, act_addr=255, **OS),
    "sums beyond memory": raw(Opcode.TENSOR, tile_cols=2, tile_rows=1, groups=1, rows=1, acc_addr=1023, **OS),
    "more groups than rows": raw(Opcode.TENSOR, tile_cols=1, tile_rows=1, groups=5, rows=1, **WS),
    "too many stationary weights": raw(
        Opcode.TENSOR, sparse=1, n=16, m=16, tile_cols=3, tile_rows=1, groups=1, rows=1, **WS
    ),
    "stationary weights in two row blocks": raw(Opcode.TENSOR, tile_cols=1, tile_rows=2, groups=1, rows=1, **WS),
    "stationary weights that are not last": raw(
        Opcode.TENSOR, dataflow=1, first=1, tile_cols=1, tile_rows=1, groups=1, rows=1
    ),
    "vector beyond memory": raw(Opcode.VECTOR, rows=2, words=1, x_addr=1023, x_stride=1),
    "third source beyond memory": raw(Opcode.VECTOR, operation=4, rows=2, words=1, z_addr=1023, z_stride=1),
    "no vector operation": raw(Opcode.VECTOR, operation=15, words=1),
    "shuffle over more columns than there are": raw(Opcode.VECTOR, operation=1, words=1, shuffle=3),
    "shifted numbers": raw(Opcode.VECTOR, operation=1, words=1, shift=1),
    "store beyond memory": raw(Opcode.STORE, words=2, lanes=1, addr=1023),
    "store to an odd address": raw(Opcode.STORE, words=1, lanes=1, dram_addr=12),
    "store format": raw(Opcode.STORE, format=4, words=1, lanes=1),
    "more beats than a row has": raw(Opcode.LOAD, planes=256, beats=256),
    "no planes": raw(Opcode.LOAD, planes=0, **LOAD),
    "planes beyond activations": raw(Opcode.LOAD, planes=129, beats=2),
    "planes an odd number of bytes apart": raw(Opcode.LOAD, plane_stride=4, **LOAD),
    "chunks beyond activations": raw(Opcode.LOAD, target=1, chunk_log2=3, beats=10, stride=255),
    "columns beyond weights": raw(Opcode.LOAD, target=6, rows=3, beats=2, stride=2046),
    "packed columns in part": raw(Opcode.LOAD, target=7, beats=6),
    "packed columns beyond weights": raw(Opcode.LOAD, target=7, beats=10, addr=2041, stride=1),
    "curve beyond the table": raw(Opcode.LOAD, target=8, rows=3, beats=2, stride=32),
    "vector with a curve beyond the table": raw(Opcode.VECTOR, operation=14, words=1, y_addr=64, y_stride=2),
    "vector with a curve that begins anywhere": raw(Opcode.VECTOR, operation=14, words=1, y_addr=2, y_stride=4),
    "curve of nothing": raw(Opcode.VECTOR, operation=14, words=1),
    "curve with a shift to the right": raw(Opcode.VECTOR, operation=14, words=1, y_stride=4, right=1),
    "no walk": raw(Opcode.TENSOR, walk=3, run=1, col_run=1, tile_cols=1, tile_rows=1, groups=1, rows=1, **OS),
    "walk without runs": raw(Opcode.TENSOR, walk=1, tile_cols=1, tile_rows=1, groups=1, rows=1, **OS),
    "walk over no columns": raw(Opcode.TENSOR, walk=2, run=1, tile_cols=1, tile_rows=1, groups=1, rows=1, **OS),
    "walk of stationary weights": raw(Opcode.TENSOR, walk=1, run=1, tile_cols=1, tile_rows=1, groups=1, rows=1, **WS),
    "walk beyond activations": raw(
        Opcode.TENSOR, walk=1, run=8, jump=75, tile_cols=1, tile_rows=1, groups=128, rows=1, **OS
    ),
    "walk beyond weights": raw(
        Opcode.TENSOR, walk=2, run=2, jump=100, step=100, col_run=4, tile_cols=1, tile_rows=1, groups=15, rows=1, **OS
    ),
    "columns of a walk beyond weights": raw(
        Opcode.TENSOR, walk=2, run=1, col_run=1, col_jump=1024, tile_cols=3, tile_rows=1, groups=1, rows=1, **OS
    ),
    "shift to the right of a number": raw(Opcode.VECTOR, operation=8, right=1, rows=1, words=1, y_addr=9),
    "held source beyond memory": raw(Opcode.VECTOR, rows=2, words=1, x_addr=1, x_stride=1023, x_hold=1, d_addr=9),
    "transposed sums": raw(Opcode.STORE, transpose=1, rows=4, words=1, lanes=1),
    "two blocks of columns at once": raw(Opcode.STORE, format=1, transpose=1, rows=8, words=1, lanes=1),
    "part of a block of columns": raw(Opcode.STORE, format=2, transpose=1, rows=6, words=1, lanes=1),
    "packed with nothing kept": raw(Opcode.STORE, format=3, rows=4, words=1, lanes=1, n=0, m=4),
    "part of a group": raw(Opcode.STORE, format=3, rows=6, words=1, lanes=1, n=2, m=4),
}


def place(instructions, size=1 << 14):
    """A memory image with the program at address 8192."""
    image = np.zeros(size, np.uint8)
    code = b"".join(instructions)
    image[8192 : 8192 + len(code)] = np.frombuffer(code, np.uint8)
    return image


GOOD = encode(command(Opcode.LOAD, beats=2))


def run_with_a_bad_instruction(design, good, bad):
    """(cause, engine, pc) of the hardware and of the golden machine, and the status of a good run afterwards."""
    instructions = [good, good, bad, good]
    error = run_golden(design.arch, place(instructions), 0, b"".join(instructions)).error
    with design.power_up() as device:
        options = {"program": 8192, "timeout_cycles": TIMEOUT, "memory": MemoryModel(stalls=0.1)}
        status = run_on(device, place(instructions), count=4, **options).status
        after = run_on(device, place([good]), count=1, **options).status
    engine = FETCH if status.engine is None else status.engine
    return (status.cause, engine, status.pc), (error.cause, error.engine, error.pc), after


@pytest.mark.parametrize("what", BAD_INSTRUCTIONS)
def test_a_bad_instruction_stops_the_run_as_golden_says(tiny, what):
    status, error, after = run_with_a_bad_instruction(tiny, GOOD, BAD_INSTRUCTIONS[what])
    assert status == error
    assert after.ok


@pytest.mark.parametrize(
    ("error_range", "cause", "engine", "pc"),
    [
        ((80, 81), Cause.READ_RESPONSE, Engine.LOAD, 1),
        ((520, 521), Cause.WRITE_RESPONSE, Engine.STORE, 2),
        ((8192, 8193), Cause.READ_RESPONSE, None, 0),
    ],
)
def test_an_error_answer_of_the_memory_stops_the_run(tiny, error_range, cause, engine, pc):
    after_load, after_store = 1 << Engine.LOAD, 1 << Engine.STORE
    commands = [
        command(Opcode.LOAD, beats=4),
        command(Opcode.LOAD, beats=4, dram_addr=64, signal=after_store),
        command(Opcode.STORE, words=4, lanes=4, dram_addr=512, wait=after_load),
    ]
    memory = MemoryModel(error_range=error_range)
    image = place(map(encode, commands))
    status = tiny.run(image, program=8192, count=3, memory=memory, timeout_cycles=TIMEOUT).status
    assert (status.cause, status.engine) == (cause, engine)
    if engine is not None:
        assert status.pc == pc


def test_memory_that_is_not_there_stops_the_run(tiny):
    image = place([encode(command(Opcode.LOAD, beats=1, dram_addr=1 << 20))])
    status = tiny.run(image, program=8192, count=1, timeout_cycles=TIMEOUT).status
    assert (status.cause, status.engine, status.pc) == (Cause.READ_RESPONSE, Engine.LOAD, 0)


def test_a_token_that_never_comes_trips_the_watchdog(tiny):
    waiting = command(Opcode.TENSOR, wait=1 << Engine.LOAD, first=1, last=1)
    image = place([GOOD, encode(waiting)])
    run = tiny.run(image, program=8192, count=2, watchdog=300, timeout_cycles=TIMEOUT)
    assert (run.status.cause, run.status.engine, run.status.pc) == (Cause.WATCHDOG, Engine.TENSOR, 1)
    assert run.cycles < 1000


def test_too_many_tokens_are_an_error(tiny):
    giving = encode(command(Opcode.LOAD, beats=1, signal=1 << Engine.STORE))
    image = place([giving] * 20)
    status = tiny.run(image, program=8192, count=20, timeout_cycles=TIMEOUT).status
    assert (status.cause, status.pc) == (Cause.TOKEN_OVERFLOW, 15)


def test_an_empty_program_ends_at_once(tiny):
    run = tiny.run(place([]), program=8192, count=0, timeout_cycles=1000)
    assert run.status.ok
    assert run.cycles < 10

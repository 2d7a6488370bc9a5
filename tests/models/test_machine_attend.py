"""ATTEND of the golden machine: jobs on its memory, importance between them, errors, and what the race check sees."""

import dataclasses

import numpy as np
import pytest

from hwgen.arch import ProgramError, load
from hwgen.arch.attention import JOB, JOB_BYTES, RECORD, RECORD_BYTES, KeyMode, pack, unpack
from hwgen.arch.commands import command
from hwgen.arch.isa import Cause, Engine, Opcode
from hwgen.arch.services import SERVICES, Job, pack_service
from models.attention_engine.row import Plane, attend_row
from models.formats import encode
from models.machine import Machine
from models.machine_state import MachineError, UndefinedResultError
from models.memory import Memory
from models.races import Race, check_races
from tests.models.attention_engine.support import BASES, SPAN, random_layer
from tests.models.support import SEED, program, run, with_mask

ARCH = load("tiny_attention")
SIZES = ARCH.attention
DESCRIPTOR, SERVICE, FREE = 8 * SPAN, 9 * SPAN, 10 * SPAN
ATTEND = command(Opcode.ATTEND, job=Job.ATTENTION, addr=DESCRIPTOR)
RESET = command(Opcode.ATTEND, job=Job.RESET)
SMALL = {"heads": 2, "group": 1, "head_size": 16, "queries": 3, "keys": 20, "key_mode": KeyMode.ROW, "hold": 0}


def layer_of(seed=SEED, **choices):
    return random_layer(np.random.default_rng(seed), **SMALL | choices)


def images(layer, **service):
    """Memory with a layer, its descriptor, one of a service, and free space."""
    found = layer.images(SIZES) | {DESCRIPTOR: pack(JOB, JOB_BYTES, layer.job), FREE: bytes(1 << 16)}
    if service:
        job = service.pop("job")
        found[SERVICE] = pack_service(job, {item.name: item.low for item in SERVICES[job]} | service)
    return found


def outputs(machine, layer):
    job = layer.job
    size = job["heads"] * job["head_size"] * 2
    return machine.memory.read_rows(job["out_addr"], job["queries"], size, job["out_stride"]).view("<u2")


def wanted(layer):
    """Outputs of every row, [queries, heads x D], row by row."""
    job, found = layer.job, []
    planes = [plane_of(layer, name) for name in ("key", "value")]
    for query in range(job["queries"]):
        length = min(job["keys"], job["offset"] + query + 1) if job["causal"] else job["keys"]
        for head in range(job["heads"]):
            keys, values = (plane[head].part(slice(0, length)) for plane in planes)
            row = attend_row(
                layer.query[head, query], keys, values, layer.mask[:length], job, layer.records[head], SIZES.max_length
            )
            found.append(encode(row.output, "fp16"))
    return np.array(found).reshape(job["queries"], -1)


def plane_of(layer, name):
    integers = getattr(layer, name)
    if not layer.job[f"{name}_low"]:
        return [Plane(head) for head in integers]
    return [Plane((head - 8 - (head - 8 + 8) % 16 + 8) // 16, (head - 8 + 8) % 16 - 8) for head in integers]


@pytest.mark.parametrize("case", range(4))
def test_outputs_are_in_memory(case):
    layer = layer_of(SEED + case)
    machine = Machine(ARCH, images(layer))
    assert run(machine, ATTEND).instructions == 1
    assert (outputs(machine, layer) == wanted(layer)).all()


def test_rows_of_more_keys_than_the_engine_has_room_for():
    layer = layer_of(keys=2 * SIZES.max_length + 3, key_mode=KeyMode.ALWAYS, masked=0, importance=0)
    machine = Machine(ARCH, images(layer))
    run(machine, ATTEND)
    assert (outputs(machine, layer) == wanted(layer)).all()


def test_importance_goes_on_from_job_to_job_and_from_run_to_run():
    layer = layer_of(importance=1, forget=256, masked=0, causal=0)
    machine = Machine(ARCH, images(layer))
    run(machine, ATTEND)
    once = machine.state.attention.importance.tokens.copy()
    assert once[: layer.job["keys"]].any()
    run(machine, ATTEND)
    assert (machine.state.attention.importance.tokens == 2 * once).all()
    assert machine.state.attention.importance.heads.any()
    run(machine, RESET)
    assert not machine.state.attention.importance.heads.any()


def test_heads_that_a_job_has_pruned_are_skipped_until_a_reset():
    layer = layer_of(importance=1, heads=4)
    machine = Machine(ARCH, images(layer, job=Job.SELECT, score=1, length=4, keep=1, index_addr=FREE))
    run(machine, ATTEND)
    whole = outputs(machine, layer).reshape(-1, 4, 16).copy()
    run(machine, command(Opcode.ATTEND, job=Job.SELECT, addr=SERVICE), ATTEND)
    alive = machine.state.attention.importance.alive
    assert alive.sum() == 1
    after = outputs(machine, layer).reshape(-1, 4, 16)
    assert (after[:, alive] == whole[:, alive]).all()
    assert not after[:, ~alive].any()
    run(machine, RESET, ATTEND)
    assert (outputs(machine, layer).reshape(-1, 4, 16) == whole).all()


def stopped(layer, *, item=ATTEND, memory=None, change=None):
    """Cause of a run of `item`, after a descriptor field is changed."""
    held = memory or images(layer)
    if change:
        data = {**unpack(JOB, held[DESCRIPTOR]), **change}
        held[DESCRIPTOR] = sum(
            data[name] << place for name, place in _places(JOB).items()
        ).to_bytes(JOB_BYTES, "little")  # fmt: skip
    with pytest.raises(MachineError) as caught:
        run(Machine(ARCH, held), command(Opcode.VECTOR), item)
    assert (caught.value.engine, caught.value.pc) == (Engine.ATTEND, 1)
    return caught.value.cause


def _places(fields):
    places, place = {}, 0
    for item in fields:
        places[item.name] = place
        place += item.width
    return places


BAD = [
    {"heads": 5},
    {"heads": 0},
    {"group": 3},
    {"head_size": 24},
    {"queries": 0},
    {"keys": SIZES.max_length + 1},
    {"query_bits": 5},
    {"hold": 1, "keys": 64, "head_size": 128},
    {"q_addr": 2},
    {"out_stride": 98},
    {"heads_addr": 8},
    {"value_keep": 0},
]


@pytest.mark.parametrize("change", BAD, ids=str)
def test_bad_descriptors(change):
    assert stopped(layer_of(), change=change) is Cause.BAD_DESCRIPTOR


def test_descriptors_of_services_are_checked():
    layer = layer_of()
    memory = images(layer, job=Job.TOPK, length=4, k=5, src_addr=FREE, index_addr=FREE, value_addr=FREE)
    item = command(Opcode.ATTEND, job=Job.TOPK, addr=SERVICE)
    assert stopped(layer, item=item, memory=memory) is Cause.BAD_DESCRIPTOR


@pytest.mark.parametrize("addr", [8, 1 << 32])
def test_address_of_a_descriptor(addr):
    item = command(Opcode.ATTEND, job=Job.RESET, addr=addr)
    assert stopped(layer_of(), item=item) is Cause.MEMORY_ALIGNMENT


@pytest.mark.parametrize(("part", "cause"), [("k", Cause.READ_RESPONSE), ("out", Cause.WRITE_RESPONSE)])
def test_missing_memory(part, cause):
    layer = layer_of()
    memory = images(layer)
    del memory[BASES[part] * SPAN]
    assert stopped(layer, memory=memory) is cause


def test_missing_descriptor():
    item = command(Opcode.ATTEND, job=Job.ATTENTION, addr=11 * SPAN)
    assert stopped(layer_of(), item=item) is Cause.READ_RESPONSE


def test_record_out_of_its_range_is_undefined():
    layer = layer_of()
    memory = images(layer)
    memory[layer.job["heads_addr"]] = pack(RECORD, RECORD_BYTES, layer.records[0]) + bytes(RECORD_BYTES)
    with pytest.raises(UndefinedResultError, match="record of head 1, scale_mantissa must be in"):
        run(Machine(ARCH, memory), ATTEND)


def test_without_the_engine_there_is_no_attend():
    plain = dataclasses.replace(ARCH, attention=None)
    with pytest.raises(MachineError) as caught:
        run(Machine(plain, 64), RESET)
    assert caught.value.cause is Cause.BAD_OPCODE


def test_tokens_name_engines_that_exist():
    run(Machine(ARCH, 64), command(Opcode.LOAD, beats=1, signal=1 << Engine.ATTEND))
    for mask, text in ((1 << Engine.FILL, r"engines that exist \(0x2f\)"), (1 << 6, r"other engines \(bits 0x3e\)")):
        with pytest.raises(MachineError, match=f"BAD_FIELD: LOAD.signal mask must name {text}"):
            Machine(ARCH, 64).run(with_mask(command(Opcode.LOAD, beats=1), "signal", mask))


def races(memory, *items):
    return check_races(program(*items), ARCH, Memory(memory))


def store(addr, **tokens):
    return command(Opcode.STORE, format=1, rows=1, words=1, lanes=8, dram_addr=addr, **tokens)


def fetch(addr, **tokens):
    return command(Opcode.LOAD, rows=1, beats=1, dram_addr=addr, **tokens)


WAITS = dataclasses.replace(ATTEND, wait=1 << Engine.STORE)


@pytest.mark.parametrize("part", ["q", "k", "k_low", "v", "v_low", "mask", "heads"])
def test_what_attention_reads_must_be_stored_before(part):
    layer = layer_of(key_low=1, value_low=1, value_mode=2, masked=1)
    memory, addr = images(layer), layer.job[f"{part}_addr"]
    assert races(memory, store(addr), ATTEND) == Race(0, 1, "dram", addr)
    assert races(memory, store(addr, signal=1 << Engine.ATTEND), WAITS) is None


def test_what_attention_writes_must_be_loaded_after():
    layer = layer_of()
    addr = layer.job["out_addr"] + layer.job["out_stride"]
    signal = dataclasses.replace(ATTEND, signal=1 << Engine.LOAD)
    assert races(images(layer), ATTEND, fetch(addr)) == Race(0, 1, "dram", addr)
    assert races(images(layer), signal, fetch(addr, wait=1 << Engine.ATTEND)) is None


def test_gathered_rows_are_those_that_a_selection_may_list():
    layer = layer_of()
    memory = images(layer, job=Job.SELECT, length=10, keep=5, index_addr=FREE)
    gather = {"rows": 5, "row_beats": 1, "index_addr": FREE, "src_addr": FREE + 0x1000, "src_stride": 16}
    memory[SERVICE + 0x1000] = pack_service(Job.GATHER, gather | {"dst_addr": FREE + 0x2000, "dst_stride": 16})
    select = command(Opcode.ATTEND, job=Job.SELECT, addr=SERVICE)
    item = command(Opcode.ATTEND, job=Job.GATHER, addr=SERVICE + 0x1000)
    assert races(memory, store(FREE + 0x1090), select, item) == Race(0, 2, "dram", FREE + 0x1090)
    assert races(memory, store(FREE + 0x10A0), select, item) is None
    # The list in memory is zeros: row 0 alone.
    assert races(memory, store(FREE + 0x1010), item) is None
    assert races(memory, store(FREE + 0x2010), item) == Race(0, 1, "dram", FREE + 0x2010)


def test_descriptors_stay_as_they_are():
    layer = layer_of()
    items = (store(DESCRIPTOR, signal=1 << Engine.ATTEND), WAITS)
    with pytest.raises(ProgramError, match=f"^instruction 0 writes the descriptor at {DESCRIPTOR:#x}$"):
        races(images(layer), *items)
    with pytest.raises(ProgramError, match="the memory must be given"):
        check_races(program(*items), ARCH)
    with pytest.raises(ProgramError, match=r"^the descriptor at 0x0 cannot be followed: heads must be in"):
        races({0: bytes(4096)}, command(Opcode.ATTEND))

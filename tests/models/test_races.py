"""Words that instructions touch, against what the machine really reads and writes; and races found and not found."""

from collections import Counter

import numpy as np
import pytest

from hwgen.arch import ProgramError, UserError
from hwgen.arch.commands import command
from hwgen.arch.isa import Dataflow, Engine, Format, Opcode, Operation, Target, Walk
from models.accesses import memory_rows, scratchpad_accesses
from models.machine import Machine
from models.machine_state import MachineError, UndefinedResultError
from models.races import Race, check_races
from tests.models.support import SEED, arch, normal_operands, program, run

TINY = arch("tiny")
SIZE = 1 << 13
LOAD, TENSOR, VECTOR, STORE, *_ = (1 << engine for engine in Engine)


def random_command(rng: np.random.Generator):
    """An instruction with random fields, most of them legal."""

    def upto(high: int) -> int:
        return int(rng.integers(0, high + 1))

    match rng.integers(0, 4):
        case 0:
            fields = {"target": upto(8), "chunk_log2": upto(6), "addr": 4 * upto(9), "stride": 4 * upto(4)}
            fields |= {"rows": 1 + upto(5), "beats": upto(4), "pad": upto(2), "planes": 1 + upto(3)}
            fields |= {"row_stride": 8 * upto(9), "plane_stride": 8 * upto(20)}
            return command(Opcode.LOAD, dram_addr=8 * upto(99), **fields)
        case 1:
            fields = {"dataflow": upto(1), "sparse": upto(1), "first": upto(1), "last": 1, "n": 1 + upto(3), "m": 4}
            fields |= {"tile_cols": 1 + upto(2), "tile_rows": 1 + upto(1), "groups": 1 + upto(4), "rows": 1 + upto(4)}
            fields |= {
                "act_addr": upto(9),
                "act_stride": upto(9),
                "wgt_addr": upto(30),
                "walk": upto(2),
                "run": upto(4),
            }
            fields |= {"jump": upto(20), "step": upto(9), "col_step": upto(5), "col_run": upto(3), "col_jump": upto(9)}
            return command(Opcode.TENSOR, acc_addr=upto(30), acc_stride=upto(5), **fields)
        case 2:
            fields = {f"{name}_{what}": upto(high) for name in "xyzd" for what, high in (("addr", 90), ("stride", 6))}
            fields |= {f"{name}_hold": upto(1) for name in "xyz"} | {"operation": upto(14), "shuffle": upto(2)}
            return command(Opcode.VECTOR, relu=upto(1), rows=1 + upto(4), words=1 + upto(3), **fields)
        case _:
            fields = {"format": upto(3), "lanes": 1 + upto(3), "addr": upto(50), "stride": upto(6), "m": 1 + upto(3)}
            fields |= {"rows": 1 + upto(4), "words": 1 + upto(3), "transpose": upto(1), "n": 1 + upto(2)}
            return command(Opcode.STORE, dram_addr=8 * upto(99), row_stride=8 * upto(20), **fields)


def fill(machine: Machine, rng: np.random.Generator, keep: dict[str, np.ndarray]) -> None:
    """New random contents everywhere but at the bytes and words in `keep` (masks by memory)."""
    state = machine.state
    words = {
        "act": state.act.reshape(-1, machine.arch.array.cols),
        "wgt": state.wgt,
        "idx": state.idx,
        "acc": state.acc,
        "curve": state.curve,
    }
    for name, pad in words.items():
        fresh = rng.integers(0, 4, pad.shape) if name == "idx" else normal_operands(rng, pad.shape, "fp16")
        pad[~keep[name]] = fresh[~keep[name]]
    data = np.frombuffer(machine.memory.read(0, SIZE), dtype=np.uint8).copy()
    data[~keep["dram"]] = rng.integers(0, 256, SIZE)[~keep["dram"]]
    machine.memory.write(0, data)


def snapshot(machine: Machine) -> dict[str, np.ndarray]:
    state = machine.state
    pads = {"act": state.act.reshape(-1, machine.arch.array.cols), "wgt": state.wgt, "idx": state.idx}
    pads |= {"acc": state.acc, "curve": state.curve}
    found = {name: pad.reshape(len(pad), -1).copy() for name, pad in pads.items()}
    return {**found, "dram": np.frombuffer(machine.memory.read(0, SIZE), dtype=np.uint8)[:, None].copy()}


def masks(item, machine: Machine, writes: bool) -> dict[str, np.ndarray]:
    found = {name: np.zeros(len(pad), dtype=bool) for name, pad in snapshot(machine).items()}
    for access in scratchpad_accesses(item, machine.arch):
        if access.writes == writes:
            found[access.memory][access.words] = True
    rows = memory_rows(item, machine.arch)
    if rows is not None and rows.writes == writes:
        for start in rows.starts():
            found["dram"][start : start + rows.size] = True
    return found


def kind(item) -> str:
    """What `test_accesses_are_what_the_machine_touches` counts."""
    forms = {Opcode.LOAD: ("target", Target), Opcode.STORE: ("format", Format), Opcode.VECTOR: ("operation", Operation)}
    name, choices = forms.get(item.opcode, ("dataflow", Dataflow))
    walk = Walk(item.walk).name if item.opcode is Opcode.TENSOR else ""
    return f"{item.opcode.name} {choices(item.operands[name]).name} {walk}"


def test_accesses_are_what_the_machine_touches():
    rng, executed = np.random.default_rng(SEED), Counter()
    kinds = len(Target) + len(Format) + len(Operation) + len(Walk) + 1
    while len(executed) < kinds or min(executed.values()) < 8:
        item = random_command(rng)
        machine, twin = Machine(TINY, SIZE), Machine(TINY, SIZE)
        fill(machine, rng, {name: np.zeros(len(pad), dtype=bool) for name, pad in snapshot(machine).items()})
        # The twin starts with other contents wherever the instruction neither reads nor writes.
        twin.state.act[:], twin.state.wgt[:] = machine.state.act, machine.state.wgt
        twin.state.idx[:], twin.state.acc[:] = machine.state.idx, machine.state.acc
        twin.state.curve[:] = machine.state.curve
        twin.memory.write(0, machine.memory.read(0, SIZE))
        before = snapshot(machine)
        try:
            run(machine, item)
        except (MachineError, UndefinedResultError):
            continue
        reads, writes = masks(item, machine, False), masks(item, machine, True)
        fill(twin, rng, {name: reads[name] | writes[name] for name in reads})
        run(twin, item)
        executed[kind(item)] += 1
        after, other = snapshot(machine), snapshot(twin)
        for name, pad in after.items():
            assert (pad == before[name])[~writes[name]].all(), f"{item} writes elsewhere in {name}"
            assert (pad == other[name])[writes[name]].all(), f"{item} reads more than {name} is said to be read"


def load_act(addr, **tokens):
    return command(Opcode.LOAD, target=Target.ACT_ROWS, rows=4, beats=2, addr=addr, row_stride=16, **tokens)


def tensor(act_addr, acc_addr=0, **tokens):
    fields = {"first": 1, "last": 1, "tile_cols": 1, "tile_rows": 1, "groups": 8, "rows": 4, "acc_stride": 1}
    return command(Opcode.TENSOR, act_addr=act_addr, acc_addr=acc_addr, **fields, **tokens)


def store(addr, dram_addr=0x1000, **tokens):
    return command(
        Opcode.STORE, rows=4, words=1, lanes=4, stride=1, addr=addr, dram_addr=dram_addr, row_stride=16, **tokens
    )


def races(*items):
    return check_races(program(*items), TINY)


def test_read_after_write_needs_a_token():
    assert races(load_act(0), tensor(1)) == Race(0, 1, "act", 1)
    assert races(load_act(0, signal=TENSOR), tensor(1, wait=LOAD)) is None
    assert races(load_act(0), tensor(2)) is None


def test_write_after_read_needs_a_token():
    loads = [load_act(0, signal=TENSOR), tensor(0, wait=LOAD)]
    assert races(*loads, load_act(1)) == Race(1, 2, "act", 1)
    released = [load_act(0, signal=TENSOR), tensor(0, wait=LOAD, signal=LOAD)]
    assert races(*released, load_act(1, wait=TENSOR)) is None


def test_token_of_an_earlier_instruction_does_not_cover_a_later_one():
    items = [load_act(0, signal=TENSOR), load_act(8), tensor(8, wait=LOAD)]
    assert races(*items) == Race(1, 2, "act", 8)


def test_token_of_a_later_instruction_covers_earlier_ones():
    assert races(load_act(0), load_act(8, signal=TENSOR), tensor(0, wait=LOAD)) is None


def test_order_is_passed_on_through_a_third_engine():
    middle = {"rows": 1, "words": 1, "x_addr": 500, "d_addr": 501}
    relay = command(Opcode.VECTOR, wait=TENSOR, signal=STORE, **middle)
    assert races(tensor(0, signal=VECTOR), relay, store(0, wait=VECTOR)) is None
    silent = command(Opcode.VECTOR, signal=STORE, **middle)
    assert races(tensor(0, signal=VECTOR), silent, store(0, wait=VECTOR)) == Race(0, 2, "acc", 0)


def test_stored_rows_that_are_loaded_again():
    stores = store(0, dram_addr=0x20, signal=LOAD)
    assert races(store(0, dram_addr=0x20), load_act(0)) == Race(0, 1, "dram", 0x20)
    assert races(stores, command(Opcode.LOAD, rows=1, beats=4, dram_addr=0x18, wait=STORE)) is None
    assert races(stores, command(Opcode.LOAD, rows=1, beats=4, dram_addr=0x60)) is None
    assert races(load_act(0), store(100, dram_addr=0x30)) == Race(0, 1, "dram", 0x30)


def test_instructions_of_one_engine_never_race():
    assert races(load_act(0), load_act(0), load_act(1)) is None
    assert check_races(b"", TINY) is None


def test_text_names_both_instructions():
    assert str(Race(3, 7, "acc", 18)) == "instructions 3 and 7 touch word 0x12 of acc in no defined order"


def test_program_that_hangs_is_refused():
    with pytest.raises(ProgramError, match=r"^races cannot be looked for: instruction 0 waits for ever") as caught:
        races(tensor(0, wait=LOAD))
    assert isinstance(caught.value, UserError)

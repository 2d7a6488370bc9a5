"""Every rule of ISA.md that a program can break: cause, engine and instruction index that the machine reports."""

import numpy as np
import pytest

from hwgen.arch import UserError
from hwgen.arch.commands import command
from hwgen.arch.isa import ACC_TARGETS, Cause, Dataflow, Engine, Format, Opcode, Operation, Target, Walk
from hwgen.arch.registers import FETCH
from models.machine import Machine
from models.machine_state import MachineError
from models.memory import BusError, Memory
from tests.models.support import arch, program, with_mask

TINY, TINY2 = arch("tiny"), arch("tiny2")
NOTHING = command(Opcode.VECTOR, rows=1, words=1, d_addr=1)
LOAD = {"rows": 1, "beats": 1}
OS = {"first": 1, "last": 1, "groups": 1, "rows": 1, "tile_cols": 1, "tile_rows": 1}
WS = {**OS, "dataflow": Dataflow.WEIGHT_STATIONARY}
ACT = {"walk": Walk.ACT}
WGT = {"walk": Walk.WGT, "run": 1, "col_run": 4, "col_jump": 1000}
VECTOR = {"rows": 1, "words": 1, "d_addr": 1}
STORE = {"rows": 1, "words": 1, "lanes": 4}
CURVE = {**VECTOR, "operation": Operation.CURVE, "y_stride": 16, "shift": 31}
CHUNKS = {"target": Target.ACT_CHUNKS, "chunk_log2": 3, "rows": 1, "beats": 8}  # a whole round of four banks
FAR = {**LOAD, "dram_addr": (1 << 40) - 64}
PACKED = {**STORE, "format": Format.PACKED, "rows": 3, "n": 1, "m": 3, "stride": 1}
FIELD, RANGE, ALIGN = Cause.BAD_FIELD, Cause.SCRATCHPAD_RANGE, Cause.MEMORY_ALIGNMENT
READ, WRITE = Cause.READ_RESPONSE, Cause.WRITE_RESPONSE

# Each row: opcode, fields that are just legal, the one change that is not, and the cause.
RULES = [
    (Opcode.LOAD, LOAD, {"beats": 0}, FIELD),
    (Opcode.LOAD, {**LOAD, "rows": 5, "beats": 0, "pad": 256}, {"pad": 0, "planes": 9}, FIELD),
    (Opcode.LOAD, {**LOAD, "planes": 256}, {"beats": 256}, FIELD),
    (Opcode.LOAD, {**LOAD, "target": Target.IDX, "stride": 4}, {"addr": 6}, FIELD),
    (Opcode.LOAD, {**LOAD, "target": Target.IDX, "addr": 4}, {"stride": 2}, FIELD),
    (Opcode.LOAD, {**LOAD, "target": Target.ACC32, "pad": 1}, {"pad": 2}, FIELD),
    (Opcode.LOAD, {**LOAD, "target": Target.ACC32, "planes": 2}, {"planes": 3}, FIELD),
    (Opcode.LOAD, {**LOAD, "target": Target.PACKED, "planes": 4, "pad": 1}, {"pad": 2}, FIELD),
    (Opcode.LOAD, {**LOAD, "rows": 4, "stride": 999, "addr": 255}, {"rows": 5}, RANGE),
    (Opcode.LOAD, {**LOAD, "planes": 256}, {"planes": 257}, RANGE),
    (Opcode.LOAD, {**LOAD, "beats": 6, "pad": 250}, {"pad": 251}, RANGE),
    (Opcode.LOAD, {**LOAD, "target": Target.ACT_CHUNKS, "chunk_log2": 1, "addr": 255, "rows": 2}, {"rows": 3}, RANGE),
    (Opcode.LOAD, {**LOAD, "target": Target.ACT_CHUNKS, "chunk_log2": 3, "addr": 255}, {"pad": 1}, RANGE),
    (Opcode.LOAD, {**LOAD, "target": Target.ACT_CHUNKS, "beats": 2, "stride": 255}, {"addr": 1}, RANGE),
    (Opcode.LOAD, {**CHUNKS, "pad": 1, "stride": 255}, {"pad": 2}, RANGE),
    (Opcode.LOAD, {**CHUNKS, "pad": 2, "stride": 1, "addr": 253}, {"addr": 254}, RANGE),
    (Opcode.LOAD, {**CHUNKS, "pad": 2, "stride": 0, "addr": 254}, {"stride": 2}, RANGE),
    # A whole round of chunks of four words goes further than the beginning of a second one.
    (Opcode.LOAD, {**CHUNKS, "chunk_log2": 4, "pad": 9, "stride": 1, "addr": 252}, {"addr": 253}, RANGE),
    (Opcode.LOAD, {**LOAD, "target": Target.WGT, "rows": 2, "stride": 2047}, {"addr": 1}, RANGE),
    (Opcode.LOAD, {**LOAD, "target": Target.COLS, "rows": 3, "beats": 2, "stride": 2045}, {"stride": 2046}, RANGE),
    (Opcode.LOAD, {**LOAD, "target": Target.PACKED, "beats": 10, "addr": 2040, "stride": 1}, {"addr": 2041}, RANGE),
    (Opcode.LOAD, {**LOAD, "target": Target.IDX, "addr": 2044}, {"pad": 1}, RANGE),
    (Opcode.LOAD, {**LOAD, "target": Target.ACC32, "beats": 2, "addr": 1023}, {"pad": 2}, RANGE),
    (Opcode.LOAD, {**LOAD, "target": Target.ACC16, "addr": 1023}, {"addr": 1024}, RANGE),
    (Opcode.LOAD, {**LOAD, "target": Target.CURVE, "rows": 4, "stride": 21}, {"addr": 1}, RANGE),
    (Opcode.LOAD, {**LOAD, "target": Target.CURVE, "addr": 63}, {"pad": 1}, RANGE),
    (Opcode.LOAD, LOAD, {"dram_addr": 4}, ALIGN),
    (Opcode.LOAD, LOAD, {"row_stride": 12}, ALIGN),
    (Opcode.LOAD, LOAD, {"plane_stride": 4}, ALIGN),
    (Opcode.LOAD, {**LOAD, "beats": 0, "pad": 1}, {"dram_addr": 4}, ALIGN),
    (Opcode.LOAD, {**LOAD, "dram_addr": (1 << 40) - 8}, {"beats": 2}, ALIGN),
    (Opcode.LOAD, {**LOAD, "dram_addr": (1 << 40) - 8}, {"dram_addr": 1 << 40}, ALIGN),
    (Opcode.LOAD, {**LOAD, "rows": 2, "dram_addr": (1 << 40) - 64, "row_stride": 56}, {"row_stride": 64}, ALIGN),
    (Opcode.LOAD, {**FAR, "planes": 2, "plane_stride": 56}, {"plane_stride": 64}, ALIGN),
    (Opcode.LOAD, {**FAR, "planes": 2, "plane_stride": 32, "rows": 2, "row_stride": 24}, {"row_stride": 32}, ALIGN),
    (Opcode.LOAD, {**LOAD, "beats": 2, "row_stride": 16}, {"rows": 257}, READ),
    (Opcode.LOAD, {**LOAD, "planes": 2, "plane_stride": 4088}, {"plane_stride": 4096}, READ),
    (Opcode.LOAD, {**LOAD, "dram_addr": 4096 - 8}, {"dram_addr": 4096}, READ),
    (Opcode.TENSOR, {**OS, "sparse": 1, "n": 2, "m": 2}, {"n": 3}, FIELD),
    (Opcode.TENSOR, {**OS, "sparse": 1, "n": 1, "m": 2}, {"n": 0}, FIELD),
    (Opcode.TENSOR, {**OS, "tile_rows": 4, "tile_cols": 4}, {"tile_rows": 5, "act_stride": 0}, FIELD),
    (Opcode.TENSOR, {**OS, "tile_rows": 2, "rows": 8, "acc_stride": 1}, {"rows": 9}, FIELD),
    (Opcode.TENSOR, {**OS, "tile_rows": 2, "sparse": 1, "n": 1, "m": 16}, {"tile_rows": 3}, FIELD),
    (Opcode.TENSOR, {**OS, "groups": 1024}, {"groups": 1025}, RANGE),
    (Opcode.TENSOR, {**OS, "tile_rows": 2, "act_stride": 255}, {"act_addr": 1}, RANGE),
    (Opcode.TENSOR, {**OS, "wgt_addr": 2046, "sparse": 1, "n": 2, "m": 2}, {"wgt_addr": 2047}, RANGE),
    (Opcode.TENSOR, {**OS, "acc_addr": 1020, "tile_cols": 4}, {"acc_addr": 1021}, RANGE),
    (Opcode.TENSOR, {**OS, "rows": 4, "acc_stride": 341}, {"acc_addr": 1}, RANGE),
    (Opcode.TENSOR, {**OS, "last": 0, "acc_addr": 99999}, {"last": 1}, RANGE),
    # 32 activation words of 4 values, four runs of 8: the last is word 31 + 3 * 75 = 256 with a jump of 75.
    (Opcode.TENSOR, {**OS, **ACT, "groups": 128, "run": 8, "jump": 74}, {"jump": 75}, RANGE),
    (Opcode.TENSOR, {**OS, **ACT, "run": 1, "act_addr": 255}, {"act_addr": 256}, RANGE),
    (Opcode.TENSOR, {**OS, **ACT, "run": 1, "tile_rows": 2, "act_stride": 255}, {"act_addr": 1}, RANGE),
    (Opcode.TENSOR, {**OS, **ACT, "run": 1}, {"run": 0}, FIELD),
    (Opcode.TENSOR, {**OS, **WGT, "groups": 8, "step": 100, "jump": 100, "run": 2}, {"groups": 15}, RANGE),
    (Opcode.TENSOR, {**OS, **WGT, "tile_cols": 3, "col_step": 200, "wgt_addr": 1647}, {"col_run": 1}, RANGE),
    (Opcode.TENSOR, {**OS, **WGT, "tile_cols": 3, "col_step": 200, "wgt_addr": 1647}, {"wgt_addr": 1648}, RANGE),
    (Opcode.TENSOR, {**OS, **WGT, "tile_cols": 3, "col_run": 2, "col_step": 47}, {"wgt_addr": 2001}, RANGE),
    (Opcode.TENSOR, {**OS, **WGT}, {"run": 0}, FIELD),
    (Opcode.TENSOR, {**OS, **WGT}, {"col_run": 0}, FIELD),
    (Opcode.TENSOR, {**WS, "run": 1, "col_run": 1}, {"walk": Walk.ACT}, FIELD),
    (Opcode.TENSOR, {**WS, "run": 1, "col_run": 1}, {"walk": Walk.WGT}, FIELD),
    (Opcode.TENSOR, {**WS, "groups": 4}, {"groups": 5}, FIELD),
    (Opcode.TENSOR, {**WS, "sparse": 1, "n": 8, "m": 8, "tile_cols": 4}, {"tile_cols": 5}, FIELD),
    (Opcode.TENSOR, WS, {"tile_rows": 2}, FIELD),
    (Opcode.TENSOR, WS, {"last": 0}, FIELD),
    (Opcode.TENSOR, {**WS, "rows": 128, "acc_stride": 1, "sparse": 1, "n": 1, "m": 8}, {"act_addr": 1}, RANGE),
    (Opcode.TENSOR, {**WS, "acc_addr": 1023}, {"acc_addr": 1024}, RANGE),
    (Opcode.TENSOR, {**WS, "wgt_addr": 2047}, {"tile_cols": 2}, RANGE),
    (Opcode.VECTOR, {**VECTOR, "x_addr": 1023}, {"x_addr": 1024}, RANGE),
    (Opcode.VECTOR, {**VECTOR, "y_addr": 1024}, {"operation": Operation.ADD}, RANGE),
    (Opcode.VECTOR, {**VECTOR, "z_addr": 1024, "operation": Operation.ADD}, {"operation": Operation.MAC}, RANGE),
    (Opcode.VECTOR, {**VECTOR, "words": 2, "x_addr": 1023, "x_hold": 1}, {"x_hold": 0}, RANGE),
    (
        Opcode.VECTOR,
        {**VECTOR, "rows": 2, "x_stride": 1023, "x_hold": 1, "words": 9, "d_stride": 9},
        {"x_addr": 1},
        RANGE,
    ),
    (Opcode.VECTOR, {**VECTOR, "shuffle": 2}, {"shuffle": 3}, FIELD),
    (Opcode.VECTOR, {**VECTOR, "shift": 31, "operation": Operation.XOR}, {"operation": Operation.POSITIVE}, FIELD),
    (Opcode.VECTOR, {**VECTOR, "right": 1, "operation": Operation.ISUB}, {"operation": Operation.COPY}, FIELD),
    (Opcode.VECTOR, {**CURVE, "z_addr": 9999}, {"x_addr": 1024}, RANGE),
    (Opcode.VECTOR, {**CURVE, "y_addr": 48}, {"y_addr": 64}, RANGE),
    (Opcode.VECTOR, {**CURVE, "y_stride": 64}, {"y_stride": 128}, RANGE),
    (Opcode.VECTOR, {**CURVE, "y_stride": 2, "y_addr": 62}, {"y_stride": 1}, FIELD),
    (Opcode.VECTOR, CURVE, {"y_stride": 24}, FIELD),
    (Opcode.VECTOR, {**CURVE, "y_addr": 32}, {"y_addr": 40}, FIELD),
    (Opcode.VECTOR, CURVE, {"right": 1}, FIELD),
    (Opcode.VECTOR, {**VECTOR, "rows": 2, "words": 2, "d_stride": 1020, "d_addr": 2}, {"d_addr": 3}, RANGE),
    (Opcode.STORE, STORE, {"lanes": 5}, FIELD),
    (Opcode.STORE, {**STORE, "format": Format.OPERAND, "transpose": 1, "rows": 4}, {"format": Format.FP32}, FIELD),
    (Opcode.STORE, {**STORE, "format": Format.OPERAND, "transpose": 1, "rows": 4}, {"rows": 8}, FIELD),
    (Opcode.STORE, {**STORE, "format": Format.DENSE, "transpose": 1, "rows": 8}, {"rows": 6}, FIELD),
    (Opcode.STORE, {**STORE, "format": Format.DENSE, "rows": 6}, {"transpose": 1}, FIELD),
    (Opcode.STORE, {**PACKED, "rows": 6}, {"rows": 7}, FIELD),
    (Opcode.STORE, {**PACKED, "rows": 8, "words": 3, "m": 4, "transpose": 1}, {"m": 5}, FIELD),
    (Opcode.STORE, PACKED, {"n": 0}, FIELD),
    (Opcode.STORE, PACKED, {"n": 3, "m": 2}, FIELD),
    (Opcode.STORE, {**STORE, "addr": 1022, "words": 2}, {"words": 3}, RANGE),
    (Opcode.STORE, {**PACKED, "addr": 1021}, {"addr": 1022}, RANGE),
    (Opcode.STORE, STORE, {"dram_addr": 2}, ALIGN),
    (Opcode.STORE, STORE, {"row_stride": 4}, ALIGN),
    (Opcode.STORE, {**STORE, "dram_addr": 4096 - 16}, {"dram_addr": 4096 - 8}, WRITE),
    (Opcode.STORE, {**STORE, "format": 1, "dram_addr": (1 << 40) - 8}, {"format": 0}, ALIGN),
    (Opcode.STORE, {**STORE, "format": 2, "dram_addr": (1 << 40) - 16, "rows": 2}, {"rows": 3}, ALIGN),
    (Opcode.STORE, {**PACKED, "dram_addr": (1 << 40) - 40}, {"dram_addr": (1 << 40) - 32}, ALIGN),
    (Opcode.STORE, {**PACKED, "dram_addr": 4096 - 40}, {"n": 2, "m": 3, "rows": 9, "stride": 1}, WRITE),
]


def new_machine(chosen=TINY) -> Machine:
    return Machine(chosen, {0: bytes(4096), (1 << 40) - 64: bytes(64)})


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule[0].name}-{rule[3].name}-{'-'.join(rule[2])}")
def test_each_rule_stops_the_run_and_its_neighbour_does_not(rule):
    opcode, legal, change, cause = rule
    new_machine().run(program(NOTHING, command(opcode, **legal)))
    with pytest.raises(MachineError) as caught:
        new_machine().run(program(NOTHING, command(opcode, **{**legal, **change}), NOTHING))
    expected = (cause, Engine[opcode.name], 1)
    assert (caught.value.cause, caught.value.engine, caught.value.pc) == expected, caught.value
    assert str(caught.value).startswith(f"instruction 1 stopped the {opcode.name.lower()} engine with {cause.name}: ")


def test_group_max_and_tile_cols_of_a_small_architecture():
    small = arch("tiny", group_max=8, interleave_max=4)
    with pytest.raises(MachineError, match=r"BAD_FIELD: 1 <= n <= m <= group_max \(8\) must hold$"):
        new_machine(small).run(program(command(Opcode.TENSOR, **OS, sparse=1, n=1, m=9)))
    with pytest.raises(MachineError, match=r"BAD_FIELD: tile_cols must be at most 4$"):
        new_machine(small).run(program(command(Opcode.TENSOR, **{**WS, "tile_cols": 5})))


def test_a_beat_must_not_go_round_the_banks_twice():
    # Two banks take two chunks of one value, but a beat has four values: two rounds at once.
    small, chunks = arch("tiny", rows=2), {**LOAD, "target": Target.ACT_CHUNKS}
    for legal in ({"stride": 0}, {"stride": 1, "chunk_log2": 1}):
        new_machine(small).run(program(command(Opcode.LOAD, **chunks, **legal)))
    with pytest.raises(MachineError, match=r"BAD_FIELD: with stride, 2 chunks must hold 4 values$"):
        new_machine(small).run(program(command(Opcode.LOAD, **chunks, stride=1)))


def test_ring_of_a_row_block_is_rounded_down():
    # 32 values over 3 row blocks are rings of 8: a group of 4 and 2 x 2 fit, a group of 5 does not.
    fields = {**OS, "tile_rows": 3, "sparse": 1, "n": 1}
    new_machine(TINY2).run(program(command(Opcode.TENSOR, **fields, m=4)))
    with pytest.raises(MachineError, match=r"the ring of a row block holds 8 values, but a group needs 9$"):
        new_machine(TINY2).run(program(command(Opcode.TENSOR, **fields, m=5)))


@pytest.mark.parametrize("mask", [0b0001, 0b10000, 0x80])
@pytest.mark.parametrize("name", ["wait", "signal"])
def test_token_for_oneself_or_for_nobody(name, mask):
    with pytest.raises(MachineError, match=rf"^instruction 1 stopped the load engine with BAD_FIELD: LOAD.{name} mask"):
        new_machine().run(program(NOTHING) + with_mask(command(Opcode.LOAD, **LOAD), name, mask))
    new_machine().run(program(command(Opcode.LOAD, **LOAD, **{name: 0b1110})))


@pytest.mark.parametrize("target", ACC_TARGETS, ids=lambda target: target.name)
def test_fill_loads_the_accumulators_alone(target):
    fields = {"beats": 2, "target": target}
    new_machine(TINY2).run(program(command(Opcode.FILL, **fields)) + program(command(Opcode.LOAD, **fields)))
    other = bytearray(program(command(Opcode.FILL, **fields)))
    other[4] = Target.COLS
    with pytest.raises(MachineError, match=r"^instruction 0 stopped the fill engine with BAD_FIELD: FILL.target must"):
        new_machine(TINY2).run(bytes(other))


def test_tokens_of_fill_with_one_port_and_with_two():
    item = command(Opcode.LOAD, **LOAD, signal=1 << Engine.FILL)
    new_machine(TINY2).run(program(item))
    with pytest.raises(MachineError, match=r"^instruction 0 stopped the load engine with BAD_FIELD"):
        new_machine().run(program(item))


@pytest.mark.parametrize("opcode", [0, 5, 6, 7, 255])
def test_unknown_opcode(opcode):
    data = bytes([opcode]) + bytes(31)
    with pytest.raises(MachineError, match=r"^instruction 1 stopped instruction fetch with BAD_OPCODE") as caught:
        new_machine().run(program(NOTHING) + data)
    assert (caught.value.engine, caught.value.cause) == (FETCH, Cause.BAD_OPCODE)


@pytest.mark.parametrize(
    ("item", "byte", "bits"),
    [
        (command(Opcode.LOAD, **LOAD), 3, 0x01),
        (command(Opcode.LOAD, **LOAD), 3, 0x80),
        (command(Opcode.LOAD, **LOAD), 4, 0x09),  # there are nine targets
        (command(Opcode.TENSOR, **OS), 23, 0x30),  # and three walks
        (command(Opcode.VECTOR, **VECTOR), 4, 0x0F),  # fifteen operations
        (command(Opcode.VECTOR, **VECTOR), 30, 0x04),  # fields end with bit 241
        (command(Opcode.VECTOR, **VECTOR), 31, 0x80),
        (command(Opcode.STORE, **STORE), 4, 0x04),  # four formats
        (command(Opcode.STORE, **STORE), 31, 0x80),
    ],
)
def test_reserved_bits_and_values_out_of_their_range(item, byte, bits):
    data = bytearray(program(item))
    data[byte] |= bits
    name = item.opcode.name.lower()
    with pytest.raises(MachineError, match=rf"^instruction 0 stopped the {name} engine with BAD_FIELD"):
        new_machine().run(bytes(data))


def test_earlier_instructions_have_taken_effect():
    machine = new_machine()
    machine.state.acc[0] = 7
    with pytest.raises(MachineError):
        machine.run(program(NOTHING, command(Opcode.LOAD, rows=1)))
    assert machine.state.acc[1].tolist() == [7] * 4


def test_rows_before_a_write_error_stay_written():
    machine = new_machine()
    machine.state.acc[:2] = 0x01010101
    with pytest.raises(MachineError, match="WRITE_RESPONSE"):
        machine.run(program(command(Opcode.STORE, rows=2, words=1, lanes=4, stride=1, dram_addr=4080, row_stride=16)))
    assert machine.memory.read(4080, 16) == b"\1" * 16


def test_program_of_odd_length_is_refused():
    with pytest.raises(UserError, match=r"^a program must be a multiple of 32 bytes, not 33$"):
        new_machine().run(program(NOTHING) + b"\1")


def test_memory_segments():
    memory = Memory({16: b"abcd", 20: b"ef", 64: np.arange(4, dtype=np.uint8)})
    memory.write(19, b"XY")
    assert memory.read(16, 6) == b"abcXYf"
    assert memory.read(64, 4) == bytes(range(4))
    assert memory.read(9999, 0) == b""
    for address, size, fails_at in ((15, 2, 15), (16, 7, 22), (62, 3, 62), (67, 2, 68)):
        with pytest.raises(BusError, match=rf"^no memory at address {fails_at:#x}$"):
            memory.read(address, size)
    with pytest.raises(BusError):
        memory.write(21, b"12")
    assert memory.read(21, 1) == b"f"


def test_memory_copies_what_it_is_given():
    given = np.zeros(8, dtype=np.uint8)
    Memory({0: given}).write(0, b"\1")
    assert not given.any()


def test_bad_segments_are_refused():
    for contents in ({0: bytes(8), 4: bytes(8)}, {0: b""}, {-8: bytes(4)}, 0):
        with pytest.raises(UserError, match=r"^memory segment at -?0x\d+ of \d bytes is empty or overlaps"):
            Memory(contents)

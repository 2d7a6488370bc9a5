"""Instruction table: encoding against words written by hand, round trips, refusals, listing."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwgen.arch import INSTRUCTION_BYTES, ProgramError
from hwgen.arch.commands import command, decode, encode, listing
from hwgen.arch.isa import TABLE, Dataflow, Engine, Format, Opcode, Operation, Target, Walk
from hwgen.arch.services import Job

# Written by hand from the bit positions in ISA.md; an underscore separates fields where they fall on hex digits.
BY_HAND = {
    # plane_stride, planes, row_stride, dram_addr, pad, beats, rows, stride, addr, chunk_log2, target |
    # reserved, signal, wait, opcode
    0x13579BDF_0246_BBCCDDE0_0566778899A0_3344_1122_9ABC_00678_12345_0_4_00060201: command(
        Opcode.LOAD,
        wait=0b0010,
        signal=0b0110,
        target=Target.ACC32,
        addr=0x12345,
        stride=0x678,
        rows=0x9ABC,
        beats=0x1122,
        pad=0x3344,
        dram_addr=0x0566778899A0,
        row_stride=0xBBCCDDE0,
        planes=0x0246,
        plane_stride=0x13579BDF,
    ),
    # acc_stride, acc_addr, wgt_addr, act_stride, act_addr, rows, groups, then tile_rows 1 | tile_cols 10000 | m 01000 |
    # n 00010 = 0x0C102, then last 1, first 0, sparse 1, dataflow 1 = 0xB. Above acc_stride, from the top: col_jump
    # 1101001011010, col_run 10000, col_step 10000001, step 0101010101, jump 101111000011110000, run 101010111100,
    # walk 10.
    0xD2D420555BC3C2AF2_BCDEF_2468A_13579_EF012_9ABCD_5678_1234_0C102_B_000C0502: command(
        Opcode.TENSOR,
        wait=0b0101,
        signal=0b1100,
        dataflow=Dataflow.WEIGHT_STATIONARY,
        sparse=1,
        last=1,
        n=2,
        m=8,
        tile_cols=16,
        tile_rows=1,
        groups=0x1234,
        rows=0x5678,
        act_addr=0x9ABCD,
        act_stride=0xEF012,
        wgt_addr=0x13579,
        acc_addr=0x2468A,
        acc_stride=0xBCDEF,
        walk=Walk.WGT,
        run=0xABC,
        jump=0x2F0F0,
        step=0x155,
        col_step=0x81,
        col_run=0x10,
        col_jump=0x1A5A,
    ),
    # Fields from rows on start two bits above a hex digit: digits 0, 1, 2, 3 of the values below appear as 0, 4, 8, C;
    # z_hold 1 and y_hold 1 are the 3 in the F, then x_hold 0, right 1, shift 10010, shuffle 101, relu 1,
    # operation 01101 = 0x656D
    0x4080C_C8400_C0C0C_80808_048C0_CCCCC_88888_44444_C840_048F_656D_00020803: command(
        Opcode.VECTOR,
        wait=0b1000,
        signal=0b0010,
        operation=Operation.ISUB,
        relu=1,
        shuffle=5,
        shift=18,
        right=1,
        y_hold=1,
        z_hold=1,
        rows=0x0123,
        words=0x3210,
        x_addr=0x11111,
        x_stride=0x22222,
        y_addr=0x33333,
        y_stride=0x01230,
        z_addr=0x20202,
        z_stride=0x30303,
        d_addr=0x32100,
        d_stride=0x10203,
    ),
    # plane_stride is 2**32 - 0x12345678 = 0xEDCBA988, three bits above a digit 0x76E5D4C40; planes 0x0246 is 0x123 when
    # its lowest bit falls away; m 10000, n 01001, transpose 1 = 0x413, then
    # row_stride, dram_addr, words, rows, stride, addr, lanes, format
    0x76E5D4C40_123_413_CAFEBABE_123456789ABC_EF01_ABCD_98765_54321_20_1_00000404: command(
        Opcode.STORE,
        wait=0b0100,
        format=Format.OPERAND,
        lanes=0x20,
        addr=0x54321,
        stride=0x98765,
        rows=0xABCD,
        words=0xEF01,
        dram_addr=0x123456789ABC,
        row_stride=0xCAFEBABE,
        transpose=1,
        n=9,
        m=16,
        planes=0x0246,
        plane_stride=-0x12345678,
    ),
    # As LOAD, with another opcode and target.
    0x13579BDF_0246_BBCCDDE0_0566778899A0_3344_1122_9ABC_00678_12345_0_5_000C0205: command(
        Opcode.FILL,
        wait=0b0010,
        signal=0b1100,
        target=Target.ACC16,
        addr=0x12345,
        stride=0x678,
        rows=0x9ABC,
        beats=0x1122,
        pad=0x3344,
        dram_addr=0x0566778899A0,
        row_stride=0xBBCCDDE0,
        planes=0x0246,
        plane_stride=0x13579BDF,
    ),
    0x123456789AB0_3_00010806: command(Opcode.ATTEND, wait=1 << 3, signal=1 << 0, job=Job.GATHER, addr=0x123456789AB0),
}


FIXED = settings(derandomize=True, database=None, deadline=None)


@st.composite
def commands(draw):
    """Any command whose fields are in the ranges of the table."""
    row = TABLE[draw(st.sampled_from(Opcode))]
    operands = {item.name: draw(st.integers(item.low, item.limit)) for item in row.operands}
    others = 0x3F & ~(1 << row.engine)
    masks = {name: draw(st.integers(0, 63)) & others for name in ("wait", "signal")}
    return command(row.opcode, **masks, **operands)


@pytest.mark.parametrize(("word", "item"), BY_HAND.items(), ids=lambda value: getattr(value, "opcode", None))
def test_encoding_equals_words_written_by_hand(word, item):
    assert encode(item).hex() == word.to_bytes(INSTRUCTION_BYTES, "little").hex()
    assert decode(word.to_bytes(INSTRUCTION_BYTES, "little")) == item


def test_words_written_by_hand_cover_all_opcodes():
    assert {item.opcode for item in BY_HAND.values()} == set(Opcode)


@FIXED
@given(commands())
def test_round_trip(item):
    assert decode(encode(item)) == item


@FIXED
@given(commands(), st.data())
def test_one_field_changes_only_its_own_bits(item, data):
    row = TABLE[item.opcode]
    field = data.draw(st.sampled_from(row.operands))
    changed = command(
        item.opcode,
        wait=item.wait,
        signal=item.signal,
        **{**item.operands, field.name: data.draw(st.integers(field.low, field.limit))},
    )
    difference = int.from_bytes(encode(item), "little") ^ int.from_bytes(encode(changed), "little")
    assert difference >> row.offsets[field.name] << row.offsets[field.name] == difference
    assert difference >> row.offsets[field.name] + field.width == 0


@pytest.mark.parametrize("row", TABLE.values(), ids=lambda row: row.opcode.name)
def test_fields_do_not_overlap_and_fit(row):
    used = [bit for item in row.fields for bit in range(row.offsets[item.name], row.offsets[item.name] + item.width)]
    assert len(set(used)) == len(used)
    assert max(used) < 8 * INSTRUCTION_BYTES
    assert [row.offsets[name] for name in ("opcode", "wait", "signal", "reserved")] == [0, 8, 16, 24]


BAD_VALUES = [(row, item) for row in TABLE.values() for item in row.operands]


@pytest.mark.parametrize(("row", "item"), BAD_VALUES, ids=lambda part: getattr(part, "name", None))
def test_values_out_of_range_are_refused(row, item):
    for value in (item.low - 1, item.limit + 1):
        text = f"^{row.opcode.name}\\.{item.name} must be in {item.low}\\.\\.{item.limit}, not {value}$"
        with pytest.raises(ProgramError, match=text):
            command(row.opcode, **{item.name: value})


def test_unknown_field_is_named():
    with pytest.raises(ProgramError, match=r"^STORE has no field beats, target$"):
        command(Opcode.STORE, target=1, beats=2)


@pytest.mark.parametrize("opcode", [0, 7, 255])
def test_unknown_opcode_is_refused(opcode):
    with pytest.raises(ProgramError, match=f"^no instruction has opcode {opcode} in 32 bytes$"):
        decode(bytes([opcode]) + bytes(INSTRUCTION_BYTES - 1))


def test_wrong_length_is_refused():
    with pytest.raises(ProgramError, match=r"^no instruction has opcode 1 in 31 bytes$"):
        decode(encode(command(Opcode.LOAD))[:-1])


def test_decoder_refuses_reserved_and_out_of_range_bits():
    load, tensor = bytearray(encode(command(Opcode.LOAD))), bytearray(encode(command(Opcode.TENSOR)))
    load[3] = 0x80
    with pytest.raises(ProgramError, match=r"^LOAD\.reserved must be in 0\.\.0, not 128$"):
        decode(bytes(load))
    tensor[7:9] = b"\0\0"
    with pytest.raises(ProgramError, match=r"^TENSOR\.groups must be in 1\.\.65535, not 0$"):
        decode(bytes(tensor))


def test_listing_shows_what_is_set():
    item = command(Opcode.STORE, wait=1 << Engine.VECTOR, format=Format.OPERAND, lanes=3, addr=0x80, dram_addr=0x2000)
    assert (
        listing(item) == "STORE  format=operand lanes=3 addr=0x80 rows=1 words=1 dram_addr=0x2000 planes=1 after vector"
    )
    both = command(Opcode.TENSOR, wait=0b0101, signal=0b1000)
    assert re.search(r" after load\+vector then store$", listing(both))


@FIXED
@given(commands())
def test_listing_is_one_line(item):
    text = listing(item)
    assert "\n" not in text
    assert text.startswith(item.opcode.name)


def test_command_has_its_operands_as_attributes():
    item = command(Opcode.LOAD, beats=7)
    assert (item.beats, item.engine) == (7, Engine.LOAD)
    with pytest.raises(AttributeError, match=r"^x_addr$"):
        _ = item.x_addr

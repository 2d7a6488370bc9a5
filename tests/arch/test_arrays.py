"""Programs as arrays against the same done instruction by instruction."""

from dataclasses import replace

import pytest

from hwgen.arch import ProgramError, load
from hwgen.arch.arrays import columns, encode_program, engines
from hwgen.arch.commands import command, encode
from hwgen.arch.isa import TABLE, Opcode
from sim.random.programs import random_program

FULL = [
    command(row.opcode, wait=row.others, signal=row.others, **{item.name: value(item) for item in row.operands})
    for row in TABLE.values()
    for value in (lambda item: item.limit, lambda item: item.low)
]
"""Every field at its largest value, and at its least."""


def test_encoding_equals_that_of_each_instruction(seed):
    commands = [*random_program(load("tiny"), seed).commands, *FULL]
    assert encode_program(commands) == b"".join(encode(item) for item in commands)
    assert encode_program([]) == b""


def test_columns_have_every_instruction_once(seed):
    commands = [*random_program(load("tiny"), seed).commands, *FULL]
    assert engines(commands).tolist() == [item.engine for item in commands]
    seen = set()
    for found in columns(commands):
        for number, place in enumerate(found.positions.tolist()):
            assert commands[place].opcode == found.opcode
            assert {name: int(values[number]) for name, values in found.operands.items()} == commands[place].operands
            seen.add(place)
    assert seen == set(range(len(commands)))
    assert {found.opcode for found in columns(FULL[:1])} == {FULL[0].opcode}


@pytest.mark.parametrize(
    "wrong",
    [
        replace(command(Opcode.LOAD), operands={**command(Opcode.LOAD).operands, "rows": 0}),
        replace(command(Opcode.STORE), operands={**command(Opcode.STORE).operands, "words": 1 << 16}),
        replace(command(Opcode.VECTOR), wait=1 << TABLE[Opcode.VECTOR].engine),
        replace(command(Opcode.TENSOR), signal=1 << 6),
    ],
)
def test_errors_are_those_of_each_instruction(wrong):
    with pytest.raises(ProgramError) as expected:
        encode(wrong)
    with pytest.raises(ProgramError) as found:
        encode_program([command(Opcode.LOAD), wrong])
    assert str(found.value) == str(expected.value)

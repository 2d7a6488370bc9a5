"""Blocks of VECTOR as one row: the same words in the same order, whatever the block."""

import random

import pytest

from hwgen.arch.commands import command
from hwgen.arch.isa import Opcode, Operation
from scheduler.vectors import as_one_row


def block(operation=Operation.MAC, *, rows=5, words=7, d=7, **strides):
    """Operands of a VECTOR from the strides of its blocks; `x=(7, 1)` is stride 7 with hold."""
    fields = {"operation": operation, "rows": rows, "words": words, "d_addr": 900, "d_stride": d}
    for place, (name, value) in enumerate(strides.items()):
        stride, hold = value if isinstance(value, tuple) else (value, 0)
        fields |= {f"{name}_addr": 100 * place + 3, f"{name}_stride": stride, f"{name}_hold": hold}
    return fields


def visited(fields):
    """Words of each block, in the order in which the engine works on them."""
    item = command(Opcode.VECTOR, **fields)
    words = {}
    for name in "xyzd":
        addr, stride = (item.operands[f"{name}_{part}"] for part in ("addr", "stride"))
        step = 0 if item.operands.get(f"{name}_hold", 0) else 1
        words[name] = [addr + row * stride + step * word for row in range(item.rows) for word in range(item.words)]
    return words


def test_random_blocks_visit_the_same_words(seed):
    source, flat = random.Random(seed), 0
    for _ in range(3000):
        rows, words = source.randint(1, 4), source.randint(1, 4)
        strides = {name: (source.choice([0, 1, words, 6]), source.randrange(2)) for name in "xyz"}
        fields = block(rows=rows, words=words, d=source.choice([words, 6]), **strides)
        row = as_one_row(fields)
        assert visited(row) == visited(fields), f"seed {seed}: {fields} became {row}"
        flat += rows > 1 == row["rows"]
    assert flat > 100


@pytest.mark.parametrize(
    "fields",
    [
        block(x=7, y=7, z=(0, 1)),
        block(words=1, d=1, x=1, y=(1, 1), z=0),
        block(rows=1, x=9, y=(5, 1), z=0),
    ],
)
def test_blocks_without_gaps_become_one_row(fields):
    row = as_one_row(fields)
    assert (row["rows"], row["words"]) == (1, fields["rows"] * fields["words"])
    assert {row[f"{name}_stride"] for name in "xyzd"} == {0}


@pytest.mark.parametrize(
    "fields",
    [
        block(x=8, y=7, z=7),
        block(d=8, x=7, y=7, z=7),
        block(x=7, y=0, z=7),
        block(x=7, y=(1, 1), z=7),
        block(rows=300, words=300, d=300, x=300, y=300, z=300),
    ],
)
def test_other_blocks_stay_as_they_are(fields):
    assert as_one_row(fields) == fields


def test_blocks_that_are_not_read_have_no_say():
    row = as_one_row(block(Operation.COPY, x=7, y=(3, 1)))
    assert row["rows"] == 1
    assert (row["y_stride"], row["y_hold"]) == (3, 1)


def test_a_single_word_that_is_replaced_is_not_held():
    row = as_one_row(block(Operation.ADD, rows=1, words=1, x=(0, 0), y=(0, 1)))
    assert (row["x_hold"], row["y_hold"]) == (0, 0)

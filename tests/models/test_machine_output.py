"""STORE against numpy on single values."""

import ml_dtypes
import numpy as np
import pytest

from hwgen.arch.isa import Format, Opcode, command
from models.machine import Machine
from tests.models.support import SEED, arch, assert_bits, run

TINY = arch("tiny")


def noisy_machine(chosen=TINY, size: int = 1 << 12) -> Machine:
    rng = np.random.default_rng(SEED)
    machine = Machine(chosen, size)
    acc = machine.state.acc
    acc[:] = rng.standard_normal(acc.shape, dtype=np.float32).view(np.uint32)
    return machine


@pytest.mark.parametrize("lanes", [1, 3, 4])
@pytest.mark.parametrize("operand", ["fp16", "bf16"])
@pytest.mark.parametrize("form", [Format.FP32, Format.OPERAND])
def test_store(form, operand, lanes):
    chosen = arch("tiny", operand=operand)
    machine = noisy_machine(chosen)
    machine.memory.write(0, bytes([0xAA]) * (1 << 12))
    fields = {"addr": 13, "stride": 5, "rows": 4, "words": 3, "dram_addr": 64, "row_stride": 80, "lanes": lanes}
    run(machine, command(Opcode.STORE, format=form, **fields))
    expected = np.full(1 << 12, 0xAA, dtype=np.uint8)
    dtype = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}[operand] if form == Format.OPERAND else np.float32
    for y in range(4):
        row = machine.state.acc[13 + 5 * y : 16 + 5 * y].view(np.float32).astype(dtype)
        row[-1, lanes:] = 0
        image = np.frombuffer(row.tobytes(), dtype=np.uint8)
        expected[64 + 80 * y : 64 + 80 * y + len(image)] = image
    actual = np.frombuffer(machine.memory.read(0, 1 << 12), dtype=np.uint8)
    assert_bits(actual, expected, f"{form.name} {operand} {lanes}")


def test_store_leaves_the_accumulators_alone():
    machine = noisy_machine()
    before = machine.state.acc.copy()
    run(machine, command(Opcode.STORE, lanes=1, rows=2, words=2, stride=2, row_stride=32))
    assert_bits(machine.state.acc, before, "acc")


def test_store_rounds_overflow_and_nan():
    machine = Machine(TINY, 64)
    machine.state.acc[0] = [0x477FF000, 0xFFC00001, 0x33000000, 0x80000001]
    run(machine, command(Opcode.STORE, format=Format.OPERAND, lanes=4, rows=1, words=1))
    assert machine.memory.read(0, 8).hex() == "007c007e00000080"


def test_later_rows_win_when_stored_rows_overlap():
    machine = noisy_machine()
    run(machine, command(Opcode.STORE, lanes=4, rows=3, words=2, stride=2, row_stride=16))
    words = np.concatenate([machine.state.acc[[0, 2, 4]].ravel(), machine.state.acc[5]])
    assert machine.memory.read(0, 64) == words.tobytes()

"""Dropout masks of the golden machine against numpy, and the numbers against the generator's definition."""

import numpy as np
import pytest

from scheduler.training.kernels import masks
from tests.scheduler.training.machine_support import TINY, Bench, arch8

CASES = {
    # name: arch, shape [N, H, W, C], probability
    "one chunk": (TINY, (4, 1, 1, 8), 0.5),
    "padding": (TINY, (5, 3, 4, 10), 0.25),
    "many chunks": (TINY, (9, 5, 6, 12), 0.1),
    "parts of rows": (TINY, (2, 1, 70, 9), 0.9),
    "on 8x8": (arch8(), (10, 4, 5, 24), 0.3),
}


def drawn(case, seed, steps):
    """Masks of the machine and of numpy, step by step, and the state after them."""
    arch, shape, p = case
    bench = Bench(arch)
    mask = bench.feature("mask", shape=shape)
    words = masks.state_words(arch, mask)
    row = bench.memory.row("state", words * arch.array.cols, "state")
    masks.dropout_mask(bench.em, mask, row, p)
    state = masks.seeds(seed, 3, words, arch.array.cols)
    for _ in range(steps):
        bench.contents = [(row.address, state.tobytes())]
        machine = bench.run(scheduled=True)
        wanted, state = masks.draw(arch, mask, state, p)
        found = np.frombuffer(machine.memory.read(row.address, 4 * state.size), np.uint32).reshape(state.shape)
        np.testing.assert_array_equal(found, state)
        yield bench.read(machine, mask), wanted


@pytest.mark.parametrize("name", CASES)
def test_machine_draws_what_numpy_draws(name, seed):
    found = list(drawn(CASES[name], seed, 2))
    for mask, wanted in found:
        np.testing.assert_array_equal(mask, wanted.astype(np.float16))
    assert (found[0][0] != found[1][0]).any()


def test_share_of_zeros(seed):
    *_, p = CASES["many chunks"]
    values = np.concatenate([mask.reshape(-1) for mask, _ in drawn(CASES["many chunks"], seed, 4)])
    zeros, deviation = (values == 0).mean(), np.sqrt(p * (1 - p) / values.size)
    assert abs(zeros - p) < 5 * deviation
    assert (values[values != 0] == np.float16(1 / (1 - p))).all()


def test_state_follows_marsaglia():
    """Xorshift 13, 17, 5 from 1, computed on Python's integers."""
    bench = Bench()
    mask = bench.feature("mask", shape=(4, 1, 1, 4))
    state, number = np.ones((masks.state_words(TINY, mask), 4), np.uint32), 1
    for _ in range(3):
        _, state = masks.draw(TINY, mask, state, 0.5)
        number ^= number << 13 & 0xFFFFFFFF
        number ^= number >> 17
        number ^= number << 5 & 0xFFFFFFFF
        assert (state == number).all()
    assert number != 1


def test_streams_differ():
    assert (masks.seeds(1, 0, 8, 4) != masks.seeds(1, 1, 8, 4)).any()
    assert masks.seeds(1, 0, 64, 64).all()

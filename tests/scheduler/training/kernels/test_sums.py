"""Sums over rows of blocks of any number of rows, and how much of them is kept."""

import numpy as np
import pytest

from scheduler.training.kernels.emitter import Emitter
from scheduler.training.kernels.sums import RowSums, partial_rows, sum_rows
from tests.scheduler.training.block_support import Blocks, read
from tests.scheduler.training.machine_support import TINY, arch8

ROWS = (1, 2, 3, 7, 12, 33)


@pytest.mark.parametrize("rows", ROWS)
def test_halves(rows, seed):
    values = np.random.default_rng(seed).standard_normal((2, rows, 3, 4)).astype(np.float32)
    bench = Blocks()
    x, y = (bench.put(value) for value in values)
    total, product = sum_rows(bench.em, x), sum_rows(bench.em, x, y)
    machine = bench.run()
    wide = values.astype(np.float64)
    np.testing.assert_allclose(read(machine, total)[0], wide[0].sum(0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(read(machine, product)[0], (wide[0] * wide[1]).sum(0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kept", [1, 4, 16])
def test_partial_sums_of_blocks_with_any_rows_and_words(kept, seed):
    rng, bench = np.random.default_rng(seed), Blocks()
    plain, product = RowSums(bench.em, 5, kept), RowSums(bench.em, 5, kept)
    wanted = np.zeros((2, 5, 4))
    for rows in ROWS:
        first = int(rng.integers(3))
        x, y = rng.standard_normal((2, rows, 3, 4)).astype(np.float32)
        plain.add(bench.put(x), first=first)
        product.add(bench.put(x), bench.put(y), first=first)
        wanted[0, first : first + 3] += x.sum(0, dtype=np.float64)
        wanted[1, first : first + 3] += (x.astype(np.float64) * y).sum(0)
    totals = plain.total(), product.total()
    machine = bench.run()
    for total, value in zip(totals, wanted):
        np.testing.assert_allclose(read(machine, total)[0], value, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("arch", [TINY, arch8()], ids=["tiny", "8x8"])
@pytest.mark.parametrize("words", [1, 3, 16, 48])
def test_partial_sums_leave_room_for_as_much_again(arch, words):
    em = Emitter(arch)
    rows = partial_rows(em, 2, words)
    assert rows >= 1
    if rows > 1:
        for _ in range(4):
            em.keep(rows, words)

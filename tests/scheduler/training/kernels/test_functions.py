"""Elementary functions against numpy in float64: stated errors, stated passes, and what happens at the ends."""

from functools import partial

import numpy as np
import pytest

from scheduler.training.kernels import functions
from tests.scheduler.training.block_support import Blocks, read

ROWS, WORDS = 500, 6
COUNT = ROWS * WORDS * 4


def spread(rng, low, high, *, signs=True):
    """Magnitudes with all exponents from 2**low to 2**high alike, of both signs."""
    values = np.exp2(rng.uniform(low, high, COUNT))
    return (values * rng.choice([-1, 1], COUNT) if signs else values).astype(np.float32)


def evaluate(function, values):
    """A function of blocks on an array of COUNT values; gives values and passes."""
    bench = Blocks()
    x = bench.put(values.reshape(ROWS, WORDS, 4))
    d = bench.em.take(ROWS, WORDS)
    assert function(bench.em, x, d) == d
    return read(bench.run(), d).reshape(-1).astype(np.float64), bench.passes(x)


CASES = {
    # name: function, exact, lowest and highest exponent, both signs, passes, relative error, error for each unit of |x|
    "reciprocal": (functions.reciprocal, lambda x: 1 / x, -126, 125, True, 6, 1.2e-6, 0),
    "minus reciprocal": (partial(functions.reciprocal, negative=True), lambda x: -1 / x, -126, 125, True, 5, 1.2e-6, 0),
    "rsqrt": (functions.rsqrt, lambda x: x**-0.5, -126, 128, False, 8, 5e-7, 0),
    "exp": (functions.exp, np.exp, -30, 6.43, True, 10, 2.8e-6, 1e-7),
    "minus exp": (
        partial(functions.exp, rate=-2.0, negative=True),
        lambda x: -np.exp(-2 * x),
        -30,
        5.43,
        True,
        10,
        2.7e-6,
        1.2e-7,
    ),
    "log": (functions.log, np.log, -126, 128, False, 15, 4e-7, 0),
    "sigmoid": (functions.sigmoid, lambda x: 1 / (1 + np.exp(-x)), -30, 6.4, True, 16, 4e-6, 1e-7),
}


@pytest.mark.parametrize("name", CASES)
def test_relative_error_and_passes(name, seed):
    function, exact, low, high, signs, passes, bound, slope = CASES[name]
    x = spread(np.random.default_rng(seed), low, high, signs=signs)
    found, cost = evaluate(function, x)
    wanted = exact(x.astype(np.float64))
    error = np.abs(found / wanted - 1) - slope * np.abs(x)
    worst = error.argmax()
    assert error[worst] < bound, f"{name}({x[worst]}) is {found[worst]}, not {wanted[worst]}: {error[worst]}"
    assert cost == passes


@pytest.mark.parametrize("scale", [1e-3, 0.3, 3.0, 60.0])
def test_tanh(scale, seed):
    x = (np.random.default_rng(seed).standard_normal(COUNT) * scale).astype(np.float32)
    found, cost = evaluate(functions.tanh, x)
    assert np.abs(found - np.tanh(x.astype(np.float64))).max() < 3e-6
    assert cost == 17


def ends(function, *values):
    x = np.resize(np.array(values, np.float32), COUNT)
    return evaluate(function, x)[0][: len(values)]


def test_what_functions_give_at_the_ends_of_their_domains():
    np.testing.assert_array_equal(ends(functions.reciprocal, 0.0, -0.0), [np.inf, -np.inf])
    root = ends(functions.rsqrt, 0.0)
    assert 0 < root[0] < 3e38
    low, zero, high, inf = ends(functions.exp, -1e30, 0.0, 1e30, np.inf)
    assert 0 < low < 2.6e-38
    assert abs(zero - 1) < 2.8e-6
    assert 4e37 < high == inf < 4.2e37
    low, half, high = ends(functions.sigmoid, -65504.0, 0.0, 65504.0)
    assert 0 < low < 3e-38
    assert abs(half - 0.5) < 2e-6
    assert abs(high - 1) < 2e-6
    np.testing.assert_allclose(ends(functions.log, 1.0, 0.0), [0, -88], atol=0.2)
    assert ends(functions.log, 1.0)[0] == 0
    assert np.isnan(ends(functions.exp, np.nan)[0])

"""What the docstrings of kernels say about their cost, counted: passes over all words, and over one word a pixel."""

import pytest

from hwgen.arch.isa import Opcode
from scheduler.training.graph.base import Window
from scheduler.training.kernels.layer_norm import layer_norm, layer_norm_grad
from scheduler.training.kernels.losses import cross_entropy, mse
from scheduler.training.kernels.masks import dropout_mask, state_words
from scheduler.training.kernels.pooling import avg_pool, avg_pool_grad, max_pool, max_pool_grad
from scheduler.training.kernels.softmax import softmax, softmax_grad
from tests.scheduler.training.machine_support import Bench, arch8

PIXELS = 1024


def work(bench):
    """Words that VECTOR has written."""
    return sum(item.rows * item.words for item in bench.em.recorder.commands if item.opcode == Opcode.VECTOR)


def by_words(kernel, *names, curve=None):
    """Passes over all words, and over one word of each pixel, from the work at 4 and at 6 words a pixel."""
    found = []
    for words in (4, 6):
        bench = Bench(arch8())
        if curve:
            bench.place_curve(curve)
        places = [bench.feature(name, shape=(PIXELS, 1, 1, 8 * words)) for name in names]
        kernel(bench, *places)
        found.append(work(bench) / PIXELS)
    slope = (found[1] - found[0]) / 2
    return slope, found[0] - 4 * slope


def rows(bench, words):
    return bench.em.keep(1, words)


CASES = {
    # name: kernel, tensors, passes over all words, most passes over one word (with 8 columns)
    "softmax": (lambda b, x, y: softmax(b.em, x, y), "xy", 12, 13),
    "softmax_grad": (lambda b, g, y, d: softmax_grad(b.em, g, y, d), "gyd", 3, 3),
    "cross_entropy": (
        lambda b, x, t, d: cross_entropy(b.em, x, t, d, b.memory.row("loss", 1, "loss"), 0.5),
        "xtd",
        15,
        40,
    ),
    "mse": (lambda b, x, t, d: mse(b.em, x, t, d, b.memory.row("loss", 1, "loss"), 0.5), "xtd", 3.6, 1),
    "layer_norm": (
        lambda b, x, y: layer_norm(b.em, x, y, rows(b, x.words), rows(b, x.words), 1e-5),
        "xy",
        4,
        20,
    ),
    "layer_norm_grad": (
        lambda b, g, x, d: layer_norm_grad(b.em, g, x, d, rows(b, x.words), 1e-5),
        "gxd",
        10.2,
        30,
    ),
}


@pytest.mark.parametrize(("name", "curve"), [*((name, None) for name in CASES), ("softmax with a curve", "exp2")])
def test_passes_over_channels(name, curve):
    kernel, names, passes, single = CASES["softmax"] if curve else CASES[name]
    passes = 5 if curve else passes
    found, rest = by_words(kernel, *names, curve=curve)
    assert found <= passes
    assert rest <= single
    assert found > passes - 1


@pytest.mark.parametrize(
    ("kernel", "size", "passes"),
    [("max", 2, 0.75), ("max gradient", 2, 2.25), ("avg", 2, 1.0), ("avg gradient", 2, 1.5), ("avg", 8, 1.0)],
)
def test_passes_of_pooling(kernel, size, passes):
    bench, window = Bench(arch8()), Window(kernel=(size, size), stride=(size, size), padding=(0, 0))
    x, dx = (bench.feature(name, shape=(4, 8, 8, 16)) for name in ("x", "dx"))
    y = bench.feature("y", shape=(4, 8 // size, 8 // size, 16))
    emit = {
        "max": lambda: max_pool(bench.em, x, y, window),
        "avg": lambda: avg_pool(bench.em, x, y, window),
        "max gradient": lambda: max_pool_grad(bench.em, y, x, dx, window),
        "avg gradient": lambda: avg_pool_grad(bench.em, y, dx, window),
    }
    emit[kernel]()
    assert work(bench) / (x.n * x.image_words) == pytest.approx(passes, abs=0.02)


def test_passes_of_dropout():
    bench = Bench(arch8())
    mask = bench.feature("mask", shape=(8, 2, 2, 16))
    dropout_mask(bench.em, mask, bench.memory.row("state", 8 * state_words(bench.arch, mask), "state"), 0.5)
    assert work(bench) / (mask.n * mask.image_words) == 6

"""A training step as a picture: what each engine works on, from the first cycle to the last."""

from collections.abc import Iterator
from html import escape

import numpy as np
from numpy.typing import NDArray

from hwgen.arch.arrays import engines
from hwgen.arch.isa import Engine
from scheduler.training.graph.operators import Conv, ConvInputGrad, ConvWeightGrad, MatMul
from scheduler.training.products.unroll import Unroll
from scheduler.training.program import TrainingProgram
from sim.cycles import ModelResult
from sim.training.tune import own_cycles, spans

KINDS = {
    "forward products": ("#4477aa", (Conv, Unroll)),
    "input gradients": ("#66ccee", (ConvInputGrad,)),
    "weight gradients": ("#228833", (ConvWeightGrad,)),
    "products of activations": ("#aa3377", (MatMul,)),
    "everything else": ("#ccbb44", ()),
}
"""Kinds of kernels: colour, and the operators that begin them."""
BINS = 240
LEFT, TOP, WIDTH, HEIGHT, GAP = 70, 56, 4 * BINS, 64, 14
"""Place of the first engine's band, size of a band, distance between bands, in pixels."""


def kinds_of(program: TrainingProgram) -> NDArray[np.int64]:
    """Number of the kind of each instruction's kernel, in program order."""
    types = {name: type(item) for item in program.graph.operators for name in item.names("result")[:1]}
    of_type = {kind: number for number, (_, found) in enumerate(KINDS.values()) for kind in found}
    names = [name.split(", ")[0] for _, name in program.places.headings]  # products in turns have both names
    kernels = np.array([of_type.get(types.get(name), len(KINDS) - 1) for name in names])
    heads = [position for position, _ in program.places.headings]
    owner = np.searchsorted(heads, np.asarray(program.step.origins), side="right") - 1
    return kernels[np.maximum(owner, 0)]


def shares(program: TrainingProgram, result: ModelResult, bins: int = BINS) -> NDArray[np.float64]:
    """Share of each part of the step in which an engine executes instructions of a kind: [engine, kind, part]."""
    code = program.step
    issued, ended = spans(code, result)
    own, executes, kinds = own_cycles(code, issued, ended), engines(code.commands), kinds_of(program)
    last = int(ended.max()) + 1
    edges, found = np.linspace(0, last, bins + 1), np.zeros((len(Engine), len(KINDS), bins))
    for engine in Engine:
        for kind in range(len(KINDS)):
            mine = np.flatnonzero((executes == engine) & (kinds == kind))
            stop = ended[mine] + 1.0
            found[engine, kind] = np.diff(_worked(edges, stop - own[mine], stop)) / np.diff(edges)
    return found


def _worked(edges: NDArray[np.float64], start: NDArray[np.float64], stop: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cycles of ascending intervals that lie before each edge."""
    if not start.size:
        return np.zeros_like(edges)
    total = np.concatenate([[0], np.cumsum(stop - start)])
    number = np.searchsorted(stop, edges)
    begun = np.append(start, np.inf)[number]
    return total[number] + np.maximum(0, edges - begun)


def picture(program: TrainingProgram, result: ModelResult, title: str) -> str:
    """SVG: a band for each engine, filled as far as it is busy, in the colours of `KINDS`."""
    found = shares(program, result)
    used = [number for number in range(len(KINDS)) if found[:, number].any()]
    width, height = LEFT + WIDTH + 40, TOP + len(Engine) * (HEIGHT + GAP) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="15">{escape(title)}</text>',
        *_legend(used),
        *_bands(found),
        *_axis(result.cycles),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _legend(used: list[int]) -> Iterator[str]:
    x = LEFT
    for number, (name, (colour, _)) in enumerate(KINDS.items()):
        if number in used:
            yield f'<rect x="{x}" y="32" width="12" height="12" fill="{colour}"/>'
            yield f'<text x="{x + 17}" y="43" font-size="13">{name}</text>'
            x += 40 + 7 * len(name)


def _bands(found: NDArray[np.float64]) -> Iterator[str]:
    step = WIDTH / found.shape[2]
    for engine in Engine:
        y = TOP + engine * (HEIGHT + GAP)
        busy = found[engine].sum() / found.shape[2]
        yield f'<rect x="{LEFT}" y="{y}" width="{WIDTH}" height="{HEIGHT}" fill="#eeeeee"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 28}" text-anchor="end" font-size="13">{engine.name.lower()}</text>'
        yield f'<text x="{LEFT - 8}" y="{y + 46}" text-anchor="end" font-size="13" fill="#666666">{busy:.0%}</text>'
        below = np.zeros(found.shape[2])
        for (colour, _), values in zip(KINDS.values(), found[engine], strict=True):
            if values.any():
                yield _area(below, below + values, y + HEIGHT, step, colour)
            below = below + values


def _area(low: NDArray[np.float64], high: NDArray[np.float64], base: int, step: float, colour: str) -> str:
    """A stepped area between two curves of shares."""
    x = LEFT + step * np.repeat(np.arange(low.size + 1), 2)[1:-1]
    up, down = (base - HEIGHT * np.minimum(np.repeat(values, 2), 1.0) for values in (high, low))
    points = (f"{a:.0f},{b:.1f}" for a, b in [*zip(x, up), *zip(x[::-1], down[::-1])])
    return f'<polygon points="{" ".join(points)}" fill="{colour}"/>'


def _axis(cycles: int) -> Iterator[str]:
    """Ticks at round numbers of cycles."""
    y = TOP + len(Engine) * (HEIGHT + GAP) - GAP + 4
    unit = 10 ** max(0, int(np.log10(cycles)) - 1)
    step = next(unit * factor for factor in (1, 2, 5, 10) if cycles / (unit * factor) <= 10)
    for tick in range(0, cycles + 1, step):
        x = LEFT + WIDTH * tick / cycles
        yield f'<path d="M{x:.1f} {y}v6" stroke="#666666"/>'
        yield f'<text x="{x:.1f}" y="{y + 20}" text-anchor="middle" font-size="12" fill="#666666">{tick:,}</text>'
    note = "cycles; a band is full where the engine always executes an instruction"
    yield f'<text x="{LEFT}" y="{y + 38}" font-size="12" fill="#666666">{note}</text>'

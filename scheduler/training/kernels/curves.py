"""Piecewise linear functions: their lines, and the places of those that a step uses in the vector engine's table.

A line of width h is off by at most h**2 / 16 times the largest second derivative: it has the slope of the chord, in the
middle between chord and tangent. Lines that end at zero, where the function is zero, go through zero instead, so that
zeros stay zeros; they are off by twice as much at most.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from math import erf, pi, prod, sqrt

import numpy as np
from numpy.typing import NDArray

from hwgen.arch import Arch
from scheduler.hazards import Region
from scheduler.training.graph.base import Operator
from scheduler.training.graph.ir import TrainingGraph
from scheduler.training.graph.operators import Gelu, GeluGrad, Silu, SiluGrad, Softmax

SAMPLES = 65
"""Points at which a line is compared with its function."""
TANH_RATE, CUBE = sqrt(8 / pi), 0.044715
"""PyTorch's tanh form of the GELU is x sigmoid(TANH_RATE (x + CUBE x**3))."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """`function` by `size` lines, `2**shift` of them for a unit; `low` and `high`, slope and offset, at the ends.

    error : largest error from end to end, absolute, of `exp2` relative.
    passes : VECTOR instructions that compute the same without a table.
    """

    function: Callable[[Values], Values]
    shift: int
    size: int
    low: tuple[float, float]
    high: tuple[float, float]
    error: float
    passes: int

    def lines(self) -> NDArray[np.float32]:
        """Slopes and offsets, [size, 2]."""
        width = 2.0**-self.shift
        borders = width * (np.arange(self.size + 1) - self.size // 2)
        ends = self.function(borders)
        slopes = np.diff(ends) / width
        x = borders[:-1, None] + np.linspace(0, width, SAMPLES)
        rest = self.function(x) - slopes[:, None] * x
        offsets = (rest.min(axis=1) + rest.max(axis=1)) / 2
        middle = self.size // 2
        if ends[middle] == 0:
            offsets[middle - 1 : middle + 1] = 0
        found = np.stack([slopes, offsets], axis=1).astype(np.float32)
        found[0], found[-1] = self.low, self.high
        return found


def sigmoid(x: Values) -> Values:
    """`1 / (1 + exp(-x))`, without overflow."""
    return 0.5 + 0.5 * np.tanh(x / 2)


def _cdf(x: Values) -> Values:
    """The normal distribution function."""
    return 0.5 + 0.5 * np.vectorize(erf)(x / sqrt(2))


def _gelu_slope(x: Values) -> Values:
    return _cdf(x) + x * np.exp(-x * x / 2) / sqrt(2 * pi)


def _gelu_tanh_slope(x: Values) -> Values:
    y = sigmoid(TANH_RATE * (x + CUBE * x**3))
    return y * (1 + (1 - y) * TANH_RATE * (x + 3 * CUBE * x**3))


_ZERO, _ONE, _SELF = (0.0, 0.0), (0.0, 1.0), (1.0, 0.0)
CURVES = {
    "exp2": Curve(np.exp2, 5, 1024, _ZERO, _ZERO, 3.1e-5, 9),
    "gelu": Curve(lambda x: x * _cdf(x), 6, 1024, _ZERO, _SELF, 2.5e-5, 16),
    "gelu_slope": Curve(_gelu_slope, 6, 1024, _ZERO, _ONE, 1.2e-5, 16),
    "gelu_tanh": Curve(lambda x: x * sigmoid(TANH_RATE * (x + CUBE * x**3)), 6, 1024, _ZERO, _SELF, 2.5e-5, 20),
    "gelu_tanh_slope": Curve(_gelu_tanh_slope, 6, 1024, _ZERO, _ONE, 1.3e-5, 25),
    "silu": Curve(lambda x: x * sigmoid(x), 6, 2048, _ZERO, _SELF, 1.6e-5, 17),
    "silu_slope": Curve(lambda x: sigmoid(x) * (1 + x * sigmoid(-x)), 5, 1024, _ZERO, _ONE, 2e-5, 19),
}
"""Curves by name; `exp2` from -16 to 16, where the first line and all below are zero."""


@cache
def table(name: str) -> NDArray[np.float32]:
    """Lines of a curve, made once."""
    return CURVES[name].lines()


@dataclass(frozen=True)
class Place:
    """A curve in the table, from entry `first` on, and in external memory; `unit` numbers it for hazards."""

    curve: Curve
    first: int
    address: int = 0
    unit: int = 0

    @property
    def entries(self) -> Region:
        """What LOAD writes and VECTOR reads."""
        return Region("curve", self.first, self.first + self.curve.size)


@dataclass
class Curves:
    """Curves that a step may use; those that found no room are in `left_out`, if there is a table at all."""

    places: dict[str, Place] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    loaded: set[str] = field(default_factory=set)

    def __str__(self) -> str:
        kept = [f"{name} from entry {place.first} on" for name, place in self.places.items()]
        return "; ".join(kept + [f"{name} in {CURVES[name].passes} passes, no room" for name in self.left_out])


def place_curves(names: Iterable[str], arch: Arch) -> Curves:
    """Give curves their entries, the first ones first as long as there is room."""
    chosen, left_out, room = [], [], arch.vector.curve_entries
    for name in names:
        fits = CURVES[name].size <= room
        room -= CURVES[name].size if fits else 0
        (chosen if fits else left_out).append(name)
    places, first = {}, 0
    # Powers of two, the largest first: every one begins at a multiple of its size.
    for name in sorted(chosen, key=lambda name: -CURVES[name].size):
        places[name] = Place(CURVES[name], first)
        first += CURVES[name].size
    return Curves(places, tuple(left_out) if arch.vector.curve_entries else ())


def wanted(graph: TrainingGraph) -> list[str]:
    """Curves of a graph's operators, those first that save the most work."""
    work: dict[str, int] = {}
    for item in graph.operators:
        name = curve_of(item)
        if name is not None:
            values = prod(graph.tensors[item.names("result")[0]].shape)
            work[name] = work.get(name, 0) + values * CURVES[name].passes
    return sorted(work, key=lambda name: -work[name])


def curve_of(item: Operator) -> str | None:
    """The curve that an operator's kernel uses if it is there."""
    match item:
        case Softmax():
            return "exp2"
        case Gelu() | GeluGrad():
            return ("gelu_tanh" if item.tanh else "gelu") + ("_slope" if isinstance(item, GeluGrad) else "")
        case Silu():
            return "silu"
        case SiluGrad():
            return "silu_slope"
    return None

"""What survives in each layer: tokens, heads and local values, and at how many bits it is fetched."""

import math
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Self

from hwgen.arch import UserError
from models.attention.quantize import Quantization

TOKENS_UNPRUNED = 0.15
"""Share of the layers, from the first one on, that keep all tokens (SpAtten, section III-A)."""
HEADS_UNPRUNED = 0.30
"""Share of the layers, from the first one on, that keep all heads (SpAtten, section III-B)."""
FORGETTING_STEPS = 256
"""Forgetting factors are multiples of 1 / FORGETTING_STEPS."""


@dataclass(frozen=True)
class Schedule:
    """One number for each layer: `shares` of what there was at first, `caps` (counts), or `thresholds`.

    A share r keeps ceil(r n) of n, a cap c keeps min(c, n). A threshold t keeps whatever has at least t times the
    mean score of the candidates, so the count depends on data. Raises `UserError` unless exactly one is given,
    every share is in (0, 1], every cap at least 1 and every threshold in [0, 1].
    """

    shares: tuple[float, ...] = ()
    caps: tuple[int, ...] = ()
    thresholds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name, numbers in vars(self).items():
            if not isinstance(numbers, tuple):
                raise UserError(f"{name} must be a tuple with a number for each layer, not {numbers!r}")
        if sum(map(bool, (self.shares, self.caps, self.thresholds))) != 1:
            raise UserError(
                "a schedule has one list, of shares, of caps or of thresholds, with a number for each layer"
            )
        for layer, share in enumerate(self.shares):
            if not 0 < share <= 1:
                raise UserError(f"the keep ratio of layer {layer} must be above 0 and at most 1, not {share}")
        for layer, cap in enumerate(self.caps):
            if cap < 1:
                raise UserError(f"layer {layer} must keep at least one, not {cap}")
            if cap != int(cap):
                raise UserError(f"layer {layer} must keep a whole number, not {cap}")
        for layer, threshold in enumerate(self.thresholds):
            if not 0 <= threshold <= 1:
                raise UserError(f"the threshold of layer {layer} must be between 0 and 1, not {threshold}")

    @classmethod
    def linear(
        cls, layers: int, *, mean: float | None = None, last: float | None = None, first: int = 1, start: float = 1.0
    ) -> Self:
        """Keep all in layers below `first`, then fall from `start` in equal steps to `last`.

        Layer l >= `first` keeps start - (start - last) (l - first + 1) / (layers - first). Instead of the last ratio
        the `mean` of all layers can be given.
        Raises `UserError` if `first` is out of range, not exactly one ratio is given, or no last ratio gives `mean`.
        """
        if layers < 1:
            raise UserError(f"a schedule is for 1 layer or more, not {layers}")
        _check_ratios(mean=mean, last=last, start=start)
        if not 0 <= first < layers:
            raise UserError(f"the first pruned layer of {layers} must be in 0 to {layers - 1}, not {first}")
        if (mean is None) == (last is None):
            raise UserError("a linear schedule takes the mean keep ratio or the last one")
        steps = [Fraction(layer - first + 1, layers - first) for layer in range(first, layers)]
        begin = _exact(start)
        highest = first + (layers - first) * begin
        if last is None:
            last = float(begin - (highest - _exact(mean) * layers) / sum(steps))
            if not 0 < last <= start:
                least, most = float((highest - begin * sum(steps)) / layers), float(highest / layers)
                raise UserError(
                    f"with {first} of {layers} layers unpruned and a start of {start} the mean must be"
                    f" above {least:.3f} and at most {most:.3f}, not {mean}"
                )
        return cls(shares=(1.0,) * first + tuple(float(begin - (begin - _exact(last)) * step) for step in steps))

    @property
    def layers(self) -> int:
        """Number of layers."""
        return len(self.shares or self.caps or self.thresholds)

    def count(self, layer: int, n: int) -> int | None:
        """How many of `n` layer `layer` keeps; None: a threshold decides."""
        if self.caps:
            return min(self.caps[layer], n)
        # A share that is rounded to 0 still keeps one.
        return min(n, max(1, math.ceil(_exact(self.shares[layer]) * n))) if self.shares else None

    def keeps_all(self, layer: int, n: int | None) -> bool:
        """Whether a layer keeps all of `n`; None: of any number, which a cap cannot."""
        if self.caps:
            return n is not None and self.caps[layer] >= n
        return self.shares[layer] == 1 if self.shares else self.thresholds[layer] == 0

    def threshold(self, layer: int) -> float:
        """Least score over the mean score that is kept; only for schedules of thresholds."""
        return self.thresholds[layer]


def _check_ratios(**ratios: float | None) -> None:
    for name, ratio in ratios.items():
        if ratio is not None and not 0 < ratio <= 1:
            raise UserError(f"the {name} keep ratio must be above 0 and at most 1, not {ratio}")


def _exact(share: float) -> Fraction:
    """The decimal fraction that was meant, so that 0.7 of 10 is 7 and not 8."""
    return Fraction(share).limit_denominator(10_000)


def unpruned_layers(layers: int, share: float) -> int:
    """Number of layers that the first `share` of them comes to, at least one: before it nothing is known."""
    return max(1, math.ceil(_exact(share) * layers))


@dataclass(frozen=True, kw_only=True)
class PruningPolicy:
    """All choices of a run. `None` prunes nothing. Layers and heads are checked when a model is there: `check`."""

    tokens: Schedule | None = None
    """Cascade: candidates are the survivors of the layer below. Shares are of all tokens of the sequence so far."""
    heads: Schedule | None = None
    """Cascade of query heads, decided once for each sequence, in its first pass."""
    values: Schedule | None = None
    """For each head and query: how many of the keys it sees have their value fetched. Not a cascade."""
    quantization: Quantization | None = None
    """None: 32-bit floating point."""
    protect_first: int = 1
    """Tokens at the start of a sequence that are never pruned: [CLS] where it is the output. 0 if tokens are pooled."""
    recent: int = 1
    """Causal models: the last tokens, never pruned. At least 1, the token that is being decoded."""
    forgetting: float = 1.0
    """Factor on token scores before each pass after the first, in steps of 1/256."""

    def __post_init__(self) -> None:
        if self.protect_first < 0:
            raise UserError(f"protect_first must be 0 or more, not {self.protect_first}")
        if self.recent < 1:
            raise UserError(f"recent must be 1 or more, not {self.recent}: the token being decoded needs its own key")
        steps = self.forgetting * FORGETTING_STEPS
        if not 0 < self.forgetting <= 1 or steps != int(steps):
            raise UserError(f"forgetting must be a multiple of 1/{FORGETTING_STEPS} in (0, 1], not {self.forgetting}")
        for name in ("tokens", "heads", "values"):
            schedule = getattr(self, name)
            if not isinstance(schedule, Schedule | None):
                raise UserError(f"{name} must be a Schedule, such as Schedule.linear(6, last=0.5), not {schedule!r}")
            if name != "values":
                _check_cascade(name, schedule)

    @classmethod
    def average(
        cls,
        layers: int,
        *,
        tokens: float = 1.0,
        heads: float = 1.0,
        values: float = 1.0,
        **others: object,
    ) -> Self:
        """The paper's schedule: 15 % of the layers keep all tokens, 30 % all heads, then linear, with these means."""
        return cls(
            tokens=Schedule.linear(layers, mean=tokens, first=unpruned_layers(layers, TOKENS_UNPRUNED)),
            heads=Schedule.linear(layers, mean=heads, first=unpruned_layers(layers, HEADS_UNPRUNED)),
            values=Schedule(shares=(values,) * layers),
            **others,
        )

    def check(self, layers: int, heads: int, causal: bool) -> None:
        """Raise `UserError` unless the schedules fit a model of `layers` layers with `heads` query heads."""
        for name in ("tokens", "heads", "values"):
            schedule = getattr(self, name)
            if schedule is not None and schedule.layers != layers:
                raise UserError(f"the schedule of {name} has {schedule.layers} layers, the model {layers}")
        if self.heads is not None and max(self.heads.caps, default=0) > heads:
            raise UserError(f"the schedule keeps {max(self.heads.caps)} heads, the model has {heads}")
        for name in ("heads",) if causal else ("heads", "tokens"):
            schedule = getattr(self, name)
            if schedule is not None and not schedule.keeps_all(0, heads if name == "heads" else None):
                raise UserError(f"layer 0 must keep all {name}: before it runs no score is known")


def _check_cascade(name: str, schedule: Schedule | None) -> None:
    if schedule is None:
        return
    kept = schedule.shares or schedule.caps
    for layer, (below, here) in enumerate(pairwise(kept), 1):
        if here > below:
            raise UserError(f"pruned {name} cannot come back: layer {layer} keeps {here} after {below}")

"""One query of one head: scores, softmax, which LSBs and values are fetched, and the output."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hwgen.arch.attention import KEEP_FRACTION, RECIPROCAL_BITS, KeyMode, ValueMode
from models.attention_engine.planes import join, middle
from models.attention_engine.softmax import exponential, power, probability, reciprocal, row_exponentials, shrink
from models.topk import top_k

_NOTHING = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Plane:
    """Keys or values `[rows, D]` of a head; `low` is None where there is no LSB plane."""

    msb: NDArray[np.int64]
    low: NDArray[np.int64] | None = None

    def rough(self) -> NDArray[np.int64]:
        """Integers without LSBs."""
        return self.msb if self.low is None else middle(self.msb)

    def exact(self) -> NDArray[np.int64]:
        """Integers with all bits."""
        return self.msb if self.low is None else join(self.msb, self.low)

    def part(self, rows: slice) -> "Plane":
        """Some of the rows."""
        return Plane(self.msb[rows], None if self.low is None else self.low[rows])


@dataclass
class Fetched:
    """Rows that a query fetches, ascending, for each tile in turn; indices count from the first key of the job."""

    keys: list[NDArray[np.int64]] = field(default_factory=list)
    key_lows: list[NDArray[np.int64]] = field(default_factory=list)
    values: list[NDArray[np.int64]] = field(default_factory=list)
    value_lows: list[NDArray[np.int64]] = field(default_factory=list)


@dataclass(frozen=True)
class Tile:
    """What the value selection of a tile chooses from: e of its keys, and which of them are seen.

    unsure : ROW and KEY: it was not confident, and asked for LSBs. grown : its maximum is larger than those before.
    """

    e: NDArray[np.int64]
    seen: NDArray[np.bool_]
    unsure: bool
    grown: bool


@dataclass(frozen=True)
class RowResult:
    """`sums` [D]: exact sums of e x value. `total`: sum of e. `output` [D]: FP32. `probabilities` [keys]."""

    sums: NDArray[np.int64]
    total: int
    output: NDArray[np.float32]
    probabilities: NDArray[np.int64]
    fetched: Fetched
    tiles: list[Tile]


def matters(scores: NDArray[np.int64], query: NDArray[np.int64], total: int, job: dict, record: dict) -> NDArray:
    """Keys whose probability may be large enough whatever their LSBs are: those near enough to the maximum."""
    octaves = max(0, total.bit_length() - 1 - 16)
    reach = record["key_gap"] - octaves * record["key_octave"] + job["key_margin"] * int(np.abs(query).sum())
    return scores.max() - scores <= reach


def kept_values(e: NDArray[np.int64], seen: NDArray[np.bool_], share: int) -> NDArray[np.bool_]:
    """The largest e of the seen keys, share / 2^KEEP_FRACTION of them rounded up; ties to the lower index."""
    candidates = np.flatnonzero(seen)
    count = -(-len(candidates) * share >> KEEP_FRACTION)
    kept = np.zeros(len(e), dtype=np.bool_)
    if count:
        kept[candidates[top_k(e[candidates].astype(np.uint32), count)]] = True
    return kept


def tile_scores(
    query: NDArray[np.int64], keys: Plane, seen: NDArray[np.bool_], job: dict, record: dict
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Scores of a tile and which keys had their LSBs fetched."""
    return _judged_scores(query, keys, seen, job, record)[:2]


def _judged_scores(
    query: NDArray[np.int64], keys: Plane, seen: NDArray[np.bool_], job: dict, record: dict
) -> tuple[NDArray[np.int64], NDArray[np.bool_], bool]:
    """As `tile_scores`, and whether the tile was not confident."""
    scale, mode = (record["scale_mantissa"], record["scale_exponent"]), job["key_mode"]
    every, none = np.ones(len(seen), dtype=np.bool_), np.zeros(len(seen), dtype=np.bool_)
    rough = keys.rough() @ query
    if keys.low is None or mode == KeyMode.NEVER or not seen.any():
        return rough, none, False
    if mode == KeyMode.ALWAYS:
        return keys.exact() @ query, every, False
    total = int(row_exponentials(rough, seen, rough[seen].max(), scale).sum())
    if total <= record["sum_limit"]:
        return rough, none, False
    fetch = every
    if mode == KeyMode.KEY:
        fetch = none.copy()
        fetch[seen] = matters(rough[seen], query, total, job, record)
    return np.where(fetch, keys.exact() @ query, rough), fetch, True


def attend_row(
    query: NDArray[np.int64], keys: Plane, values: Plane, seen: NDArray[np.bool_], job: dict, record: dict, tile: int
) -> RowResult:
    """Attention of `query` [D] over `keys` and `values` [n, D], `seen` [n] of them, in tiles of `tile` keys.

    Probabilities are those of a row of one tile. Nothing seen: all zeros.
    """
    fetched, tiles, scale = Fetched(), [], (record["scale_mantissa"], record["scale_exponent"])
    sums, total, maximum, e = np.zeros(len(query), np.int64), 0, None, _NOTHING
    for start in range(0, len(seen), tile):
        part = slice(start, min(start + tile, len(seen)))
        scores, refined, unsure = _judged_scores(query, keys.part(part), seen[part], job, record)
        fetched.keys.append(np.arange(part.start, part.stop))
        fetched.key_lows.append(start + np.flatnonzero(refined))
        e, grown = np.zeros(len(scores), np.int64), False
        if seen[part].any():
            highest = int(scores[seen[part]].max())
            grown = maximum is not None and highest > maximum
            if grown:
                sums, total = _shrunk(sums, total, highest - maximum, scale)
            maximum = highest if maximum is None else max(maximum, highest)
            e = row_exponentials(scores, seen[part], maximum, scale)
            total += int(e.sum())
            sums = sums + _weighted(e, values.part(part), seen[part], refined.any(), job, fetched, start)
        tiles.append(Tile(e, seen[part], unsure, grown))
    r, n = reciprocal(total)
    output = scaled(sums, r, n, record["value_scale"])
    return RowResult(sums, total, output, probability(e, r, n) if total else e, fetched, tiles)


def _shrunk(sums: NDArray[np.int64], total: int, growth: int, scale: tuple[int, int]) -> tuple[NDArray[np.int64], int]:
    """Sums of earlier tiles when the maximum grows."""
    factor = int(exponential(power(np.array([growth]), *scale))[0])
    return shrink(sums, factor), shrink(total, factor)


def _weighted(
    e: NDArray[np.int64],
    values: Plane,
    seen: NDArray[np.bool_],
    refined: bool,
    job: dict,
    fetched: Fetched,
    start: int,
) -> NDArray[np.int64]:
    """Sum of e x value over the values that a tile keeps; notes which are fetched."""
    whole = job["value_keep"] == 1 << KEEP_FRACTION
    kept = kept_values(e, seen, job["value_keep"]) & (e > 0)
    rows = np.arange(len(e)) if whole else np.flatnonzero(kept)
    exact = values.low is not None and (
        job["value_mode"] == ValueMode.ALWAYS or (job["value_mode"] == ValueMode.WITH_KEYS and refined)
    )
    fetched.values.append(start + rows)
    fetched.value_lows.append(start + rows if exact else _NOTHING)
    return (e * kept) @ (values.exact() if exact else values.rough())


def scaled(sums: NDArray[np.int64], r: int, n: int, value_scale: int) -> NDArray[np.float32]:
    """FP32 outputs: the sums, each rounded to FP32, times the rounded product of 1 / total and the step of values."""
    step = np.uint32(value_scale).view(np.float32)
    inverse = np.float32(r) * np.float32(2.0 ** -(n + RECIPROCAL_BITS))
    return sums.astype(np.float32) * (inverse * step)

"""The attention core's cycle model: what jobs take, without their data. Equal to the RTL in every cycle.

`model/attention/` follows the control of every part of `hwgen/attention` in C++, in front of the memory of
`sim/attention/drive.py`. What data decide is told row by row: `RowFacts`, from the golden model or made up.
"""

import ctypes
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hwgen.arch.attention import EXP_BITS, KEEP_FRACTION, AttentionSizes, KeyMode
from hwgen.arch.errors import UserError
from hwgen.pruning.cycles import radix_passes
from models.attention_engine.engine import AttentionEngine, check_job
from models.attention_engine.row import RowResult, Tile
from sim.attention.library import Counters, Job, MemorySettings, Row, Sizes, library, model_sizes
from sim.stalls import Stalls, never

SIDES = 4
"""Beats, read requests, write requests, written beats."""


@dataclass(frozen=True)
class RowFacts:
    """What data decide about a row of a head that is alive, or a tile of a row of more than `max_length` keys.

    seen : it sees a key. low : it is not confident (ROW, KEY). picked : with KEY, keys whose LSBs it fetches. kept,
    passes : with `value_keep` below 1, places of the values that are kept and have e > 0, and elements in each pass of
    the selection behind the arrival. Places are ascending. keys : in its range, if not as many as the job says. grown :
    of a tile, its maximum is larger than those before.
    """

    seen: bool = True
    low: bool = False
    picked: Sequence[int] | NDArray[np.integer] = ()
    kept: Sequence[int] | NDArray[np.integer] = ()
    passes: tuple[int, ...] = ()
    keys: int = 0
    grown: bool = False


@dataclass(frozen=True)
class ModelJob:
    """A job, as in `JOB`, the facts of its rows (or tiles) in their order, and a bit for each head that is alive."""

    fields: dict[str, int]
    rows: Sequence[RowFacts]
    alive: int = 0xFFFF


@dataclass(frozen=True)
class JobCycles:
    """Counters of the core for a job; begins : the cycle before the first that counts, in which its command is taken or
    the job before ends; that of the first job is 0.
    """

    begins: int
    cycles: int
    products_busy: int
    read_beats: int
    write_beats: int


def selection_facts(e: NDArray[np.integer], seen: NDArray[np.bool_], value_keep: int) -> RowFacts:
    """Facts of a row that keeps ceil(seen keys x `value_keep` / 2^24) of its values, ties to the lower index."""
    count = -(-int(seen.sum()) * value_keep >> KEEP_FRACTION)
    order = np.argsort(-np.asarray(e, np.int64), kind="stable")[:count]
    kept = np.sort(order[e[order] > 0]).astype(np.uint32)
    passes = radix_passes([int(value) for value in e], count, bits=EXP_BITS)
    return RowFacts(kept=kept, passes=tuple(passes))


def row_facts(row: RowResult, job: dict[str, int]) -> list[RowFacts]:
    """What the model must know of the tiles of a row that the golden model has computed."""
    return [_tile_facts(tile, lows, job) for tile, lows in zip(row.tiles, row.fetched.key_lows)]


def _tile_facts(tile: Tile, lows: NDArray[np.integer], job: dict[str, int]) -> RowFacts:
    seen, found = bool(tile.seen.any()), RowFacts()
    if seen and job["value_keep"] < 1 << KEEP_FRACTION:
        found = selection_facts(tile.e, tile.seen, job["value_keep"])
    picked = lows if job["key_mode"] == KeyMode.KEY else ()
    return replace(found, seen=seen, low=tile.unsure, picked=picked, grown=tile.grown)


def golden_job(engine: AttentionEngine, fields: dict[str, int]) -> ModelJob:
    """Run a job on the golden model, and say what its cycles depend on."""
    alive = sum(int(flag) << head for head, flag in enumerate(engine.importance.alive))
    rows: list[RowFacts] = []
    engine.run(fields, watch=lambda row: rows.extend(row_facts(row, fields)))
    return ModelJob(fields, rows, alive)


def run_jobs(
    sizes: AttentionSizes,
    jobs: Sequence[ModelJob],
    *,
    latency: int = 40,
    stalls: Stalls = never,
    limit: int = 100_000_000,
    known: Sizes | None = None,
) -> list[JobCycles]:
    """Jobs one after the other; each command is offered from the moment on in which the one before is taken. The
    descriptor of a job is read while the one before runs, and counts there.

    latency, stalls : as for `AttentionBlock.run`. known : instead of what the components of these sizes say.

    Raises `UserError` for a job that the core refuses or whose rows are not as many as facts, AssertionError after
    `limit` cycles.
    """
    counters = (Counters * len(jobs))()
    table, rows, places, passes = job_tables(sizes, jobs)
    pattern = stall_pattern(stalls, limit)
    memory = MemorySettings(latency, len(pattern), pattern.ctypes.data)
    ended = library().attention_run(
        ctypes.byref(known or model_sizes(sizes)),
        ctypes.byref(memory),
        table,
        len(jobs),
        rows,
        *(array.ctypes.data for array in (places, passes)),
        counters,
        limit,
    )
    if not ended:
        raise AssertionError(f"the jobs have not ended after {limit} cycles")
    return [JobCycles(*(getattr(item, name) for name, _ in Counters._fields_)) for item in counters]


def job_tables(
    sizes: AttentionSizes, jobs: Sequence[ModelJob]
) -> tuple[ctypes.Array, ctypes.Array, NDArray[np.uint32], NDArray[np.uint32]]:
    """Jobs, their rows and the lists that rows point to, as C++ takes them. Raises `UserError` as `run_jobs` does."""
    for job in jobs:
        _check(sizes, job)
    return _jobs(jobs), *_rows(jobs)


def _check(sizes: AttentionSizes, job: ModelJob) -> None:
    fields = job.fields
    check_job(fields, sizes)
    keys, queries = fields["keys"], fields["queries"]
    lengths = [min(keys, fields["offset"] + query + 1) if fields["causal"] else keys for query in range(queries)]
    tiles = sum(-(-length // sizes.max_length) for length in lengths)
    wanted = tiles * (job.alive & (1 << fields["heads"]) - 1).bit_count()
    if len(job.rows) != wanted:
        raise UserError(f"the job has {wanted} rows or tiles in heads that are alive, not {len(job.rows)}")


def _jobs(jobs: Sequence[ModelJob]) -> ctypes.Array:
    made, first = (Job * len(jobs))(), 0
    for target, job in zip(made, jobs):
        for name, value in job.fields.items():
            setattr(target, name, value)
        target.alive, target.first_row = job.alive, first
        first += len(job.rows)
    return made


def _rows(jobs: Sequence[ModelJob]) -> tuple[ctypes.Array, NDArray[np.uint32], NDArray[np.uint32]]:
    """Rows of all jobs, and the lists that they point to: of keys, of passes."""
    rows = [row for job in jobs for row in job.rows]
    made, places, passes = (Row * max(1, len(rows)))(), Lists(), Lists()
    for target, row in zip(made, rows):
        target.seen, target.low, target.keys, target.grown = row.seen, row.low, row.keys, row.grown
        target.kept, target.kept_count = places.add(row.kept)
        target.picked, target.picked_count = places.add(row.picked)
        target.passes, target.passes_count = passes.add(row.passes)
    return made, places.array(), passes.array()


class Lists:
    """Lists one behind the other."""

    def __init__(self) -> None:
        self._parts, self._end = [np.zeros(0, np.uint32)], 0

    def add(self, values: Sequence[int] | NDArray[np.integer]) -> tuple[int, int]:
        """Where they begin, and how many they are."""
        first = self._end
        if len(values):
            self._parts.append(np.asarray(values, np.uint32))
            self._end += len(values)
        return first, len(values)

    def array(self) -> NDArray[np.uint32]:
        """All of them."""
        return np.concatenate(self._parts)


def stall_pattern(stalls: Stalls, limit: int) -> NDArray[np.uint8]:
    """A byte for each cycle with a bit for each side; empty for a memory that never stalls."""
    patterns = [stalls() for _ in range(SIDES)]
    if all(isinstance(pattern, itertools.repeat) for pattern in patterns) and not any(map(next, patterns)):
        return np.zeros(0, np.uint8)
    bits = np.zeros(min(limit, 1_000_000), np.uint8)
    for side, pattern in enumerate(patterns):
        bits |= np.fromiter(pattern, np.uint8, len(bits)) << side
    return bits

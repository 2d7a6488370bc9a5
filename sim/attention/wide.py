"""The full size of the attention engine, 512 + 512 multipliers and 512 bytes a cycle, by the cycle model: not built.

As hwgen/attention/README.md describes wide engines: eight channels of 64 bytes and 64 + 64 multipliers, channel c with
the keys j of j mod 8 = c. The model runs one channel, with an eighth of the keys of every row and as many kept values
as the channel that keeps most of them; the others have ended by then. Softmax and selection take 32 lanes a cycle of
all keys, 4 of those of a channel. What is added over channels (maxima, sums) takes the registers that the components
would have. Every channel reads the query for itself. Rows take turns in the top-k engines.
"""

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from hwgen.arch.attention import AttentionSizes
from hwgen.pruning.eliminate import eliminator_latency
from hwgen.pruning.radix_select import candidate_gap
from sim.attention.library import Sizes, model_sizes
from sim.attention.model import JobCycles, ModelJob, RowFacts, run_jobs
from sim.attention.trace_jobs import TraceLayer, job_fields, made_up_job

CHANNELS = 8
SELECTORS = 2
WHOLE = AttentionSizes(softmax_lanes=32, select_lanes=32, output_lanes=8, rows_in_flight=16)
"""Of which `max_length`, lanes and slots are those of the engine."""
CHANNEL = replace(WHOLE, softmax_lanes=4, select_lanes=4, max_length=WHOLE.max_length // CHANNELS)
_LEVELS = CHANNELS.bit_length() - 1


def channel_sizes() -> Sizes:
    """What the model must know of a channel: queues of its own, latencies of the engine."""
    known, whole = Sizes(), model_sizes(WHOLE)
    ctypes.pointer(known)[0] = model_sizes(CHANNEL)
    known.products_latency += _LEVELS
    known.softmax_latency = whole.softmax_latency
    known.weighted_latency += (_LEVELS + 1) // 2
    known.selectors = SELECTORS
    known.routing = eliminator_latency(WHOLE.select_lanes) - 1
    known.candidate_gap = candidate_gap(WHOLE.select_lanes)
    return known


def channel_job(layer: TraceLayer, rng: np.random.Generator) -> ModelJob:
    """What a channel has of the job of a layer."""
    job, keys = made_up_job(layer, WHOLE, rng), -(-layer.keys // CHANNELS)
    own = replace(layer, keys=keys, values=keys if layer.values == layer.keys else 1)
    return ModelJob(job_fields(own, CHANNEL), [_share(row, keys) for row in job.rows])


def _share(row: RowFacts, keys: int) -> RowFacts:
    kept = np.asarray(row.kept, np.int64)
    shares = (kept[kept % CHANNELS == channel] // CHANNELS for channel in range(CHANNELS))
    passes = tuple(-(-elements // CHANNELS) for elements in row.passes)
    return replace(row, kept=max(shares, key=len), passes=passes, keys=keys)


def one_after_the_other(layers: Sequence[TraceLayer], seed: int, latency: int) -> int:
    """Cycles of layers as jobs, each of which begins when the one before has ended."""
    jobs = _run(list(_jobs(layers, seed)), latency)
    return jobs[-1].begins + jobs[-1].cycles


def in_one_stream(layers: Sequence[TraceLayer], seed: int, latency: int) -> int:
    """Cycles of the rows of all layers as if they were those of one job, which is how the published simulator takes
    them: no layer waits for the outputs of the one before.
    """
    jobs = list(_jobs(layers, seed))
    rows = [row for job in jobs for row in job.rows]
    fields = jobs[0].fields | {"queries": len(jobs)}
    return _run([ModelJob(fields, rows)], latency)[0].cycles


def last_layer(layers: Sequence[TraceLayer], seed: int, latency: int) -> tuple[int, int]:
    """Cycles of the last layer behind the others, and of its first row alone in the same place."""
    *before, last = _jobs(layers, seed)
    alone = replace(last, rows=last.rows[:1], alive=1)
    whole, row = (_run([*before, job], latency)[-1].cycles for job in (last, alone))
    return whole, row


def _jobs(layers: Sequence[TraceLayer], seed: int) -> Iterator[ModelJob]:
    rng = np.random.default_rng(seed)
    return (channel_job(layer, rng) for layer in layers)


def _run(jobs: list[ModelJob], latency: int) -> list[JobCycles]:
    return run_jobs(CHANNEL, jobs, latency=latency, known=channel_sizes())

"""Attention jobs of published traces: layers of generated tokens, with made-up rows for the cycle model."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hwgen.arch.attention import KEEP_FRACTION, AttentionSizes, KeyMode, keep_count
from sim.attention import workloads
from sim.attention.model import ModelJob, RowFacts

PRUNED_TRACE = Path(__file__).parents[1] / "traces" / "gpt2_pruned.csv"
HEADS, LAYERS, HEAD_SIZE = 12, 12, 64
DENSE_KEYS = 993
"""Keys of the first token of the dense trace; each token has one more."""
SPREAD = 1.5
"""Standard deviation of made-up scores, in nats."""
SPAN = 1 << 22
"""Each part of a job has 4 MiB of addresses to itself."""
PARTS = (*workloads.PARTS, "job")


@dataclass(frozen=True, kw_only=True)
class TraceLayer:
    """A layer of a token: one query of each head. low_heads : bits of heads that fetch LSBs of their keys."""

    heads: int = HEADS
    keys: int
    values: int
    key_bits: int
    query_bits: int
    key_low: bool
    low_heads: int = 0
    importance: bool

    def low(self, head: int) -> bool:
        """Whether a head fetches LSBs."""
        return bool(self.low_heads >> head & 1)


def pruned_layers() -> Iterator[tuple[int, TraceLayer]]:
    """Number of the token and layer, in the order of the trace."""
    with PRUNED_TRACE.open(newline="") as file:
        for line in csv.DictReader(file):
            token, _, keys, values, low = (int(value) for value in line.values())
            yield (
                token,
                TraceLayer(
                    keys=keys, values=values, key_bits=6, query_bits=16, key_low=True, low_heads=low, importance=True
                ),
            )


def dense_layer(token: int, heads: int = HEADS) -> TraceLayer:
    """All keys and values of a token of the dense trace, 10 bits; with one head the published row alone."""
    keys = DENSE_KEYS + token
    return TraceLayer(
        heads=heads, keys=keys, values=keys, key_bits=10, query_bits=10, key_low=False, importance=heads == 1
    )


def part_address(number: int, name: str) -> int:
    """Where a part of a job is in memory."""
    return (number * len(PARTS) + PARTS.index(name)) * SPAN


def job_fields(layer: TraceLayer, sizes: AttentionSizes, number: int = 0) -> dict[str, int]:
    """The descriptor of a layer; heads of a cache have room for `max_length` tokens. number : of the job in memory."""
    return workloads.job_fields(
        heads=layer.heads,
        head_size=HEAD_SIZE,
        queries=1,
        keys=layer.keys,
        room=sizes.max_length,
        places={name: part_address(number, name) for name in workloads.PARTS},
        query_bits=layer.query_bits,
        key_bits=layer.key_bits,
        value_bits=layer.key_bits,
        key_low=int(layer.key_low),
        key_mode=int(KeyMode.ROW if layer.key_low else KeyMode.NEVER),
        value_keep=keep_count(layer.values, layer.keys),
        importance=int(layer.importance),
    )


def made_up_job(layer: TraceLayer, sizes: AttentionSizes, rng: np.random.Generator, number: int = 0) -> ModelJob:
    """The job of a layer with normally distributed scores: which values are kept, and what the selection takes."""
    fields = job_fields(layer, sizes, number)
    rows = [RowFacts(low=layer.low(head)) for head in range(layer.heads)]
    if fields["value_keep"] < 1 << KEEP_FRACTION:
        rows = [_selected(row, layer, fields["value_keep"], rng) for row in rows]
    return ModelJob(fields, rows)


def _selected(row: RowFacts, layer: TraceLayer, value_keep: int, rng: np.random.Generator) -> RowFacts:
    scores = rng.normal(0, SPREAD / np.log(2), layer.keys)
    return replace(workloads.spread_row(scores.max() - scores, value_keep), low=row.low)

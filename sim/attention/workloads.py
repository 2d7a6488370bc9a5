"""Attention layers without data, for the cycle model: what jobs fetch, and what data would decide, made up by seed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from hwgen.arch.attention import (
    EXP_BITS,
    EXP_MAX,
    KEEP_FRACTION,
    LOW_BITS,
    AttentionSizes,
    KeyMode,
    ValueMode,
    keep_count,
)
from models.attention_engine.planes import row_bytes
from sim.attention.model import ModelJob, RowFacts, selection_facts

SPAN = 1 << 24
"""Bytes of addresses that each plane of a job has to itself."""
PARTS = ("q", "k", "k_low", "v", "v_low", "out", "mask", "heads")
"""Parts of a job in memory, each with an address of its own."""
VARIETY = 16
"""Different rows that rows of the same length are drawn from: where kept values lie, how long the selection takes."""


def job_fields(
    *,
    head_size: int,
    queries: int,
    room: int,
    places: Mapping[str, int],
    query_bits: int,
    key_bits: int,
    value_bits: int,
    **others: int,
) -> dict[str, int]:
    """A job whose planes lie head behind head, those of keys and values with room for `room` tokens.

    places : the address of each of `PARTS`. What `others` leave out: no causal rows, no mask, no LSBs of values.
    """
    rows = {"q": (queries, query_bits), "k": (room, key_bits), "k_low": (room, LOW_BITS)}
    rows |= {"v": (room, value_bits), "v_low": (room, LOW_BITS)}
    bits = {"query_bits": query_bits, "key_bits": key_bits, "value_bits": value_bits}
    return {
        **{"group": 1, "causal": 0, "offset": 0, "hold": 0, "masked": 0, "forget": 256},
        **{"value_low": 0, "value_mode": int(ValueMode.NEVER), "key_margin": 0},
        **{"head_size": head_size, "queries": queries, **bits},
        **{f"{name}_addr": places[name] for name in PARTS},
        **{f"{name}_stride": count * row_bytes(head_size, width) for name, (count, width) in rows.items()},
        "out_stride": 2 * others["heads"] * head_size,
        **others,
    }


@dataclass(frozen=True, kw_only=True)
class Attention:
    """One layer. `queries`, `keys`, `values`: tokens, and values kept of each row; `alive`: heads of `heads`.

    key_bits, value_bits : of the planes. split : keys have LSBs too, fetched by rows, of which `unsure` need them;
    with `picked` by keys, of which such rows pick this share. hold : an encoder, or queries in groups of `group`, which
    load keys and values once. forget : in 1/256. tile : `max_length` of the engine, longer rows are taken in tiles,
    without importance and with all values.
    """

    heads: int
    alive: int
    head_size: int
    queries: int
    keys: int
    values: int
    key_bits: int = 12
    value_bits: int = 12
    split: bool = False
    unsure: float = 0.0
    picked: float = 0.0
    hold: bool = False
    group: int = 1
    forget: int = 256
    tile: int = AttentionSizes.max_length

    def fields(self) -> dict[str, int]:
        """The job, with its planes one behind the other."""
        return job_fields(
            heads=self.heads,
            group=self.group,
            head_size=self.head_size,
            queries=self.queries,
            keys=self.keys,
            room=self.keys,
            places={name: place * SPAN for place, name in enumerate(PARTS)},
            query_bits=12,
            key_bits=self.key_bits,
            value_bits=self.value_bits,
            key_low=int(self.split),
            key_mode=self._key_mode,
            value_keep=keep_count(self.values, self.keys) if self.values < self.keys else 1 << KEEP_FRACTION,
            hold=int(self.hold),
            importance=int(self.keys <= self.tile),
            forget=self.forget,
        )

    @property
    def _key_mode(self) -> KeyMode:
        return KeyMode.NEVER if not self.split else KeyMode.KEY if self.picked else KeyMode.ROW

    def job(self, seed: int = 0) -> ModelJob:
        """The job and facts of its rows."""
        rng = np.random.default_rng(seed)
        fields, rows = self.fields(), []
        for _ in range(self.alive * self.queries):
            row = _row(self.keys, fields["value_keep"], int(rng.integers(VARIETY)))
            row = replace(row, low=self.split and rng.random() < self.unsure)
            if row.low and self.picked:
                row = replace(row, picked=np.flatnonzero(rng.random(self.keys) < self.picked).astype(np.uint32))
            # The n-th tile has the largest score so far in one of n rows.
            rows += [
                replace(row, grown=rng.random() * (number + 1) < 1) for number in range(-(-self.keys // self.tile))
            ]
        return ModelJob(fields, rows, (1 << self.alive) - 1)

    @property
    def float_bytes(self) -> int:
        """DRAM bytes of the same layer in FP32 with nothing pruned: queries, keys, values and outputs once."""
        return 4 * self.heads * self.head_size * 2 * (self.queries + self.keys)


def spread_row(below: NDArray[np.floating], value_keep: int) -> RowFacts:
    """Facts of a row that sees all of its keys; `below` [keys]: octaves that scores are below the largest."""
    e = np.minimum(np.rint(2.0 ** (EXP_BITS - below)), EXP_MAX).astype(np.int64)
    return selection_facts(e, np.ones(len(below), bool), value_keep)


@cache
def _row(keys: int, value_keep: int, kind: int) -> RowFacts:
    """Facts of a row with scores that are spread normally, two octaves in standard deviation."""
    if value_keep == 1 << KEEP_FRACTION:
        return RowFacts()
    below = np.abs(np.random.default_rng([keys, kind]).normal(0, 2, keys))
    return spread_row(below - below.min(), value_keep)

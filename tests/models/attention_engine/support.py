"""Random attention jobs: planes, head records and a memory that holds them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwgen.arch.attention import (
    JOB,
    KEEP_FRACTION,
    LOW_BITS,
    RECORD,
    RECORD_BYTES,
    AttentionSizes,
    KeyMode,
    ValueMode,
    keep_share,
    key_limits,
    pack,
    softmax_scale,
    sum_limit,
)
from models.attention_engine.engine import AttentionEngine
from models.attention_engine.planes import pack_plane, row_bytes, split
from models.memory import Memory

SIZES = AttentionSizes()
BASES = {"q": 0, "k": 1, "k_low": 2, "v": 3, "v_low": 4, "out": 5, "mask": 6, "heads": 7}
"""Each part of a job has 16 MiB of addresses to itself."""
SPAN = 1 << 24


@dataclass
class Layer:
    """A job with its integers: `query` [heads, queries, D], `key` and `value` [kv heads, keys, D]; scales per head."""

    job: dict[str, int]
    records: list[dict[str, int]]
    query: NDArray[np.int64]
    key: NDArray[np.int64]
    value: NDArray[np.int64]
    scale: NDArray[np.float64]
    value_step: NDArray[np.float32]
    mask: NDArray[np.bool_]

    def engine(self, sizes: AttentionSizes = SIZES) -> AttentionEngine:
        """A golden engine in front of a memory with this layer."""
        return AttentionEngine(sizes, Memory(self.images(sizes)))

    def images(self, sizes: AttentionSizes = SIZES) -> dict[int, bytes]:
        """Memory contents by address, each padded to whole beats; outputs are filled with 0xFF."""
        job = self.job
        parts = {"q": pack_plane(self.query, job["query_bits"])}
        for name, integers, word in (("k", self.key, "key"), ("v", self.value, "value")):
            msb, low = split(integers) if job[f"{word}_low"] else (integers, None)
            parts[name] = pack_plane(msb, job[f"{word}_bits"])
            if low is not None:
                parts[f"{name}_low"] = pack_plane(low, LOW_BITS)
        parts["out"] = b"\xff" * (job["queries"] * job["out_stride"])
        parts["mask"] = np.packbits(self.mask, bitorder="little").tobytes()
        parts["heads"] = b"".join(pack(RECORD, RECORD_BYTES, record) for record in self.records)
        return {BASES[name] * SPAN: data + bytes(-len(data) % sizes.beat_bytes) for name, data in parts.items()}

    def outputs(self, engine: AttentionEngine) -> NDArray[np.float16]:
        """FP16 outputs [heads, queries, D] in the memory of an engine that ran the job."""
        heads, queries, size = self.query.shape
        rows = engine.memory.read_rows(self.job["out_addr"], queries, heads * size * 2, self.job["out_stride"])
        return rows.view("<f2").reshape(queries, heads, size).transpose(1, 0, 2)


def random_integers(rng: np.random.Generator, shape: tuple[int, ...], bits: int) -> NDArray[np.int64]:
    """Normal values whose largest magnitudes saturate `bits` bits now and then."""
    limit = (1 << bits - 1) - 1
    return np.clip(np.rint(rng.normal(0, limit / 3, shape)), -limit, limit).astype(np.int64)


def random_layer(rng: np.random.Generator, **choices: object) -> Layer:
    """A layer of random sizes, bits and modes; `choices` fix job fields, and `threshold`, `cutoff`, `spread`.

    spread : standard deviation of the scores, in nats.
    """

    def pick(name: str, *options: object) -> object:
        value = options[rng.integers(len(options))]
        return choices.pop(name, value)

    heads, size = pick("heads", 1, 2, 4), pick("head_size", 16, 32, 48, 64, 80, 128)
    queries, keys = pick("queries", 1, 2, 7), pick("keys", 1, 5, 16, 33, 64, 100, 200)
    group = pick("group", *(g for g in (1, 2, 4) if heads % g == 0))
    job = {
        "heads": heads,
        "group": group,
        "head_size": size,
        "queries": queries,
        "keys": keys,
        "causal": pick("causal", 0, 1),
        "offset": pick("offset", 0, max(0, keys - queries)),
        "hold": pick("hold", 0, 1),
        "masked": pick("masked", 0, 1),
        "query_bits": pick("query_bits", 4, 6, 8, 10, 12, 14, 16),
        "key_bits": pick("key_bits", 4, 6, 8, 10, 12),
        "value_bits": pick("value_bits", 4, 6, 8, 10, 12),
        "key_low": pick("key_low", 0, 1, 1),
        "value_low": pick("value_low", 0, 1),
        "key_mode": pick("key_mode", *range(4)),
        "value_mode": pick("value_mode", *range(3)),
        "key_margin": pick("key_margin", 0, 1, 16),
        "value_keep": pick("value_keep", 1 << KEEP_FRACTION, keep_share(0.5), keep_share(0.1)),
        "importance": pick("importance", 0, 1),
        "forget": pick("forget", 256, 200),
    }
    threshold, cutoff, spread = pick("threshold", 0.1, 0.5, 2), pick("cutoff", 0.001, 0.01), pick("spread", 0.3, 2, 6)
    mask = choices.pop("mask", rng.random(keys) < 0.7) if job["masked"] else np.ones(keys, dtype=np.bool_)
    return _layer(rng, job | choices, threshold, cutoff, spread, np.asarray(mask, dtype=np.bool_))


def _layer(rng: np.random.Generator, job: dict, threshold: float, cutoff: float, spread: float, mask: NDArray) -> Layer:
    size, kv_heads = job["head_size"], job["heads"] // job["group"]
    bits = {word: job[f"{word}_bits"] + LOW_BITS * job[f"{word}_low"] for word in ("key", "value")}
    query = random_integers(rng, (job["heads"], job["queries"], size), job["query_bits"])
    key = random_integers(rng, (kv_heads, job["keys"], size), bits["key"])
    value = random_integers(rng, (kv_heads, job["keys"], size), bits["value"])
    spreads = ((1 << job["query_bits"] - 1) - 1) * ((1 << bits["key"] - 1) - 1) / 9 * np.sqrt(size)
    scale = np.minimum(spread / spreads * rng.uniform(0.5, 1, job["heads"]), 0.69)
    steps = (rng.uniform(0.5, 2, job["heads"]) / (1 << bits["value"] - 1)).astype(np.float32)
    records = []
    for head_scale, step in zip(scale, steps):
        mantissa, exponent = softmax_scale(head_scale)
        gap, octave = key_limits(cutoff, head_scale)
        records.append(
            {
                "scale_mantissa": mantissa,
                "scale_exponent": exponent,
                "value_scale": int(step.view(np.uint32)),
                "sum_limit": sum_limit(threshold),
                "key_gap": gap,
                "key_octave": octave,
            }
        )
    job |= {f"{name}_addr": base * SPAN for name, base in BASES.items()}
    job |= {
        "q_stride": job["queries"] * row_bytes(size, job["query_bits"]),
        "k_stride": job["keys"] * row_bytes(size, job["key_bits"]),
        "k_low_stride": job["keys"] * row_bytes(size, LOW_BITS),
        "v_stride": job["keys"] * row_bytes(size, job["value_bits"]),
        "v_low_stride": job["keys"] * row_bytes(size, LOW_BITS),
        "out_stride": job["heads"] * size * 2,
    }
    assert job.keys() == {item.name for item in JOB}
    return Layer(job, records, query, key, value, scale, steps, mask)


__all__ = ["SIZES", "KeyMode", "Layer", "ValueMode", "random_integers", "random_layer"]

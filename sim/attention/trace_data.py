"""Random data that make a layer of a trace do what the trace says, and the Verilated core that runs them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwgen.arch.attention import (
    EXP_BITS,
    JOB,
    JOB_BYTES,
    LOW_BITS,
    RECORD,
    RECORD_BYTES,
    AttentionSizes,
    pack,
    softmax_scale,
    sum_limit,
)
from models.attention_engine.engine import AttentionEngine
from models.attention_engine.planes import pack_plane, split
from models.memory import Memory
from sim.attention.block import AttentionBlock
from sim.attention.model import JobCycles, ModelJob, golden_job, run_jobs
from sim.attention.trace_jobs import HEAD_SIZE, SPREAD, TraceLayer, job_fields, part_address

_NEVER, _ALWAYS = 0, 2
"""Thresholds on the largest probability: no row, and every row, is below."""


@dataclass(frozen=True)
class LayerRun:
    """A layer on RTL, its outputs and importance equal to golden; and what the cycle model says of the same rows."""

    rtl: JobCycles
    model: JobCycles


def layer_images(layer: TraceLayer, sizes: AttentionSizes, number: int, rng: np.random.Generator) -> dict[int, bytes]:
    """Memory of a job by address: random planes, and head records that ask for LSBs in the heads of the trace."""
    bits = layer.key_bits + LOW_BITS * layer.key_low
    query = _integers(rng, (layer.heads, 1, HEAD_SIZE), layer.query_bits)
    key = _integers(rng, (layer.heads, layer.keys, HEAD_SIZE), bits)
    value = _integers(rng, (layer.heads, layer.keys, HEAD_SIZE), layer.key_bits)
    fields = job_fields(layer, sizes, number)
    parts = {"q": _plane(query, layer.query_bits, fields["q_stride"])}
    msb, low = split(key) if layer.key_low else (key, None)
    parts["k"] = _plane(msb, layer.key_bits, fields["k_stride"])
    if low is not None:
        parts["k_low"] = _plane(low, LOW_BITS, fields["k_low_stride"])
    parts["v"] = _plane(value, layer.key_bits, fields["v_stride"])
    parts["out"] = b"\xff" * fields["out_stride"]
    deviation = _deviation(layer.query_bits) * _deviation(bits) * np.sqrt(HEAD_SIZE)
    parts["heads"] = b"".join(_record(SPREAD / deviation, layer.low(head)) for head in range(layer.heads))
    parts["job"] = pack(JOB, JOB_BYTES, fields)
    return {part_address(number, name): data + bytes(-len(data) % sizes.beat_bytes) for name, data in parts.items()}


def _deviation(bits: int) -> float:
    return ((1 << bits - 1) - 1) / 3


def _integers(rng: np.random.Generator, shape: tuple[int, ...], bits: int) -> NDArray[np.int64]:
    limit = (1 << bits - 1) - 1
    return np.clip(np.rint(rng.normal(0, _deviation(bits), shape)), -limit, limit).astype(np.int64)


def _plane(integers: NDArray[np.int64], bits: int, stride: int) -> bytes:
    """Heads `stride` bytes apart."""
    return b"".join(pack_plane(head, bits).ljust(stride, b"\0") for head in integers)


def _record(scale: float, low: bool) -> bytes:
    mantissa, exponent = softmax_scale(scale)
    record = {
        "scale_mantissa": mantissa,
        "scale_exponent": exponent,
        "value_scale": int(np.float32(2.0**-EXP_BITS).view(np.uint32)),
        "sum_limit": sum_limit(_ALWAYS if low else _NEVER),
        "key_gap": 0,
        "key_octave": 0,
    }
    return pack(RECORD, RECORD_BYTES, record)


def run_layers(block: AttentionBlock, layers: list[TraceLayer], seed: int, latency: int) -> list[LayerRun]:
    """Layers on RTL, one after the other. Raises `AssertionError` where RTL differs from golden, or from the trace."""
    sizes, runs = block.sizes, []
    golden = AttentionEngine(sizes, Memory(sizes.beat_bytes))
    block.clear()
    for number, layer in enumerate(layers):
        images = layer_images(layer, sizes, number, np.random.default_rng([seed, number]))
        golden.memory, memory = Memory(images), Memory(images)
        fields = job_fields(layer, sizes, number)
        job = golden_job(golden, fields)
        _check_trace(layer, job)
        block.alive = job.alive
        run = block.run(part_address(number, "job"), memory, latency=latency)
        out = fields["out_addr"], fields["out_stride"]
        assert not run.error, f"job {number} was refused"
        assert memory.read(*out) == golden.memory.read(*out), f"outputs of job {number} differ from golden"
        counts = run.cycles, run.products_busy, run.read_beats, run.write_beats
        runs.append(LayerRun(JobCycles(0, *counts), run_jobs(sizes, [job], latency=latency)[0]))
    assert block.tokens() == golden.importance.tokens.tolist(), "importance of tokens differs from golden"
    assert block.heads() == golden.importance.heads.tolist(), "importance of heads differs from golden"
    return runs


def _check_trace(layer: TraceLayer, job: ModelJob) -> None:
    """The data do what the trace says."""
    for head, row in enumerate(job.rows):
        assert row.low == layer.low(head), f"head {head} does not fetch LSBs as the trace says"
        kept = len(row.kept) or layer.keys
        assert kept == layer.values, f"head {head} keeps {kept} values, not {layer.values}"

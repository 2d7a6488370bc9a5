"""Descriptors of the attention engine for one layer: what the policy and the calibration come to in its fields.

Everything here is numbers; where things lie is up to `kernels.py`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwgen.arch import UserError
from hwgen.arch.attention import (
    KEEP_FRACTION,
    RECORD,
    RECORD_BYTES,
    AttentionSizes,
    KeyMode,
    ValueMode,
    keep_count,
    keep_share,
    key_limits,
    pack,
    softmax_scale,
    sum_limit,
)
from models.attention.attention import Magnitudes
from models.attention.calibrate import EXACT
from models.attention.policy import PruningPolicy
from models.attention.quantize import Quantization, scale_of
from scheduler.attention.operators import Attend

FORGET_NOTHING = 256
"""`forget` of layers that continue a sequence."""
ALL_LSBS = 16
"""`key_margin` with which no key is left out whose probability can reach the cutoff."""
VALUE_MODES = {"never": ValueMode.NEVER, "with_keys": ValueMode.WITH_KEYS, "always": ValueMode.ALWAYS}


@dataclass(frozen=True)
class Operands:
    """How queries, keys or values become planes: bits of the first one, whether there is an LSB plane, steps."""

    bits: int
    split: bool
    steps: NDArray[np.float32]
    """Of each head."""

    @property
    def inverse(self) -> NDArray[np.float32]:
        """What QUANTIZE multiplies by: 1 / step, rounded once."""
        return np.float32(1) / self.steps


@dataclass(frozen=True)
class LayerJobs:
    """Numbers of a layer's descriptors."""

    item: Attend
    tokens: int
    head_size: int
    query: Operands
    key: Operands
    value: Operands
    fields: dict[str, int]
    """Of the attention job, but for addresses, strides, masks and whether importance is needed."""
    records: bytes
    """A record for each head."""


def quantization_of(policy: PruningPolicy) -> Quantization:
    """Bits of a policy; the engine multiplies integers, so that a policy without any has all 16 of them."""
    return policy.quantization or EXACT.quantization


def layer_jobs(
    item: Attend,
    shape: tuple[int, int, int, int],
    policy: PruningPolicy,
    layer: int,
    magnitudes: Magnitudes,
    sizes: AttentionSizes,
    first: int = 0,
    most: int = 0,
) -> LayerJobs:
    """Numbers of layer `layer`, whose queries have `shape` [1, 1, T, heads x head size].

    `first` tokens of the layer are in the cache already; then T is 1, and `most` keys are seen at the end.
    """
    tokens, head_size, group = shape[2], shape[3] // item.heads, item.heads // item.kv_heads
    bits = quantization_of(policy)
    _check(item, magnitudes)
    query, key, value = operands = _operands(bits, magnitudes)
    fields = _fields(item, bits, tokens, first) | {
        "head_size": head_size,
        # Rows that are alone with their keys have nothing from having them on chip.
        "hold": int(tokens * group > 1 and sizes.words(head_size, max(tokens, most)) <= sizes.buffer_words),
        "query_bits": query.bits,
        "key_bits": key.bits,
        "value_bits": value.bits,
        "value_keep": value_keep(policy, layer, item, tokens, first),
        "forget": FORGET_NOTHING if layer or first else 0,
    }
    return LayerJobs(item, tokens, head_size, *operands, fields, _records(item, bits, operands))


def _check(item: Attend, magnitudes: Magnitudes) -> None:
    for name, heads in (("query", item.heads), ("key", item.kv_heads), ("value", item.kv_heads)):
        found = getattr(magnitudes, name).shape
        if tuple(found) != (1, heads):
            raise UserError(f"magnitudes of {name} must be [1, {heads}], not {list(found)}: calibrate the model")


def _operands(bits: Quantization, magnitudes: Magnitudes) -> tuple[Operands, Operands, Operands]:
    """Queries, keys and values."""
    query, key, value = (
        scale_of(one[0], bits.bits).numpy().astype(np.float32)
        for one in (magnitudes.query, magnitudes.key, magnitudes.value)
    )
    return Operands(bits.bits, False, query), Operands(bits.msb, True, key), Operands(bits.msb, True, value)


def _fields(item: Attend, bits: Quantization, tokens: int, first: int) -> dict[str, int]:
    """Fields that do not depend on the layer."""
    return {
        "heads": item.heads,
        "group": item.heads // item.kv_heads,
        "queries": tokens,
        "keys": first + tokens,
        "causal": int(item.causal),
        "offset": 0,
        "key_low": 1,
        "value_low": 1,
        "key_mode": key_mode(bits),
        "value_mode": VALUE_MODES[bits.value_lsb],
        "key_margin": ALL_LSBS if bits.cutoff is not None else 0,
    }


def key_mode(bits: Quantization) -> KeyMode:
    """When LSBs of keys are read."""
    if bits.one_pass:
        return KeyMode.ALWAYS
    if bits.threshold == 0:
        return KeyMode.NEVER
    return KeyMode.ROW if bits.cutoff is None else KeyMode.KEY


def value_keep(policy: PruningPolicy, layer: int, item: Attend, tokens: int, first: int) -> int:
    """Share of the values that a layer keeps.

    Without causal masks (and cache) every row sees all tokens, so that any count can be asked for.
    """
    schedule = policy.values
    if schedule is None:
        return 1 << KEEP_FRACTION
    if not item.causal and not first:
        return keep_count(schedule.count(layer, tokens), tokens)
    if schedule.caps:
        raise UserError(
            "the schedule of values has caps: rows of causal attention see different numbers of keys, so "
            "that only shares are allowed"
        )
    return keep_share(schedule.shares[layer])


def _records(item: Attend, bits: Quantization, operands: tuple[Operands, Operands, Operands]) -> bytes:
    """Records of all heads; those of a group have keys and values in common."""
    group = item.heads // item.kv_heads
    query, key, value = (operand.steps.tolist() for operand in operands)
    steps = ((query[head], key[head // group], value[head // group]) for head in range(item.heads))
    return b"".join(_record(item, bits, *of_head) for of_head in steps)


def _record(item: Attend, bits: Quantization, query: float, key: float, value: float) -> bytes:
    scale = query * key * item.scale
    mantissa, exponent = softmax_scale(scale)
    gap, octave = (0, 0) if bits.cutoff is None else key_limits(bits.cutoff, scale)
    fields = {
        "scale_mantissa": mantissa,
        "scale_exponent": exponent,
        "value_scale": int(np.float32(value).view(np.uint32)),
        "sum_limit": sum_limit(bits.threshold),
        "key_gap": gap,
        "key_octave": octave,
    }
    return pack(RECORD, RECORD_BYTES, fields)

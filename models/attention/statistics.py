"""What a layer fetched and multiplied, beside the same layer in FP32 without pruning."""

from dataclasses import asdict, dataclass, fields
from typing import Self

import torch
from torch import Tensor

from models.attention.attention import Attention
from models.attention.quantize import Quantization

FLOAT_BITS = 32


@dataclass
class LayerStatistics:
    """Sums over sequences and passes. A row is a query of a head; a pair is a row and a key it sees.

    A query, key or value row of a head (and each of its planes) is fetched once in a pass, whole bytes, if anything
    needs it; heads of a group share keys and values. Linear layers are counted by rows: pruned heads would spare
    parts of the projections, which is not counted. Baseline (`dense`): all tokens, all heads, FP32.
    """

    sequences: int = 0
    passes: int = 0
    tokens: int = 0
    """Rows of hidden states that the attention layer takes."""
    heads: int = 0
    keys: int = 0
    """Keys of the layer's tokens, before heads."""
    rows: int = 0
    rows_lsb: int = 0
    """Rows that need LSBs."""
    pairs: int = 0
    pairs_lsb: int = 0
    pairs_value: int = 0
    """Values multiplied."""
    macs: int = 0
    """Multiplications of attention: scores, scores again with LSBs, values."""
    macs_dense: int = 0
    linear_macs: int = 0
    linear_macs_dense: int = 0
    query_bytes: int = 0
    key_msb_bytes: int = 0
    key_lsb_bytes: int = 0
    value_msb_bytes: int = 0
    value_lsb_bytes: int = 0
    bytes_dense: int = 0

    def __add__(self, other: Self) -> Self:
        return type(self)(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    @property
    def bytes(self) -> int:
        """Bytes read from DRAM."""
        keys, values = self.key_msb_bytes + self.key_lsb_bytes, self.value_msb_bytes + self.value_lsb_bytes
        return self.query_bytes + keys + values

    @property
    def reduction(self) -> float:
        """FP32 unpruned bytes over bytes."""
        return self.bytes_dense / self.bytes

    def as_dict(self) -> dict[str, int]:
        """All counts and the bytes in all, for JSON."""
        return asdict(self) | {"bytes": self.bytes}


class Statistics:
    """Counts of each layer since the start or the last `reset`."""

    def __init__(self, layers: int) -> None:
        self.layers = [LayerStatistics() for _ in range(layers)]

    @property
    def total(self) -> LayerStatistics:
        """Sum over layers."""
        return sum(self.layers, LayerStatistics())

    def reset(self) -> None:
        """Count from zero."""
        self.layers = [LayerStatistics() for _ in self.layers]


@dataclass(frozen=True)
class Dense:
    """The same pass without pruning: tokens that enter, tokens in all so far, pairs of one head."""

    queries: int
    keys: int
    pairs: int


@dataclass(frozen=True)
class Live:
    """What is left: rows of `tokens` [B, Q], of `keys` [B, K], and `heads` [B, H]."""

    tokens: Tensor
    keys: Tensor
    heads: Tensor


def row_bytes(dim: int, *planes: int) -> int:
    """Bytes of a row of a head, `dim` values, in planes of so many bits, each in whole bytes."""
    return sum(-(-dim * bits // 8) for bits in planes)


def count(
    result: Attention,
    visible: Tensor,
    live: Live,
    groups: int,
    quantization: Quantization | None,
    dense: Dense,
) -> LayerStatistics:
    """Count one pass of a layer. `visible` [B, H, Q, K]; `groups`: query heads for each KV head."""
    batch, every, _, dim = result.output.shape
    pairs, pairs_lsb, pairs_value = (int(mask.sum()) for mask in (visible, result.lsb_keys, result.values_kept))
    again = 0 if quantization is None or quantization.one_pass else pairs_lsb
    return LayerStatistics(
        sequences=batch,
        passes=1,
        tokens=int(live.tokens.sum()),
        heads=int(live.heads.sum()),
        keys=int(live.keys.sum()),
        rows=int(visible.any(-1).sum()),
        rows_lsb=int(result.lsb_keys.any(-1).sum()),
        pairs=pairs,
        pairs_lsb=pairs_lsb,
        pairs_value=pairs_value,
        macs=(pairs + again + pairs_value) * dim,
        macs_dense=2 * dense.pairs * every * dim,
        bytes_dense=(dense.queries * groups + 2 * dense.keys) * every // groups * row_bytes(dim, FLOAT_BITS),
        **fetched_bytes(result, visible, groups, quantization),
    )


def fetched_bytes(result: Attention, visible: Tensor, groups: int, quantization: Quantization | None) -> dict[str, int]:
    """Bytes of queries (all planes), and of each plane of keys and values."""
    dim = result.output.shape[3]
    planes = (FLOAT_BITS,) if quantization is None else (quantization.msb, quantization.lsb)
    msb, lsb = row_bytes(dim, planes[0]), row_bytes(dim, *planes[1:])
    return {
        "query_bytes": int(visible.any(-1).sum()) * (msb + lsb),
        "key_msb_bytes": fetched_rows(visible, groups) * msb,
        "key_lsb_bytes": fetched_rows(result.lsb_keys, groups) * lsb,
        "value_msb_bytes": fetched_rows(result.values_kept, groups) * msb,
        "value_lsb_bytes": fetched_rows(result.values_lsb, groups) * lsb,
    }


def fetched_rows(needed: Tensor, groups: int) -> int:
    """Rows of KV heads that any query of any head of the group needs, from a mask [B, H, Q, K]."""
    return int(torch.any(needed.unflatten(1, (-1, groups)), dim=2).any(2).sum())

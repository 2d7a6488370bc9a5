"""Sequences that are shorter than a program is for: padded batches, each sentence computed with its own length.

Products of the array take all rows, and work row by row. What depends on how many tokens there are is in descriptors:
rows that are quantised, seen, kept and copied. A host writes these with the hidden states of a sequence.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from hwgen.arch import UserError
from hwgen.arch.attention import JOB, JOB_BYTES, pack
from hwgen.arch.services import Job, pack_service
from models.attention.policy import PruningPolicy
from scheduler.attention.cascade import Kept, kept_for
from scheduler.attention.jobs import value_keep
from scheduler.attention.operators import Attend


def lengths_of(attention_mask: torch.Tensor) -> list[int]:
    """Tokens of each sequence of a padded batch, by its mask [batch, tokens] of ones and then zeros.

    Raises `UserError` for other masks.
    """
    if not isinstance(attention_mask, torch.Tensor) or attention_mask.dim() != 2 or attention_mask.is_floating_point():
        raise UserError(
            "an attention mask must be integers or booleans [batch, tokens], 1 for a token and 0 for padding"
        )
    seen = attention_mask.to(torch.int64)
    for number, row in enumerate(seen.tolist()):
        if row != sorted(row, reverse=True) or not set(row) <= {0, 1}:
            raise UserError(f"the attention mask of sequence {number} must be ones and then zeros: pad on the right")
    return seen.sum(1).tolist()


@dataclass(frozen=True)
class Sized:
    """A descriptor with counts that depend on the length of the sequence: what it says of the longest one."""

    address: int
    job: Job
    fields: dict[str, int]
    layer: int


@dataclass
class Lengths:
    """What changes in memory with the length of a sequence."""

    policy: PruningPolicy
    layers: tuple[Attend, ...]
    longest: int
    sized: list[Sized] = field(default_factory=list)

    def kept(self, length: int) -> list[Kept]:
        """What each layer keeps. Raises `UserError` for more tokens than the program is for."""
        if not 0 <= length <= self.longest:
            raise UserError(f"a sequence must have 0..{self.longest} tokens for this program, not {length}")
        return kept_for(self.policy, self.layers, length)

    def contents(self, length: int) -> Iterator[tuple[int, bytes]]:
        """Addresses, and what is there for a sequence; one without tokens is run as one whose token nobody reads."""
        kept = self.kept(length)
        for item in self.sized:
            tokens = max(1, kept[item.layer].tokens)
            later = max(1, kept[item.layer + 1].tokens) if item.layer + 1 < len(kept) else tokens
            match item.job:
                case Job.ATTENTION:
                    yield item.address, pack(JOB, JOB_BYTES, item.fields | self._attention(item.layer, tokens))
                    continue
                case Job.SELECT:
                    first = min(self.policy.protect_first, tokens)
                    counts = {"length": tokens, "keep": later, "first": first}
                    if item.fields["protected"]:
                        yield item.fields["protect_addr"], recent_bits(tokens, self.policy.recent)
                case Job.GATHER:
                    counts = {"rows": later}
                case _:
                    counts = {"rows": tokens}
            yield item.address, pack_service(item.job, item.fields | counts)

    def _attention(self, layer: int, tokens: int) -> dict[str, int]:
        keep = value_keep(self.policy, layer, self.layers[layer], tokens, 0)
        return {"queries": tokens, "keys": tokens, "value_keep": keep}


def recent_bits(tokens: int, recent: int) -> bytes:
    """Bits of the last tokens, as SELECT reads them."""
    bits: NDArray[np.bool_] = np.arange(tokens) >= tokens - recent
    return np.packbits(bits, bitorder="little").tobytes()

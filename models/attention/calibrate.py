"""Largest magnitudes of queries, keys and values over example inputs: they set the scales of quantisation."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from models.attention.attention import Magnitudes
from models.attention.policy import PruningPolicy
from models.attention.quantize import Quantization
from models.attention.wrapper import prune

EXACT = PruningPolicy(quantization=Quantization(msb=12, lsb=4, threshold=2))
"""Prunes nothing and multiplies all 16 bits, whose error is far below that of any split that is calibrated for."""


def calibrate(model: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> list[Magnitudes]:
    """Largest magnitudes [1, heads] of each layer over all `batches`, the arguments of the model by name."""
    found: list[Magnitudes] | None = None
    with torch.no_grad(), prune(model, EXACT) as pruned:
        for batch in batches:
            model(**batch)
            seen = [largest_of([layer]) for layer in pruned.cascade.magnitudes]
            found = seen if found is None else [largest_of(pair) for pair in zip(found, seen)]
    return found


def largest_of(measured: Iterable[Magnitudes]) -> Magnitudes:
    """Largest magnitudes over sequences and over several measurements of a layer."""
    parts = [(one.query, one.key, one.value) for one in measured]
    return Magnitudes(*(torch.cat(tensors).amax(0, keepdim=True) for tensors in zip(*parts)))

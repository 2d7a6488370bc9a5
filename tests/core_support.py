"""What tests of the attention core and of the jobs beside attention share: small sizes, and memories."""

import numpy as np

from hwgen.arch.attention import AttentionSizes
from tests.support import at_random, never

SIZES = {
    "16": AttentionSizes(
        multipliers=16, beat_bytes=16, softmax_lanes=4, output_lanes=2, max_length=64, buffer_words=256, max_heads=4,
        rows_in_flight=2, reads_in_flight=16,
    ),
    "32": AttentionSizes(
        multipliers=32, beat_bytes=32, softmax_lanes=8, select_lanes=2, output_lanes=4, max_length=64, buffer_words=256,
        max_heads=4, rows_in_flight=4, reads_in_flight=16,
    ),
}  # fmt: skip
"""Sizes by the bytes of a beat."""


def timing(rng: np.random.Generator, case: int) -> dict[str, object]:
    """A memory: latency and stalls."""
    probability = float(rng.choice([0, 0.2, 0.6]))
    stalls = at_random(case, probability) if probability else never
    return {"latency": int(rng.choice([1, 7, 40])), "stalls": stalls}

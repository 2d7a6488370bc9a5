"""Vectors for top-k engines, and the engines that are tested."""

import random
from functools import cache

import numpy as np

from hwgen.pruning.words import TopKSizes
from models.topk import top_k
from sim.topk_block import Call, Result, TopKBlock

ENGINES = {
    "one": (TopKSizes(width=1, bits=12, max_length=20), "radix", 6),
    "odd": (TopKSizes(width=4, bits=10, max_length=50), "radix", 3),
    "paper": (TopKSizes(width=16, bits=12, max_length=1024), "radix", 4),
    "wide": (TopKSizes(width=32, bits=6, max_length=256), "radix", 2),
    "fp32": (TopKSizes(width=4, bits=32, max_length=64), "radix", 4),
    "quick": (TopKSizes(width=4, bits=12, max_length=100), "quick", 4),
    "quick_wide": (TopKSizes(width=32, bits=5, max_length=128), "quick", 4),
}
"""Widths with no, one and two registers in the network; two digits and more; lengths that are no multiple."""


@cache
def engine(name: str) -> TopKBlock:
    sizes, method, digit = ENGINES[name]
    return TopKBlock(sizes, method=method, digit=digit)


def random_scores(source: random.Random, sizes: TopKSizes, length: int) -> list[int]:
    """Random, few distinct, constant, one bit of difference, largest and smallest, close together; sorted or not."""
    bits = sizes.bits
    base = source.getrandbits(bits)
    kinds = [
        lambda: source.getrandbits(bits),
        lambda: source.choice([0, 1, base, (1 << bits) - 1]),
        lambda: base,
        lambda: base ^ (source.random() < 0.1) << source.randrange(bits),
        lambda: base & ~7 | source.getrandbits(2),
        lambda: source.getrandbits(bits) * (source.random() < 0.3),
    ]
    kind = source.choice(kinds)
    scores = [kind() for _ in range(length)]
    order = source.randrange(4)
    return sorted(scores, reverse=order == 1) if order < 2 else scores


def random_calls(source: random.Random, sizes: TopKSizes, count: int) -> list[Call]:
    """Lengths of all sizes, k often at its limits."""
    calls = []
    for _ in range(count):
        most = source.choice([sizes.max_length, 3 * sizes.width + 2, sizes.width])
        length = source.choice([1, most, source.randint(1, most)])
        length = min(length, sizes.max_length)
        k = source.choice([0, 1, length, length // 2, source.randint(0, length)])
        calls.append(Call(random_scores(source, sizes, length), k))
    return calls


def kept(call: Call) -> list[int]:
    return top_k(np.array(call.scores, np.uint64), call.k).tolist()


def check(block: TopKBlock, calls: list[Call], **stalls) -> list[Result]:
    """Run calls and compare every result with golden: indices, scores, full beats, no error, nothing left inside."""
    results = block.run(calls, **stalls)
    for call, result in zip(calls, results):
        wanted = kept(call)
        assert (result.indices, result.error) == (wanted, False), call
        assert result.scores == [call.scores[index] for index in wanted], call
        full, rest = divmod(call.k, block.sizes.width)
        assert result.counts == [block.sizes.width] * full + [rest] * (rest > 0 or call.k == 0), call
    assert block.idle()
    return results

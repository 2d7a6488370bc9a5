"""The zero eliminator against a list comprehension: every mask, long sequences, stalls, latency, rate."""

import random
from functools import cache

import pytest

from hwgen.pruning.eliminate import ZeroEliminator, eliminator_latency
from tests.hwgen.stream_support import StreamBlock, Transfer
from tests.support import at_random, every_fourth, long, never

pytestmark = pytest.mark.verilator
WIDTHS = (1, 4, 8, 32)
BITS = 7


@cache
def block(width: int) -> StreamBlock:
    return StreamBlock(ZeroEliminator(shape=BITS, width=width), "eliminator")


def beats(width: int, sequences: list[list[tuple[list[int], int]]], errors: list[int]) -> list[int]:
    """Bits of the beats of sequences of (items, mask); `errors` says which have `error` on their last beat."""
    result = []
    for sequence, error in zip(sequences, errors):
        for number, (items, mask) in enumerate(sequence):
            last = number == len(sequence) - 1
            word = sum(item << BITS * lane for lane, item in enumerate(items)) | mask << BITS * width
            result.append(word | last << (BITS + 1) * width | (last and error) << (BITS + 1) * width + 1)
    return result


def dense(width: int, sequence: list[tuple[list[int], int]], error: int) -> list[tuple[list[int], bool, int]]:
    """Items, last and error of the beats that a sequence becomes."""
    kept = [item for items, mask in sequence for lane, item in enumerate(items) if mask >> lane & 1]
    parts = [kept[start : start + width] for start in range(0, len(kept), width)] or [[]]
    return [(part, part is parts[-1], error * (part is parts[-1])) for part in parts]


def read(width: int, beat: int) -> tuple[list[int], bool, int]:
    tail = beat >> BITS * width
    count, flags = tail & (1 << width.bit_length()) - 1, tail >> width.bit_length()
    return [beat >> BITS * lane & (1 << BITS) - 1 for lane in range(count)], bool(flags & 1), flags >> 1


def eliminate(width: int, sequences, errors=None, **stalls) -> Transfer:
    errors = errors or [0] * len(sequences)
    result = block(width).transfer(beats(width, sequences, errors), **stalls)
    wanted = [beat for sequence, error in zip(sequences, errors) for beat in dense(width, sequence, error)]
    assert [read(width, beat) for beat in result.items] == wanted, sequences
    return result


def random_sequence(width: int, source: random.Random, length: int) -> list[tuple[list[int], int]]:
    density = source.choice([0, 0.1, 0.5, 0.9, 1])
    return [
        (
            [source.getrandbits(BITS) for _ in range(width)],
            sum((source.random() < density) << lane for lane in range(width)),
        )
        for _ in range(length)
    ]


@pytest.mark.parametrize("width", [4, 8])
def test_every_mask_behind_every_fill(width):
    """A first beat holds 0 to `width` items back, a second one has every mask: the network must never block."""
    items = list(range(width))
    masks = range(1 << width)
    for fill in range(width + 1):
        eliminate(width, [[([100 + i for i in items], (1 << fill) - 1), (items, mask)] for mask in masks])


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    ("stalls", "sink"), [(never, never), (at_random(1), at_random(2)), (never, every_fourth), (at_random(3), long(30))]
)
def test_random_sequences(width, stalls, sink, seed):
    source = random.Random(seed)
    sequences = [random_sequence(width, source, source.choice([1, 2, 7, 20])) for _ in range(40)]
    errors = [source.randrange(2) for _ in sequences]
    eliminate(width, sequences, errors, stalls=stalls, sink=sink)


@pytest.mark.parametrize("width", WIDTHS)
def test_latency_and_rate(width, seed):
    source = random.Random(seed)
    everything = (1 << width) - 1
    items = [source.getrandbits(BITS) for _ in range(width)]
    one = eliminate(width, [[(items, 1)]])
    assert one.left == [one.entered[0] + eliminator_latency(width)]
    full = eliminate(width, [[(items, everything)] * 12])
    assert full.entered == list(range(full.entered[0], full.entered[0] + 12))
    assert full.left == [cycle + eliminator_latency(width) for cycle in [*full.entered[1:], full.entered[-1] + 1]]


def test_a_last_beat_that_goes_over_takes_two_cycles():
    run = eliminate(8, [[([1] * 8, 0x3F), ([2] * 8, 0x3F)], [([3] * 8, 0xFF)]])
    assert [late - early for early, late in zip(run.left, run.left[1:])] == [1, 1]
    assert run.left[0] == run.entered[1] + eliminator_latency(8)

"""What a ring still holds is never what something else has overwritten."""

import random

import numpy as np
import pytest

from scheduler.hazards import Region
from scheduler.scratchpad import Held, Ring


class Loader:
    """A ring whose words say what was loaded last; `loads` has the contents in the order of their loads."""

    def __init__(self, depth: int, sizes: list[int]) -> None:
        self.ring, self.sizes, self.loads = Ring(depth), sizes, []
        self.held, self.words = Held(self.ring), np.full(depth, -1)

    def load(self, content: int) -> Region:
        self.loads.append(content)
        start = self.ring.take(self.sizes[content])
        region = Region("wgt", start, start + self.sizes[content])
        self.words[region.start : region.stop] = content
        return region

    def get(self, content: int) -> None:
        region = self.held.get(content, lambda: self.load(content))
        assert region.stop - region.start == self.sizes[content]
        assert (self.words[region.start : region.stop] == content).all()


@pytest.mark.parametrize("case", range(20))
def test_held_contents_are_those_that_were_loaded(case, seed):
    source = random.Random(seed + case)
    loader = Loader(120, [source.randint(1, 30) for _ in range(8)])
    for _ in range(80):
        loader.get(source.randrange(8))
    assert len(loader.loads) < 80


def test_what_fits_half_of_the_ring_is_loaded_once():
    loader = Loader(100, [10] * 6)
    for content in [*range(5)] * 3:
        loader.get(content)
    assert loader.loads == [*range(5)]
    for content in [5, 1, 0]:
        loader.get(content)
    assert loader.loads == [*range(6), 0]

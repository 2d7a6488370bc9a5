"""Small tensors: one thread is faster than several, and its sums are the same everywhere."""

import pytest

from models.recipes.experiment import one_thread


@pytest.fixture(autouse=True)
def single_thread():
    with one_thread():
        yield

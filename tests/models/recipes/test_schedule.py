"""Schedules at the places where something changes."""

import pytest

from models.recipes import Pattern
from models.recipes.schedule import (
    END,
    START,
    Stage,
    constant,
    exponential_mask_decay,
    linear_mask_decay,
    structure_counts,
    structure_decay,
)

P = Pattern(1, 8)
MIDDLE = (START + END) / 2


def test_constant():
    assert {constant(P, progress) for progress in (0, 0.5, 1)} == {Stage(P, 0.0)}


@pytest.mark.parametrize("decay", [linear_mask_decay, exponential_mask_decay])
def test_mask_decays_from_dense_to_pruned(decay):
    leaks = [decay(P, progress).leak for progress in (0, START, 0.2, 0.4, 0.6, END, 0.9, 1)]
    assert leaks[:2] == [1, 1]
    assert leaks[-3:] == [0, 0, 0]
    assert leaks[1:6] == sorted(set(leaks[1:6]), reverse=True)
    assert {decay(P, progress).pattern for progress in (0, MIDDLE, 1)} == {P}


def test_mask_decay_halfway():
    assert linear_mask_decay(P, MIDDLE).leak == pytest.approx(0.5)
    assert exponential_mask_decay(P, MIDDLE).leak == pytest.approx(2.718281828459045**-2.5)
    assert exponential_mask_decay(P, END - 1e-9).leak == pytest.approx(0.0067, abs=1e-4)


@pytest.mark.parametrize(
    ("pattern", "counts"),
    [
        ("1:8", [7, 4, 2, 1]),
        ("2:8", [7, 4, 2]),
        ("3:8", [7, 4, 3]),
        ("2:4", [3, 2]),
        ("2:16", [15, 8, 4, 2]),
        ("3:4", [3]),
        ("1:2", [1]),
        ("4:4", [4]),
        ("2:5", [4, 2]),
        ("1:1", [1]),
    ],
)
def test_structure_steps(pattern, counts):
    chosen = Pattern.parse(pattern)
    assert structure_counts(chosen) == counts
    assert structure_decay(chosen, 1.0) == structure_decay(chosen, END) == Stage(chosen)
    assert structure_decay(chosen, START / 2) == Stage(None)


def test_structure_decays_in_equal_times():
    third = (END - START) / 3
    seen = [structure_decay(P, START + share * third).pattern.n for share in (0, 0.9, 1.1, 1.9, 2.1, 2.9, 3.1)]
    assert seen == [7, 7, 4, 4, 2, 2, 1]

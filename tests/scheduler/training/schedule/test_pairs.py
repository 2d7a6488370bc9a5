"""Products in turns: which ones, in which order their tiles are recorded, and that a step is still the reference's."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from hwgen.arch.isa import Opcode
from models.pattern import Pattern
from models.races import check_races
from models.tokens import check_tokens
from scheduler.training.capture import capture_training
from scheduler.training.compile import compile_step
from scheduler.training.lower import TrainingOptions, begin
from scheduler.training.products.unroll import selection_pattern
from scheduler.training.products.windows import Progress
from scheduler.training.schedule.fuse import groups, main_result
from scheduler.training.schedule.pairs import in_turns, pairs
from tests.scheduler.training.test_beside import EIGHT
from tests.scheduler.training.test_shortcuts import kept_after_a_step

FEW = Pattern(2, 8)


class Bottleneck(nn.Module):
    """An unrolled first layer; a shortcut that stores more than the array has to do, beside a filter that doesn't."""

    def __init__(self):
        super().__init__()
        self.first, self.body = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.Conv2d(16, 16, 3, 1, 1, bias=False)
        self.last, self.side = nn.Conv2d(16, 64, 1, bias=False), nn.Conv2d(16, 64, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(size) for size in (16, 16, 64, 64))
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        x = torch.relu(self.norms[0](self.first(x)))
        inside = torch.relu(self.norms[1](self.body(x)))
        x = torch.relu(self.norms[2](self.last(inside)) + self.norms[3](self.side(x)))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def problem():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module, x, y = Bottleneck(), torch.randn(8, 3, 7, 7), torch.randint(0, 10, (8,))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    return capture_training(module, "cross_entropy", (x,), y, optimizer), x, y


def found_pairs(graph, arch=EIGHT, **options):
    step = begin(graph, arch, TrainingOptions(**{"pattern": FEW, **options}))
    listed = groups(step.graph, apart=step.em.apart, curves=step.em.curves.places)
    names = [main_result(group.main) for group in listed]
    return [(names[one], names[other]) for one, other in pairs(step, listed).items()]


UNROLLED, SIDE = ("x.unrolled", "first.product"), ("body.product", "side.product")


def test_a_shortcut_runs_with_the_product_that_stores_little(problem):
    assert found_pairs(problem[0]) == [UNROLLED, SIDE]


def test_dense_weights_keep_the_array_busy_in_any_case(problem):
    assert found_pairs(problem[0], pattern=None) == [UNROLLED]


def test_without_overlap_or_copies_there_are_none(problem):
    assert found_pairs(problem[0], overlap=False) == found_pairs(problem[0], pregenerate=False) == []


@pytest.mark.parametrize(("depth", "wanted"), [(128, [SIDE]), (64, [])])
def test_products_that_do_not_fit_together_run_one_by_one(problem, depth, wanted):
    """A row of the unrolled input takes more than an eighth of 128 words, three rows of the filter's more than 32."""
    arch = replace(EIGHT, scratchpads=replace(EIGHT.scratchpads, act_depth=depth))
    assert [pair for pair in found_pairs(problem[0], arch) if pair == SIDE] == wanted
    compile_step(problem[0], arch, TrainingOptions(pattern=FEW))


@pytest.fixture(scope="module")
def program(problem):
    return compile_step(problem[0], EIGHT, TrainingOptions(loss_scale=64.0, pattern=FEW))


def tensors(program, name):
    """The TENSOR instructions of a kernel, as they were recorded."""
    heads = [position for position, _ in program.places.headings]
    number = [title for _, title in program.places.headings].index(name)
    commands = program.places.em.recorder.commands[heads[number] : heads[number + 1]]
    return [item for item in commands if item.opcode == Opcode.TENSOR]


def test_tiles_of_a_pair_alternate(program):
    found = tensors(program, "body.product, side.product")
    depths = [item.groups for item in found]
    shares = [np.cumsum([depth == kind for depth in depths]) / depths.count(kind) for kind in set(depths)]
    assert np.abs(shares[0] - shares[1]).max() <= 2 / min(depths.count(kind) for kind in set(depths))


def test_an_unrolling_is_n_m(program):
    found = [item for item in tensors(program, "x.unrolled, first.product") if item.sparse]
    assert {(item.n, item.m, item.groups) for item in found} == {(1, 4, 3)}
    assert selection_pattern(24, EIGHT) is None  # groups have at most 16 values


def test_dense_and_sparse_unrolling_give_the_same_bits(problem, program, monkeypatch):
    monkeypatch.setattr("scheduler.training.kernels.stages.selection_pattern", lambda used, arch: None)
    other = compile_step(problem[0], EIGHT, TrainingOptions(loss_scale=64.0, pattern=FEW))
    assert not any(item.sparse for item in tensors(other, "x.unrolled, first.product"))
    _, x, y = problem
    wanted = kept_after_a_step(other, x, y)
    for name, found in kept_after_a_step(program, x, y).items():
        np.testing.assert_array_equal(found, wanted[name], err_msg=name)


def test_a_step_in_turns_is_that_of_one_by_one(problem, program, monkeypatch):
    """Sums of normalisations are added up in another order."""
    monkeypatch.setattr("scheduler.training.kernels.table.pairs", lambda step, listed: {})
    other = compile_step(problem[0], EIGHT, TrainingOptions(loss_scale=64.0, pattern=FEW))
    assert "," not in "".join(name for _, name in other.places.headings)
    _, x, y = problem
    wanted = kept_after_a_step(other, x, y)
    for name, found in kept_after_a_step(program, x, y).items():
        assert np.linalg.norm(found - wanted[name]) < 2e-3 * np.linalg.norm(wanted[name]) + 1e-6, name


def test_nothing_races(program):
    assert check_races(program.step.encode(), program.arch) is None
    assert check_tokens(program.step.encode(), program.arch) is None


def recorded(log, name, count, ahead=0.0):
    for number in range(count):
        yield Progress(number / count, number / count, min(1.0, number / count + ahead))
        log.append((name, (number + 1) / count))


@pytest.mark.parametrize("ahead", [0.25, 0.5, 1.0])
def test_who_follows_finds_what_it_needs(ahead):
    log, made = [], 0.0
    in_turns(recorded(log, "first", 8), recorded(log, "second", 4, ahead), follows=True)
    assert [share for name, share in log if name == "first"][-1] == 1.0
    for name, share in log:
        made = share if name == "first" else made
        assert name == "first" or made >= min(1.0, share - 0.25 + ahead)


def test_the_first_goes_on_to_its_end():
    log = []
    in_turns(recorded(log, "first", 3), iter(()), follows=False)
    assert [share for _, share in log] == pytest.approx([1 / 3, 2 / 3, 1.0])

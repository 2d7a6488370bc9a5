"""Keep ratios of each layer, and what is refused."""

import pytest

from hwgen.arch import UserError
from models.attention import PruningPolicy, Quantization, Schedule
from models.attention.policy import unpruned_layers


def test_linear_to_the_last_layer():
    assert Schedule.linear(6, last=0.5).shares == pytest.approx((1, 0.9, 0.8, 0.7, 0.6, 0.5))
    assert Schedule.linear(4, last=0.5, first=2).shares == pytest.approx((1, 1, 0.75, 0.5))


@pytest.mark.parametrize(("layers", "mean", "first"), [(12, 0.6, 2), (12, 0.9, 4), (6, 0.7, 1), (24, 0.7, 4)])
def test_linear_has_the_mean_that_was_asked_for(layers, mean, first):
    shares = Schedule.linear(layers, mean=mean, first=first).shares
    assert sum(shares) / layers == pytest.approx(mean)
    assert shares[:first] == (1.0,) * first
    steps = [below - here for below, here in zip(shares[first - 1 :], shares[first:])]
    assert steps == pytest.approx([steps[0]] * len(steps), abs=1e-3)


def test_linear_from_a_lower_start():
    assert Schedule.linear(4, last=0.2, first=1, start=0.8).shares == pytest.approx((1, 0.6, 0.4, 0.2))
    shares = Schedule.linear(12, mean=0.4, first=2, start=0.5).shares
    assert sum(shares) / 12 == pytest.approx(0.4)
    assert shares[2] < 0.5


def test_the_papers_unpruned_layers():
    assert [unpruned_layers(12, share) for share in (0.15, 0.30)] == [2, 4]
    policy = PruningPolicy.average(12, tokens=0.7, heads=0.9, values=0.2, protect_first=0)
    assert policy.tokens.shares.count(1.0) == 2
    assert policy.heads.shares.count(1.0) == 4
    assert policy.values.count(3, 10) == 2


@pytest.mark.parametrize(
    ("share", "n", "k"),
    [(0.7, 10, 7), (0.07, 100, 7), (0.55, 100, 55), (0.8, 5, 4), (0.3, 1, 1), (1.0, 9, 9), (0.3, 0, 0), (1e-9, 10, 1)],
)
def test_shares_round_up(share, n, k):
    assert Schedule(shares=(share,)).count(0, n) == k


def test_caps_are_at_most():
    assert [Schedule(caps=(921,)).count(0, n) for n in (5, 921, 1024)] == [5, 921, 921]


REFUSED = [
    (lambda: Schedule(), "a schedule has one list, of shares, of caps or of thresholds, with a number for each layer"),
    (lambda: Schedule(shares=(1.0, 0.0)), "the keep ratio of layer 1 must be above 0 and at most 1, not 0.0"),
    (lambda: Schedule(shares=(1.2,)), "the keep ratio of layer 0 must be above 0 and at most 1, not 1.2"),
    (lambda: Schedule(shares=(float("nan"),)), "the keep ratio of layer 0 must be above 0 and at most 1, not nan"),
    (lambda: Schedule(caps=(3, 0)), "layer 1 must keep at least one, not 0"),
    (lambda: Schedule(caps=(3, 1.5)), "layer 1 must keep a whole number, not 1.5"),
    (lambda: Schedule(shares=0.5), "shares must be a tuple with a number for each layer, not 0.5"),
    (lambda: Schedule.linear(0, last=0.5), "a schedule is for 1 layer or more, not 0"),
    (lambda: Schedule.linear(6, last=float("nan")), "the last keep ratio must be above 0 and at most 1, not nan"),
    (
        lambda: PruningPolicy(tokens=0.5),
        "tokens must be a Schedule, such as Schedule.linear(6, last=0.5), not 0.5",
    ),
    (lambda: Schedule(thresholds=(1.5,)), "the threshold of layer 0 must be between 0 and 1, not 1.5"),
    (lambda: Schedule.linear(4, last=0.5, first=4), "the first pruned layer of 4 must be in 0 to 3, not 4"),
    (lambda: Schedule.linear(4), "a linear schedule takes the mean keep ratio or the last one"),
    (
        lambda: Schedule.linear(4, mean=0.3, first=2),
        "with 2 of 4 layers unpruned and a start of 1.0 the mean must be above 0.625 and at most 1.000, not 0.3",
    ),
    (
        lambda: PruningPolicy(tokens=Schedule(shares=(1, 0.5, 0.6))),
        "pruned tokens cannot come back: layer 2 keeps 0.6 after 0.5",
    ),
    (
        lambda: PruningPolicy(heads=Schedule(caps=(4, 2, 3))),
        "pruned heads cannot come back: layer 2 keeps 3 after 2",
    ),
    (
        lambda: PruningPolicy(tokens=Schedule(caps=(9, 8))).check(2, 4, False),
        "layer 0 must keep all tokens: before it runs no score is known",
    ),
    (lambda: PruningPolicy(protect_first=-1), "protect_first must be 0 or more, not -1"),
    (lambda: PruningPolicy(recent=0), "recent must be 1 or more, not 0: the token being decoded needs its own key"),
    (lambda: PruningPolicy(forgetting=0.3), "forgetting must be a multiple of 1/256 in (0, 1], not 0.3"),
    (lambda: Quantization(msb=5), "bits must be split as one of 4+4, 6+4, 8+4, 10+4, 12+4, not 5+4"),
    (lambda: Quantization.parse("6-4"), "a bit split is written MSB+LSB, such as 6+4, not '6-4'"),
    *(
        (
            lambda threshold=threshold: Quantization(threshold=threshold),
            f"the threshold of the largest probability must be a number, 0 or more, not {threshold}",
        )
        for threshold in (-1, float("nan"), float("inf"))
    ),
    (lambda: Quantization(cutoff=1.0), "the probability that still matters must be between 0 and 1, not 1.0"),
    (lambda: Quantization(value_lsb="no"), "value_lsb must be one of never, with_keys, always, not 'no'"),
    (
        lambda: PruningPolicy(values=Schedule(shares=(1.0,) * 3)).check(4, 4, True),
        "the schedule of values has 3 layers, the model 4",
    ),
    (
        lambda: PruningPolicy(heads=Schedule(caps=(5, 5))).check(2, 4, True),
        "the schedule keeps 5 heads, the model has 4",
    ),
    (
        lambda: PruningPolicy(tokens=Schedule(shares=(0.9, 0.8))).check(2, 4, False),
        "layer 0 must keep all tokens: before it runs no score is known",
    ),
    (
        lambda: PruningPolicy(heads=Schedule(caps=(3, 3))).check(2, 4, True),
        "layer 0 must keep all heads: before it runs no score is known",
    ),
]


@pytest.mark.parametrize(("make", "text"), REFUSED, ids=[text for _, text in REFUSED])
def test_bad_policies_are_refused_in_one_sentence(make, text):
    with pytest.raises(UserError) as caught:
        make()
    assert str(caught.value) == text


def test_fitting_policies_pass():
    PruningPolicy().check(3, 4, False)
    PruningPolicy(tokens=Schedule(caps=(9, 8)), heads=Schedule(caps=(4, 2))).check(2, 4, True)
    PruningPolicy(tokens=Schedule(thresholds=(0, 0.2)), heads=Schedule(shares=(1, 0.5))).check(2, 4, False)

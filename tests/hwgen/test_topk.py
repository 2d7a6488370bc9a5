"""The top-k engine on RTL against golden: random calls with stalls on both sides, cycles by the law, bad commands."""

import itertools
import random
import statistics

import pytest

from hwgen.pruning.cycles import CycleLaw
from hwgen.pruning.words import TopKSizes
from sim.topk_block import Call
from tests.hwgen.topk_support import ENGINES, check, engine, kept, random_calls, random_scores
from tests.support import at_random, every_fourth, long, never

pytestmark = pytest.mark.verilator
RADIX = [name for name, (_, method, _) in ENGINES.items() if method == "radix"]
PATTERNS = {
    "none": (never, never),
    "both": (at_random(1), at_random(2)),
    "slow source": (at_random(3, 0.8), never),
    "slow sink": (never, at_random(4, 0.8)),
    "periods": (every_fourth, long(40)),
}


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", ENGINES)
def test_random_calls_back_to_back(name, pattern, seed):
    """40 calls for each of 5 patterns and 7 engines."""
    block, (stalls, sink) = engine(name), PATTERNS[pattern]
    source = random.Random(f"{seed} {pattern}")
    check(block, random_calls(source, block.sizes, 40), stalls=stalls, sink=sink)


@pytest.mark.parametrize("name", ENGINES)
def test_cycles_of_single_calls(name, seed):
    block, source = engine(name), random.Random(seed)
    for call in random_calls(source, block.sizes, 60):
        result = check(block, [call])[0]
        assert result.total == block.law.total(call.scores, call.k, kept(call)), call


@pytest.mark.parametrize("name", RADIX)
def test_no_call_takes_longer_than_the_bound(name, seed):
    block, source = engine(name), random.Random(seed)
    for call in random_calls(source, block.sizes, 60):
        assert block.law.total(call.scores, call.k, kept(call)) <= block.law.bound(len(call.scores)), call


@pytest.mark.parametrize("name", RADIX)
def test_the_bound_is_reached(name):
    """All scores but one for each digit are equal, so that every digit has to be counted over nearly all of them."""
    block = engine(name)
    sizes, digit = block.sizes, block.law.digit
    length, top = sizes.max_length // sizes.width * sizes.width, (1 << sizes.bits) - 1
    scores = [top] * length
    for place in range(1, -(-sizes.bits // digit)):
        scores[place] = top ^ (1 << max(0, sizes.bits - place * digit - 1))
    calls = [Call(scores, length - 8), Call(scores, length // 2)]
    longest = max(result.total for result in check(block, calls[:1]) + check(block, calls[1:]))
    bound = block.law.bound(length)
    assert bound - 10 - sizes.bits // digit <= longest <= bound


@pytest.mark.parametrize("name", ENGINES)
def test_next_vector_arrives_while_results_leave(name, seed):
    block, source = engine(name), random.Random(seed)
    length = block.sizes.max_length
    calls = [Call(random_scores(source, block.sizes, length), source.randint(1, length)) for _ in range(8)]
    results = check(block, calls)
    for call, this, following in zip(calls, results, results[1:]):
        assert following.taken - this.taken == block.law.period(call.scores, call.k), call
        assert following.taken < this.cycles[-1]


@pytest.mark.parametrize("name", ENGINES)
def test_bad_commands(name, seed):
    """They take no scores, give one empty beat with `error`, and leave the calls around them alone."""
    block, source = engine(name), random.Random(seed)
    most = block.sizes.max_length
    good = random_calls(source, block.sizes, 4)
    bad = [Call([], 6, length=5), Call([], 0, length=0), Call([], 1, length=most + 1), Call([], most, length=most - 1)]
    results = block.run(itertools.chain(*zip(good, bad)))
    for call, result in zip(good, results[::2]):
        assert (result.indices, result.error) == (kept(call), False)
    for result in results[1::2]:
        assert (result.indices, result.counts, result.error) == ([], [0], True)
    for call in bad:
        assert block.run([call])[0].total == block.law.refused()


@pytest.mark.parametrize("name", ENGINES)
def test_clear_forgets_everything(name, seed):
    block, source = engine(name), random.Random(seed)
    length = min(block.sizes.max_length, 4 * block.sizes.width)
    for cycles in range(1, 45):
        call = Call(random_scores(source, block.sizes, length), length // 2)
        block.interrupt(call, cycles)
        block.clear()
        check(block, [call])


@pytest.mark.parametrize("name", ["quick", "quick_wide"])
def test_quick_select_ends_with_equal_scores(name):
    block = engine(name)
    length = block.sizes.max_length
    for k in (1, length // 2, length - 1):
        call = Call([7] * length, k)
        assert check(block, [call])[0].total == block.law.total(call.scores, k, range(k))
        assert block.law.select(call.scores, k) == length // block.sizes.width + 4


def test_cycles_against_the_published_quick_select(seed):
    """n = 1,024, k = 512, 16 a cycle: published mean 260, worst 548 cycles for the selection."""
    source, sizes = random.Random(seed), TopKSizes()
    vectors = [[source.getrandbits(12) for _ in range(1024)] for _ in range(200)]
    quick = [CycleLaw(sizes, "quick").select(scores, 512) for scores in vectors]
    radix = [CycleLaw(sizes).select(scores, 512) for scores in vectors]
    assert 250 < statistics.mean(quick) < 285
    assert 420 < max(quick) < 660
    assert max(radix) < 90
    assert CycleLaw(sizes).bound(1024) == 275
    assert CycleLaw(sizes, digit=6).bound(1024) == 207

"""Token checks on small programs, and against every possible course of a run."""

import dataclasses
import random

import pytest

from hwgen.arch.commands import command
from hwgen.arch.isa import Cause, Engine, Opcode
from models.machine_state import MachineError
from models.tokens import check_tokens
from tests.models.support import SEED, arch, program, with_mask

TINY = arch("tiny")
LOAD, TENSOR, VECTOR, STORE, *_ = (1 << engine for engine in Engine)


def load(wait=0, signal=0):
    return command(Opcode.LOAD, beats=1, wait=wait, signal=signal)


def tensor(wait=0, signal=0):
    return command(Opcode.TENSOR, first=1, last=1, wait=wait, signal=signal)


def vector(wait=0, signal=0):
    return command(Opcode.VECTOR, d_addr=1, wait=wait, signal=signal)


def small(queue_depth=2, token_bits=2):
    return dataclasses.replace(
        TINY, control=dataclasses.replace(TINY.control, queue_depth=queue_depth, token_bits=token_bits)
    )


def test_double_buffering_is_fine():
    items = [load(signal=TENSOR), load(signal=TENSOR)]
    for _ in range(50):
        items += [tensor(wait=LOAD, signal=LOAD), load(wait=TENSOR, signal=TENSOR)]
    assert check_tokens(program(*items), TINY) is None
    assert check_tokens(b"", TINY) is None


def test_missing_token_is_found_at_its_first_taker():
    items = [load(signal=TENSOR), tensor(wait=LOAD), tensor(wait=LOAD), tensor(wait=LOAD), load()]
    problem = check_tokens(program(*items), TINY)
    assert (problem.cause, problem.pc) == (Cause.WATCHDOG, 2)
    assert problem.text == "instruction 2 waits for ever for a token of the load engine"


def test_two_engines_that_wait_for_each_other():
    problem = check_tokens(
        program(load(), tensor(wait=VECTOR, signal=VECTOR), vector(wait=TENSOR, signal=TENSOR)), TINY
    )
    assert (problem.cause, problem.pc) == (Cause.WATCHDOG, 1)
    assert "token of the vector engine" in problem.text


def test_all_missing_engines_are_named():
    problem = check_tokens(program(load(wait=TENSOR | STORE)), TINY)
    assert problem.text == "instruction 0 waits for ever for a token of the tensor and store engine"


def test_token_of_a_later_instruction_is_not_program_order():
    problem = check_tokens(program(tensor(wait=LOAD), load(signal=TENSOR)), TINY)
    assert (problem.cause, problem.pc) == (Cause.NONE, 0)
    assert problem.text == "instruction 0 takes a token that the load engine gives later"


def test_full_queue_blocks_the_token_behind_it():
    # Two tensor instructions fill the queue; the load that would release them is never dispatched past the third.
    items = [tensor(wait=LOAD), tensor(), tensor(), load(signal=TENSOR)]
    assert check_tokens(program(*items), small(queue_depth=2)).cause is Cause.WATCHDOG
    assert check_tokens(program(*items), small(queue_depth=4)).cause is Cause.NONE


def test_overflow_is_found_at_the_first_token_too_many():
    items = [load(signal=TENSOR) for _ in range(4)]
    problem = check_tokens(program(*items), small())
    assert (problem.cause, problem.pc) == (Cause.TOKEN_OVERFLOW, 3)
    assert problem.text == (
        "when instruction 3 is done, 4 tokens from the load to the tensor engine may wait, 3 are allowed"
    )
    assert check_tokens(program(*items[:3]), small()) is None


def test_slow_consumer_is_assumed():
    # In turn, no more than one token ever waits; with a slow tensor engine and long queues all of them may.
    items = [load(signal=TENSOR), tensor(wait=LOAD)] * 9
    assert check_tokens(program(*items), small(queue_depth=16)).cause is Cause.TOKEN_OVERFLOW
    # With two queue entries, load k is dispatched when tensor k - 2 has started at the latest.
    assert check_tokens(program(*items), small(queue_depth=2)) is None


def test_malformed_instruction_is_an_error():
    with pytest.raises(MachineError, match="BAD_FIELD"):
        check_tokens(with_mask(load(), "wait", LOAD), TINY)


def random_items(rng: random.Random) -> list:
    """A program in which nearly every taker waits for what an earlier instruction gave."""
    items, tokens, eager = [], {}, rng.choice([0.2, 0.9])
    for _ in range(rng.randrange(4, 12)):
        make, own = rng.choice([(load, Engine.LOAD), (tensor, Engine.TENSOR), (vector, Engine.VECTOR)])
        wait = signal = 0
        for other in {Engine.LOAD, Engine.TENSOR, Engine.VECTOR} - {own}:
            if rng.random() < (eager if tokens.get((other, own), 0) else 0.01):
                wait |= 1 << other
                tokens[other, own] = tokens.get((other, own), 0) - 1
            if rng.random() < 0.4:
                signal |= 1 << other
                tokens[own, other] = tokens.get((own, other), 0) + 1
        items.append(make(wait=wait, signal=signal))
    return items


def moves(items, chosen, state):
    """States that one event leads to. A state is: instructions sent, then (started, completed) for every engine."""
    sent, engines = state[0], state[1:]
    own = [[item for item in items[:sent] if item.engine == engine] for engine in Engine]
    if sent < len(items):
        engine = items[sent].engine
        if len(own[engine]) - engines[engine][0] < chosen.control.queue_depth:
            yield (sent + 1, *engines)
    for engine in Engine:
        started, completed = engines[engine]
        if started > completed:
            yield (sent, *(pair if e != engine else (started, completed + 1) for e, pair in enumerate(engines)))
        elif started < len(own[engine]):
            givers = [giver for giver in Engine if own[engine][started].wait >> giver & 1]
            if all(waiting(own, engines, giver, engine) > 0 for giver in givers):
                yield (sent, *(pair if e != engine else (started + 1, completed) for e, pair in enumerate(engines)))


def waiting(own, engines, giver, taker) -> int:
    given = sum(item.signal >> taker & 1 for item in own[giver][: engines[giver][1]])
    return given - sum(item.wait >> giver & 1 for item in own[taker][: engines[taker][0]])


def explore(items, chosen) -> tuple[bool, int]:
    """Every possible course of a run: whether each one completes everything, and the most tokens that ever wait."""
    start = (0, *[(0, 0)] * len(Engine))
    seen, frontier, completes, most = {start}, [start], True, 0
    while frontier:
        state = frontier.pop()
        own = [[item for item in items[: state[0]] if item.engine == engine] for engine in Engine]
        counts = [waiting(own, state[1:], giver, taker) for giver in Engine for taker in Engine if giver != taker]
        most = max(most, *counts)
        following = list(moves(items, chosen, state))
        completes &= bool(following) or sum(pair[1] for pair in state[1:]) == len(items)
        frontier += [one for one in following if one not in seen]
        seen.update(following)
    return completes, most


def test_against_every_course_of_a_run():
    rng = random.Random(SEED)
    seen = {}
    for trial in range(150):
        items, chosen = random_items(rng), small(queue_depth=rng.choice([2, 4]), token_bits=2)
        problem = check_tokens(program(*items), chosen)
        cause = None if problem is None else problem.cause
        seen[cause] = seen.get(cause, 0) + 1
        completes, most = explore(items, chosen)
        assert completes == (cause is not Cause.WATCHDOG), f"trial {trial} of seed {SEED}: {problem}"
        if cause in (None, Cause.TOKEN_OVERFLOW):
            assert (most > 3) == (cause is Cause.TOKEN_OVERFLOW), (
                f"trial {trial} of seed {SEED}: {problem}, {most} tokens"
            )
    assert min(seen.get(cause, 0) for cause in (None, Cause.WATCHDOG, Cause.TOKEN_OVERFLOW)) > 5, seen

"""Policies at the edge that compile: more to keep than there is."""

from models.attention import PruningPolicy, Schedule
from tests.scheduler.attention.support import Case


def test_caps_above_what_there_is_give_the_program_that_prunes_nothing():
    case = Case.bert(12)
    many = PruningPolicy(values=Schedule(caps=(100, 50)))
    programs = [case.compile(policy) for policy in (PruningPolicy(), many)]
    assert programs[0].code.encode() == programs[1].code.encode()
    assert bytes(programs[0].image()) == bytes(programs[1].image())

# amaranth: UnusedElaboratable=no
"""Docstrings of the command processor list exactly the members that the components have."""

import re

import pytest

from hwgen.arch import load
from hwgen.arch.isa import Engine
from hwgen.control.arbiter import ReadArbiter
from hwgen.control.control import Controller
from hwgen.control.counters import Counters
from hwgen.control.dispatch import Dispatch
from hwgen.control.fetch import Fetch, Unpacker
from hwgen.control.queue import EngineQueue, TokenBank
from hwgen.control.registers import RegisterFile
from hwgen.control.run import RunControl
from hwgen.lib.streams import Queue, SkidBuffer

ARCH = load("tiny")
COMPONENTS = [
    Controller(arch=ARCH),
    Counters(),
    Dispatch(),
    EngineQueue(engine=Engine.LOAD, depth=2),
    Fetch(arch=ARCH),
    Queue(shape=8, depth=2),
    ReadArbiter(arch=ARCH),
    RegisterFile(arch_hash=0),
    RunControl(),
    SkidBuffer(shape=8),
    TokenBank(width=2),
    Unpacker(data_bits=64),
]


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda item: type(item).__name__)
def test_members_section_equals_the_signature(component):
    text = type(component).__doc__.split("Members\n    -------\n")[1]
    named = dict(re.findall(r"(?:^ {4}|, )(\w+) : (In|Out)\(", text, flags=re.M))
    assert named == {name: member.flow.name for name, member in component.signature.members.items()}

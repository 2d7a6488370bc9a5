# amaranth: UnusedElaboratable=no
"""Docstrings of the memory engines' blocks and of the reducer list exactly the members that the components have."""

import re

import pytest

from hwgen.arch import load
from hwgen.array.weights import WeightScratchpad
from hwgen.memory.bursts import BurstGenerator
from hwgen.memory.length import PackedLength
from hwgen.memory.load import LoadEngine, LoadSetup
from hwgen.memory.nest import NestWalker
from hwgen.memory.path import BeatPath
from hwgen.memory.place import BeatPlacer
from hwgen.memory.reader import StoreReader
from hwgen.memory.store import StoreEngine
from hwgen.memory.store_setup import StoreSetup
from hwgen.memory.transpose import Transposer
from hwgen.reducer.cell import SortCell
from hwgen.reducer.column import ReducerColumn
from hwgen.reducer.packer import SlotPacker
from hwgen.reducer.parallel import ParallelControl, ParallelRank
from hwgen.reducer.reducer import Beat, Reducer
from hwgen.reducer.serial import SerialControl, SerialRank

ARCH = load("tiny")
COMPONENTS = [
    BeatPath(ARCH),
    BeatPlacer(ARCH),
    BurstGenerator(ARCH),
    LoadEngine(ARCH),
    LoadSetup(ARCH),
    NestWalker(),
    PackedLength(ARCH, width=18),
    ParallelControl(group_max=16),
    ParallelRank(group_max=16),
    Reducer(ARCH),
    ReducerColumn(style="serial", group_max=16),
    SerialControl(group_max=16),
    SerialRank(group_max=16),
    SlotPacker(cols=4),
    SortCell(index_bits=4),
    StoreEngine(ARCH),
    StoreReader(ARCH),
    StoreSetup(ARCH),
    Transposer(shape=Beat(ARCH), cols=4),
    WeightScratchpad(arch=ARCH),
]


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda item: type(item).__name__)
def test_members_section_equals_the_signature(component):
    texts = [kind.__doc__ or "" for kind in type(component).__mro__]
    text = next(text for text in texts if "Members\n" in text).split("Members\n    -------\n")[1]
    named = {}
    for names, flow in re.findall(r"(?:^ {4}|, )(\w+(?:, \w+)*) : (In|Out)\(", text, flags=re.M):
        named |= dict.fromkeys(names.split(", "), flow)
    assert named == {name: member.flow.name for name, member in component.signature.members.items()}

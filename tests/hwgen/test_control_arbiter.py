"""Read arbiter: nothing lost, answers to the one who asked, nobody starves."""

import random
from collections import deque
from functools import partial
from itertools import pairwise

import pytest

from hwgen.arch import load
from hwgen.control.arbiter import FETCH_ID, LOAD_ID, ReadArbiter
from tests.hwgen.control_support import ProgramMemory
from tests.support import at_random, long, never, receive, send, simulate

ARCH = load("tiny")
STALLS = {"never": never, "random": at_random(11), "long": long(15)}


def requests(seed: int, count: int) -> list[dict[str, int]]:
    source = random.Random(seed)
    return [
        {"addr": 4096 * source.randint(0, 99), "len": source.randint(0, 7), "id": source.getrandbits(1)}
        for _ in range(count)
    ]


def beats(items: list[dict[str, int]]) -> list[tuple[int, int]]:
    """(data, last) of every beat that answers `items`: memory holds its own addresses."""
    return [(item["addr"] + 8 * beat, beat == item["len"]) for item in items for beat in range(item["len"] + 1)]


class Addresses(dict):
    """Memory content in which a beat holds its address."""

    def get(self, address, default=0):
        return address


@pytest.mark.parametrize("memory_stalls", STALLS)
@pytest.mark.parametrize("load_stalls", STALLS)
def test_each_master_gets_its_answers_in_order(seed, memory_stalls, load_stalls):
    dut = ReadArbiter(arch=ARCH)
    memory = ProgramMemory(ARCH, latency=4, stalls=STALLS[memory_stalls])
    memory.content = Addresses()
    asked = {"fetch": requests(seed, 15), "load": requests(seed + 1, 25)}
    taken = {"fetch": [], "load": []}

    async def ask(ctx, name):
        await send(ctx, getattr(dut, name).ar, asked[name], at_random(seed + 2, 0.3))
        while len(taken[name]) < len(beats(asked[name])):
            await ctx.tick()

    background = [partial(memory.serve, port=dut.bus)]
    for name, stalls in (("fetch", never), ("load", STALLS[load_stalls])):
        background.append(partial(receive, stream=getattr(dut, name).r, taken=taken[name], stalls=stalls))
    simulate(dut, partial(ask, name="fetch"), partial(ask, name="load"), background=background, limit=8000)
    for name, identifier in (("fetch", FETCH_ID), ("load", LOAD_ID)):
        assert [(beat.data, beat.last) for _, beat in taken[name]] == beats(asked[name])
        assert {beat.id for _, beat in taken[name]} == {identifier}
        assert {beat.resp for _, beat in taken[name]} == {0}


def test_masters_take_turns_at_full_rate():
    dut = ReadArbiter(arch=ARCH)
    seen: list = []

    async def ask(ctx, port):
        await send(ctx, port.ar, [{"addr": 64 * index, "len": 0, "id": 0} for index in range(20)])
        await ctx.tick()
        await ctx.tick()

    simulate(
        dut,
        partial(ask, port=dut.fetch),
        partial(ask, port=dut.load),
        background=[partial(receive, stream=dut.bus.ar, taken=seen)],
    )
    cycles = [cycle for cycle, _ in seen]
    assert cycles == list(range(dut.LATENCY, dut.LATENCY + 40))
    assert all(first.id != second.id for (_, first), (_, second) in pairwise(seen))


def test_fetch_waits_for_two_load_requests_at_most():
    dut, order = ReadArbiter(arch=ARCH), []

    async def loads(ctx):
        await send(ctx, dut.load.ar, [{"addr": 64 * index, "len": 3, "id": 1} for index in range(40)])

    async def fetches(ctx):
        for _ in range(5):
            for _ in range(7):
                await ctx.tick()
            before = len(order)
            await send(ctx, dut.fetch.ar, [{"addr": 0, "len": 0, "id": 0}])
            await ctx.tick()
            while FETCH_ID not in [request.id for _, request in order[before:]]:
                await ctx.tick()
            passed = [request.id for _, request in order[before:]].index(FETCH_ID)
            assert passed <= 2, f"{passed} loads went first"

    simulate(dut, fetches, background=[loads, partial(receive, stream=dut.bus.ar, taken=order, stalls=long(3))])


def test_answers_may_interleave_by_identifier(seed):
    dut, source = ReadArbiter(arch=ARCH), random.Random(seed)
    taken = {"fetch": [], "load": []}
    sent = [
        {"data": source.getrandbits(64), "resp": source.choice([0, 2, 3]), "last": 0, "id": source.getrandbits(1)}
        for _ in range(80)
    ]

    async def answer(ctx):
        await send(ctx, dut.bus.r, sent, at_random(seed))
        await ctx.tick()
        await ctx.tick()

    background = [
        partial(receive, stream=getattr(dut, name).r, taken=taken[name], stalls=at_random(seed + 1)) for name in taken
    ]
    simulate(dut, answer, background=background)
    for name, identifier in (("fetch", FETCH_ID), ("load", LOAD_ID)):
        expected = deque((beat["data"], beat["resp"]) for beat in sent if beat["id"] == identifier)
        assert deque((beat.data, beat.resp) for _, beat in taken[name]) == expected

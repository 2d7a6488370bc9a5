# amaranth: UnusedElaboratable=no
"""Queue and skid buffer against a list: nothing lost or changed, order kept, full throughput, under all stalls."""

import random
from functools import partial

import pytest

from hwgen.lib.streams import Queue, SkidBuffer
from tests.support import at_random, every_fourth, long, never, receive, send, simulate

STALLS = {"never": never, "fourth": every_fourth, "random": at_random(5), "long": long(12)}
BLOCKS = {
    "queue of 2": lambda: Queue(shape=8, depth=2),
    "queue of 5": lambda: Queue(shape=8, depth=5),
    "queue of 8": lambda: Queue(shape=8, depth=8),
    "skid buffer": lambda: SkidBuffer(shape=8),
}


def transfer(dut, items, before, after) -> list[tuple[int, int]]:
    """Send `items` through and return what came out, with the cycles."""
    taken: list[tuple[int, int]] = []

    async def drive(ctx):
        await send(ctx, dut.i, items, before)
        while len(taken) < len(items):
            await ctx.tick()
        for _ in range(20):
            await ctx.tick()

    simulate(dut, drive, background=[partial(receive, stream=dut.o, taken=taken, stalls=after)], limit=3000)
    return taken


@pytest.mark.parametrize("after", STALLS)
@pytest.mark.parametrize("before", STALLS)
@pytest.mark.parametrize("block", BLOCKS)
def test_everything_arrives_in_order(block, before, after):
    items = random.Random(1).choices(range(256), k=60)
    taken = transfer(BLOCKS[block](), items, STALLS[before], STALLS[after])
    assert [item for _, item in taken] == items


@pytest.mark.parametrize("block", BLOCKS)
def test_one_item_a_cycle_after_the_latency(block):
    dut = BLOCKS[block]()
    taken = transfer(dut, list(range(40)), never, never)
    assert [cycle for cycle, _ in taken] == list(range(dut.LATENCY, dut.LATENCY + 40))


def fill(ctx, port, value):
    """Offer one item for a cycle."""
    ctx.set(port.payload, value)
    ctx.set(port.valid, 1)
    return ctx.tick()


@pytest.mark.parametrize("depth", [2, 3, 8])
def test_queue_holds_exactly_its_depth(depth):
    dut = Queue(shape=8, depth=depth)

    async def drive(ctx):
        for index in range(depth):
            assert ctx.get(dut.level) == index
            assert ctx.get(dut.i.ready)
            await fill(ctx, dut.i, index)
        assert ctx.get(dut.level) == depth
        assert not ctx.get(dut.i.ready)

    simulate(dut, drive)


def test_clear_empties_a_queue_and_drops_what_is_offered():
    dut = Queue(shape=8, depth=5)

    async def drive(ctx):
        for start in (10, 20, 30):
            for index in range(4):
                await fill(ctx, dut.i, start + index)
            ctx.set(dut.clear, 1)
            await fill(ctx, dut.i, 99)
            ctx.set(dut.clear, 0)
            ctx.set(dut.i.valid, 0)
            assert not ctx.get(dut.o.valid)
            assert ctx.get(dut.level) == 0
            await fill(ctx, dut.i, start)
            ctx.set(dut.i.valid, 0)
            assert ctx.get(dut.o.valid)
            assert ctx.get(dut.o.payload) == start

    simulate(dut, drive)


@pytest.mark.parametrize("depth", [1, 0, -3])
def test_too_shallow_queue_is_refused(depth):
    with pytest.raises(ValueError, match=f"^Queue depth must be at least 2, not {depth}$"):
        Queue(shape=8, depth=depth)

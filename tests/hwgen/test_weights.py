"""Weight scratchpad against a dictionary: values and indices of beats, their order, and when they are in memory."""

import random

import pytest

from hwgen.arch.isa import Target
from hwgen.array.weights import WeightScratchpad
from tests.support import ARCHS, simulate


class Loader:
    """Offers beats back to back, keeps what they mean, and logs the cycle in which each is taken."""

    def __init__(self, arch) -> None:
        self.arch, self.dut = arch, WeightScratchpad(arch=arch)
        self.values: dict[tuple[int, int], int] = {}
        self.indices: dict[int, int] = {}
        self.taken: list[int] = []
        self.cycle = 0

    def keep(self, beat: dict) -> None:
        if beat["target"] == Target.WGT:
            self.values[beat["address"], beat["part"]] = beat["data"]
        elif beat["target"] == Target.IDX:
            size = 4 * self.arch.array.lanes * self.arch.array.cols
            for i in range(4 // self.arch.array.lanes):
                word = beat["data"] >> i * size & (1 << size) - 1
                self.indices[beat["address"] + i * beat["step"]] = word

    async def send(self, ctx, beats: list[dict]) -> None:
        for beat in beats:
            ctx.set(self.dut.load, {name: int(value) for name, value in beat.items()})
            ctx.set(self.dut.load_valid, 1)
            ready = False
            while not ready:
                _, _, ready = await ctx.tick().sample(self.dut.load_ready)
                self.cycle += 1
            self.taken.append(self.cycle - 1)
            self.keep(beat)
        ctx.set(self.dut.load_valid, 0)

    async def read(self, ctx, address: int) -> tuple[list[int], int]:
        """Beats of the lanes and index word at an address, presented now."""
        array = self.arch.array
        ctx.set(self.dut.address, address)
        for _ in range(WeightScratchpad.LATENCY):
            await ctx.tick()
        values, indices = ctx.get(self.dut.values), ctx.get(self.dut.indices)
        places = [(lane, col) for col in range(array.cols) for lane in range(array.lanes)]
        beats, word = [0] * array.lanes, 0
        for number, (lane, col) in enumerate(places):
            beats[lane] |= (values >> 16 * number & 0xFFFF) << 16 * col
            word |= (indices >> 4 * number & 15) << 4 * (lane * array.cols + col)
        return beats, word


def packed(arch, groups: int, stride: int, source: random.Random) -> list[dict]:
    """Beats of LOAD PACKED as they come: four of values, one of indices."""
    lanes, beats = arch.array.lanes, []
    for q in range(groups):
        first = 4 * q // lanes * stride
        for i in range(4):
            place = {"address": first + i // lanes * stride, "part": i % lanes, "step": stride}
            beats.append({"target": Target.WGT, "data": source.getrandbits(arch.memory.data_bits), **place})
        data = source.getrandbits(arch.memory.data_bits)
        beats.append({"target": Target.IDX, "address": first, "step": stride, "part": 0, "data": data})
    return beats


@pytest.mark.parametrize("preset", ARCHS)
def test_random_beats_equal_a_dictionary(preset):
    arch, source = ARCHS[preset](), random.Random(5)
    loader, targets = Loader(arch), (Target.WGT, Target.WGT, Target.IDX, Target.ACT_ROWS, Target.ACC32)
    beats = [
        {
            "target": source.choice(targets),
            "address": source.randrange(20),
            "step": source.randrange(4),
            "part": source.randrange(arch.array.lanes),
            "data": source.getrandbits(arch.memory.data_bits),
        }
        for _ in range(300)
    ]

    async def bench(ctx):
        await loader.send(ctx, beats)
        for _ in range(5):
            await ctx.tick()
        for address in range(32):
            lanes, word = await loader.read(ctx, address)
            assert lanes == [loader.values.get((address, lane), 0) for lane in range(arch.array.lanes)]
            assert word == loader.indices.get(address, 0)

    simulate(loader.dut, bench)


@pytest.mark.parametrize("preset", ARCHS)
def test_packed_weights_are_taken_one_beat_a_cycle(preset):
    arch = ARCHS[preset]()
    loader = Loader(arch)

    async def bench(ctx):
        await loader.send(ctx, packed(arch, 20, 3, random.Random(1)))

    simulate(loader.dut, bench)
    assert loader.taken == list(range(100))


@pytest.mark.parametrize("preset", ARCHS)
def test_beats_of_indices_take_a_cycle_for_each_word(preset):
    arch = ARCHS[preset]()
    loader, words = Loader(arch), 4 // arch.array.lanes
    beats = [{"target": Target.IDX, "address": i * words, "step": 1, "part": 0, "data": i} for i in range(20)]

    async def bench(ctx):
        await loader.send(ctx, beats)

    simulate(loader.dut, bench)
    assert loader.taken == [i * words for i in range(20)]


@pytest.mark.parametrize("preset", ARCHS)
@pytest.mark.parametrize("early", [0, 1])
def test_the_last_word_of_indices_is_there_when_the_docstring_says(preset, early):
    arch = ARCHS[preset]()
    loader, words = Loader(arch), 4 // arch.array.lanes
    data = (1 << arch.memory.data_bits) - 1
    wait = words - early  # the send has waited for one cycle of the 1 + 4/lanes

    async def bench(ctx):
        await loader.send(ctx, [{"target": Target.IDX, "address": 8, "step": 5, "part": 0, "data": data}])
        for _ in range(wait):
            await ctx.tick()
        _, word = await loader.read(ctx, 8 + 5 * (words - 1))
        assert word == (0 if early else (1 << 4 * arch.array.lanes * arch.array.cols) - 1)

    simulate(loader.dut, bench)

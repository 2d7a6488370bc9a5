"""Accumulator scratchpad against a dictionary under random traffic on all ports; LOAD beats into it against numpy."""

import random
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from hwgen.arch import load as load_arch
from hwgen.arch.isa import Target
from hwgen.lib.shapes import AccRead
from hwgen.memory.acc import READERS, AccLoader, AccScratchpad, writers
from tests.support import AccMemory, at_random, never, send, simulate


class Traffic:
    """Drives every port of a scratchpad at random, holds refused requests, compares each cycle with a dictionary.

    Words of the tensor engine's two write ports are of different parity in a cycle.
    """

    def __init__(self, arch, dut, seed: int, load: float, cycles: int) -> None:
        self.writers = writers(arch)
        self.arch, self.dut, self.source, self.load, self.cycles = arch, dut, random.Random(seed), load, cycles
        self.words: dict[int, int] = {}
        self.requests: dict[str, tuple] = {}
        self.due: dict[tuple[str, int], int] = {}
        self.accepted = dict.fromkeys(READERS + self.writers, 0)
        depth, banks = arch.scratchpads.acc_depth, arch.scratchpads.acc_banks
        self.bank_words = depth // banks
        self.addresses = [
            bank * self.bank_words + word for bank in range(banks) for word in (0, 1, self.bank_words - 1)
        ]

    def request(self, name: str) -> tuple:
        address = self.source.choice(self.addresses)
        if name == "write_tensor_odd" and "write_tensor" in self.requests:
            odd = self.requests["write_tensor"][0] % 2
            address = self.source.choice([other for other in self.addresses if other % 2 != odd])
        if name in READERS:
            return (address,)
        return address, self.source.getrandbits(32 * self.arch.array.cols), self.source.randrange(4)

    def granted(self, names: tuple[str, ...]) -> set[str]:
        """Ports that must be accepted: the first in each bank, which is two if there are two tensor words."""
        taken, result = set(), set()
        for name in names:
            if name in self.requests:
                address = self.requests[name][0]
                bank = address // self.bank_words, address % self.arch.array.drain
                if bank not in taken:
                    result.add(name)
                taken.add(bank)
        return result

    def write(self, address: int, data: int, halves: int) -> None:
        half = 16 * self.arch.array.cols
        mask = sum(((1 << half) - 1) << half * side for side in (0, 1) if halves >> side & 1)
        self.words[address] = (self.words.get(address, 0) & ~mask) | (data & mask)

    def drive(self, ctx) -> None:
        for name in READERS + self.writers:
            port = getattr(self.dut, name)
            if name not in self.requests and self.source.random() < self.load:
                self.requests[name] = self.request(name)
                ctx.set(port.address, self.requests[name][0])
                if name in self.writers:
                    ctx.set(port.data, self.requests[name][1])
                    ctx.set(port.halves, self.requests[name][2])
            ctx.set(port.valid, name in self.requests)

    async def run(self, ctx) -> None:
        names = READERS + self.writers
        for cycle in range(self.cycles):
            self.drive(ctx)
            for name in READERS:
                if (name, cycle) in self.due:
                    found, wanted = ctx.get(getattr(self.dut, name).data), self.due.pop((name, cycle))
                    assert found == wanted, f"cycle {cycle}, {name}: {found:x} instead of {wanted:x}"
            must = self.granted(READERS) | self.granted(self.writers)
            ready = {name for name in names if ctx.get(getattr(self.dut, name).ready)}
            assert ready & set(self.requests) == must, f"cycle {cycle}: {ready} of {self.requests}"
            assert {name for name in names if "tensor" in name} & (set(self.requests) | {"read_tensor"}) <= ready
            for name in sorted(must, key=names.index):
                self.accepted[name] += 1
                item = self.requests.pop(name)
                if name in READERS:
                    self.due[name, cycle + AccRead.LATENCY] = self.words.get(item[0], 0)
                else:
                    self.write(*item)
            await ctx.tick()


def arch_with_banks(banks: int, drain: int = 1):
    tiny = load_arch("tiny")
    pads, array = replace(tiny.scratchpads, acc_banks=banks), replace(tiny.array, drain=drain)
    return replace(tiny, scratchpads=pads, array=array)


@pytest.mark.parametrize("banks", [2, 4, 16])
@pytest.mark.parametrize("drain", [1, 2])
@pytest.mark.parametrize(("seed", "load"), [(1, 0.3), (2, 0.7), (3, 1.0)])
def test_random_traffic_equals_a_dictionary(banks, drain, seed, load):
    arch = arch_with_banks(banks, drain)
    dut = AccScratchpad(arch)
    traffic = Traffic(arch, dut, seed, load, 400)
    simulate(dut, traffic.run)
    assert traffic.accepted["read_tensor"] >= 400 * load * 0.8
    assert all(traffic.accepted.values()) or load == 1.0


@pytest.mark.parametrize("banks", [8, 16])
def test_readers_of_different_banks_never_wait(banks):
    arch = arch_with_banks(banks)
    dut = AccScratchpad(arch)

    async def bench(ctx):
        for number, name in enumerate(READERS):
            ctx.set(getattr(dut, name).address, number * arch.scratchpads.acc_depth // banks)
            ctx.set(getattr(dut, name).valid, 1)
        for _ in range(10):
            assert all(ctx.get(getattr(dut, name).ready) for name in READERS)
            await ctx.tick()

    simulate(dut, bench)


@pytest.mark.parametrize("stalls", [never, at_random(4)])
def test_load_beats_become_words(stalls):
    arch, source = load_arch("tiny"), random.Random(3)
    dut, memory = AccLoader(arch), AccMemory(arch)
    beats, wanted = [], {}
    for address in range(60):
        data = source.getrandbits(64)
        if address % 2:
            values = np.array([data >> 16 * col & 0xFFFF for col in range(4)], np.uint16).view(np.float16)
            wide = [0x7FC00000 if np.isnan(value) else int(np.float32(value).view(np.uint32)) for value in values]
            wanted[address] = sum(value << 32 * col for col, value in enumerate(wide))
            beats.append({"target": int(Target.ACC16), "data": data, "address": address})
        else:
            part = source.randrange(2)
            wanted[address] = data << 64 * part
            beats.append({"target": int(Target.ACC32), "data": data, "address": address, "part": part})
    simulate(
        dut,
        partial(send, stream=dut.i, items=beats),
        background=[partial(memory.serve_write, port=dut.write, stalls=stalls)],
    )
    assert memory.words == wanted
    assert len(memory.write_cycles) == len(beats)

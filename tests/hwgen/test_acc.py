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

    Words of the tensor engine's two write ports are of different parity in a cycle. Ports are known by name and number,
    as the vector engine may have two of a kind.
    """

    def __init__(self, arch, dut, seed: int, load: float, cycles: int) -> None:
        self.arch, self.dut, self.source, self.load, self.cycles = arch, dut, random.Random(seed), load, cycles
        self.readers, self.writers = ports_of(arch, READERS), ports_of(arch, writers(arch))
        self.words: dict[int, int] = {}
        self.requests: dict[tuple[str, int], tuple] = {}
        self.due: dict[tuple[tuple[str, int], int], int] = {}
        self.accepted = dict.fromkeys(self.readers + self.writers, 0)
        depth, banks = arch.scratchpads.acc_depth, arch.scratchpads.acc_banks
        self.bank_words = depth // banks
        self.addresses = [
            bank * self.bank_words + word for bank in range(banks) for word in (0, 1, self.bank_words - 1)
        ]

    def request(self, port: tuple[str, int]) -> tuple:
        address = self.source.choice(self.addresses)
        if port[0] == "write_tensor_odd" and ("write_tensor", 0) in self.requests:
            odd = self.requests["write_tensor", 0][0] % 2
            address = self.source.choice([other for other in self.addresses if other % 2 != odd])
        if "vector" in port[0] and self.arch.vector.words == 2:
            address = self.source.choice([other for other in self.addresses if other % 2 == port[1]])
        if port in self.readers:
            return (address,)
        return address, self.source.getrandbits(32 * self.arch.array.cols), self.source.randrange(4)

    def granted(self, ports: list[tuple[str, int]]) -> set[tuple[str, int]]:
        """Ports that must be accepted: the first in each bank, which is two if an engine moves two words a cycle."""
        taken, result = set(), set()
        halves = 2 if 2 in (self.arch.array.drain, self.arch.vector.words) else 1
        for port in ports:
            if port in self.requests:
                address = self.requests[port][0]
                bank = address // self.bank_words, address % halves
                if bank not in taken:
                    result.add(port)
                taken.add(bank)
        return result

    def write(self, address: int, data: int, halves: int) -> None:
        half = 16 * self.arch.array.cols
        mask = sum(((1 << half) - 1) << half * side for side in (0, 1) if halves >> side & 1)
        self.words[address] = (self.words.get(address, 0) & ~mask) | (data & mask)

    def drive(self, ctx) -> None:
        for port in self.readers + self.writers:
            bus = bus_of(self.dut, port)
            if port not in self.requests and self.source.random() < self.load:
                self.requests[port] = self.request(port)
                ctx.set(bus.address, self.requests[port][0])
                if port in self.writers:
                    ctx.set(bus.data, self.requests[port][1])
                    ctx.set(bus.halves, self.requests[port][2])
            ctx.set(bus.valid, port in self.requests)

    async def run(self, ctx) -> None:
        ports = self.readers + self.writers
        for cycle in range(self.cycles):
            self.drive(ctx)
            for port in self.readers:
                if (port, cycle) in self.due:
                    found, wanted = ctx.get(bus_of(self.dut, port).data), self.due.pop((port, cycle))
                    assert found == wanted, f"cycle {cycle}, {port}: {found:x} instead of {wanted:x}"
            must = self.granted(self.readers) | self.granted(self.writers)
            ready = {port for port in ports if ctx.get(bus_of(self.dut, port).ready)}
            assert ready & set(self.requests) == must, f"cycle {cycle}: {ready} of {self.requests}"
            urgent = {port for port in ports if "tensor" in port[0]}
            assert urgent & (set(self.requests) | {("read_tensor", 0)}) <= ready
            for port in sorted(must, key=ports.index):
                self.accepted[port] += 1
                item = self.requests.pop(port)
                if port in self.readers:
                    self.due[port, cycle + AccRead.LATENCY] = self.words.get(item[0], 0)
                else:
                    self.write(*item)
            await ctx.tick()


def ports_of(arch, names):
    """Names and numbers of ports, the most urgent first."""
    return [(name, number) for name in names for number in range(arch.vector.words if "vector" in name else 1)]


def bus_of(dut, port):
    item = getattr(dut, port[0])
    return item[port[1]] if "vector" in port[0] else item


def arch_with_banks(banks: int, drain: int = 1, words: int = 1, ports: int = 1):
    tiny = load_arch("tiny")
    pads, array = replace(tiny.scratchpads, acc_banks=banks), replace(tiny.array, drain=drain)
    memory = replace(tiny.memory, ports=ports)
    return replace(tiny, scratchpads=pads, array=array, vector=replace(tiny.vector, words=words), memory=memory)


@pytest.mark.parametrize("banks", [2, 4, 16])
@pytest.mark.parametrize("drain", [1, 2])
@pytest.mark.parametrize(("words", "ports"), [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize(("seed", "load"), [(1, 0.3), (2, 0.7), (3, 1.0)])
def test_random_traffic_equals_a_dictionary(banks, drain, words, ports, seed, load):
    arch = arch_with_banks(banks, drain, words, ports)
    dut = AccScratchpad(arch)
    traffic = Traffic(arch, dut, seed, load, 400)
    simulate(dut, traffic.run)
    assert traffic.accepted["read_tensor", 0] >= 400 * load * 0.8
    assert all(traffic.accepted.values()) or load == 1.0


@pytest.mark.parametrize("banks", [8, 16])
def test_readers_of_different_banks_never_wait(banks):
    arch = arch_with_banks(banks)
    dut = AccScratchpad(arch)

    async def bench(ctx):
        buses = [bus_of(dut, port) for port in ports_of(arch, READERS)]
        for number, bus in enumerate(buses):
            ctx.set(bus.address, number * arch.scratchpads.acc_depth // banks)
            ctx.set(bus.valid, 1)
        for _ in range(10):
            assert all(ctx.get(bus.ready) for bus in buses)
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

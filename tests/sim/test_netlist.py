import pytest
from amaranth.hdl import Module, signed
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from hwgen.emit import emit_verilog
from hwgen.lib.shared import Shared
from sim.netlist import parse


class Leaf(wiring.Component):
    """One product, two sums, a register of 16 bits, a memory of 32 words of 8 bits."""

    def __init__(self, *, width):
        self.width = width
        super().__init__({"a": In(width), "b": In(signed(width)), "address": In(5), "q": Out(2 * width)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.words = words = memory.Memory(shape=self.width, depth=32, init=[])
        write, read = words.write_port(), words.read_port(domain="comb")
        m.d.comb += [write.addr.eq(self.address), write.data.eq(self.a), write.en.eq(1), read.addr.eq(self.address)]
        m.d.sync += self.q.eq(self.a * self.b + read.data - 3)
        return m


class Middle(wiring.Component):
    q: Out(16)
    a: In(8)

    def elaborate(self, platform):
        m = Module()
        for number in range(2):
            m.submodules[f"leaf_{number}"] = leaf = Shared(Leaf, width=8)
            m.d.comb += [leaf.a.eq(self.a), leaf.b.eq(self.a), leaf.address.eq(number)]
        m.d.comb += self.q.eq(leaf.q)
        return m


class Top(wiring.Component):
    q: Out(16)
    a: In(8)

    def elaborate(self, platform):
        m = Module()
        for number in range(3):
            m.submodules[f"middle_{number}"] = middle = Shared(Middle)
            m.d.comb += middle.a.eq(self.a)
        m.d.comb += self.q.eq(middle.q)
        return m


def test_counts_multiply_down_the_hierarchy():
    netlist = parse(emit_verilog(Top(), "top"), "top")
    assert netlist.instances() == {"top": 1, "Middle": 3, "Leaf_width_8": 6}
    total = netlist.total()
    assert total.multipliers == {16: 6}
    assert sum(total.adders.values()) == 12
    assert total.register_bits == 6 * 16
    assert total.memories == {(32, 8): 6}
    assert total.memory_bits == 6 * 32 * 8


def test_an_unknown_top_is_an_error():
    with pytest.raises(KeyError, match="nothing"):
        parse(emit_verilog(Top(), "top"), "nothing")

"""Multipliers of the attention engine, 16 at a time, and their operands."""

from amaranth.hdl import Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import CHUNK, EXP_BITS, OPERAND_BITS
from hwgen.attention.words import ELEMENT_BITS

LARGEST_HEAD = 128
HALF_SHIFT = 3
"""Products with 2 msb + 1 count 8 times: 16 msb + 8."""
PRODUCT_BITS = EXP_BITS + OPERAND_BITS


def register(m: Module, value: Value, name: str) -> Signal:
    """`value` a cycle later, with its sign."""
    later = Signal(Value.cast(value).shape(), name=name, reset_less=True)
    m.d.sync += later.eq(value)
    return later


def operands(word: data.View, half: Value) -> list[Value]:
    """Operands of multipliers for the elements of a word: 2 msb + 1 with `half`, else as they are."""
    result = []
    for element in word.elements:
        exact = Value.cast(element)
        result.append(Mux(half, (exact[: OPERAND_BITS - 1] << 1) | 1, exact[:OPERAND_BITS]).as_signed())
    return result


class ChunkProduct(wiring.Component):
    """Sum of 16 products of an element of a query and an operand.

    Timing
    ------
    `LATENCY` cycles: operands, products, and a register every two levels of adders. No stall.

    Members
    -------
    a : In(16 x signed(16))
    b : In(16 x signed(13))
    o : Out(signed(33))
    """

    LATENCY = 4
    SUM_BITS = ELEMENT_BITS + OPERAND_BITS + 4

    a: In(data.ArrayLayout(signed(ELEMENT_BITS), CHUNK))
    b: In(data.ArrayLayout(signed(OPERAND_BITS), CHUNK))
    o: Out(signed(SUM_BITS))

    def elaborate(self, platform: object) -> Module:
        """Operands | products | two levels | two levels."""
        m = Module()
        products = []
        for lane in range(CHUNK):
            a = Signal(signed(ELEMENT_BITS), name=f"a_{lane}", reset_less=True)
            b = Signal(signed(OPERAND_BITS), name=f"b_{lane}", reset_less=True)
            product = Signal(signed(ELEMENT_BITS + OPERAND_BITS), name=f"product_{lane}", reset_less=True)
            m.d.sync += [a.eq(self.a[lane]), b.eq(self.b[lane]), product.eq(a * b)]
            products.append(product)
        for _ in range(2):
            products = [register(m, sum(products[at : at + 4]), "sum") for at in range(0, len(products), 4)]
        m.d.comb += self.o.eq(products[0])
        return m


class ChunkScale(wiring.Component):
    """Products of 16 operands and one weight.

    Timing
    ------
    `LATENCY` cycles in which `enable` is set.

    Members
    -------
    enable : In(1)
    weight : In(16)
    i : In(16 x signed(13))
    o : Out(16 x signed(29))
    """

    LATENCY = 2

    enable: In(1)
    weight: In(EXP_BITS)
    i: In(data.ArrayLayout(signed(OPERAND_BITS), CHUNK))
    o: Out(data.ArrayLayout(signed(PRODUCT_BITS), CHUNK))

    def elaborate(self, platform: object) -> Module:
        """Operands | products."""
        m = Module()
        weight = Signal(EXP_BITS, reset_less=True)
        with m.If(self.enable):
            m.d.sync += weight.eq(self.weight)
            for lane in range(CHUNK):
                operand = Signal(signed(OPERAND_BITS), name=f"operand_{lane}", reset_less=True)
                product = Signal(signed(PRODUCT_BITS), name=f"product_{lane}", reset_less=True)
                m.d.sync += [operand.eq(self.i[lane]), product.eq(operand * weight)]
                m.d.comb += self.o[lane].eq(product)
        return m

"""Operands of the vector engine: from the ports on which words arrive to the registers in front of the lanes."""

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import data, wiring

from hwgen.lib.pipeline import delay
from hwgen.lib.shapes import AccRead

SOURCES = ("x", "y", "z")
"""Operands that are read, the most urgent first; also the first blocks of the walk, before d."""


class Arrival:
    """A word on its way from a port: `flags[index, word]` when it is there, for the operands that take it."""

    def __init__(self, m: Module, port: wiring.PureInterface, index: int, words: Value, origin: data.View) -> None:
        self.data = port.data
        accepted = port.valid & port.ready
        places = [(target, word) for target in range(index, len(SOURCES)) for word in range(len(words))]
        wanted = Cat(accepted & words[word] & (origin[target] == index) for target, word in places)
        arrives = delay(m, wanted, AccRead.LATENCY, f"{SOURCES[index]}_arrives", reset=True)
        self.flags = {place: arrives[bit] for bit, place in enumerate(places)}


def operand_registers(
    m: Module, index: int, word: int, arrivals: list[Arrival], shuffle: Value, cols: int
) -> list[Signal]:
    """Registers of a word of a source, one for each column; they keep what they have until the next one arrives."""
    name = f"{SOURCES[index]}{word}"
    able = [arrival for arrival in arrivals if (index, word) in arrival.flags]
    arriving = Signal(32 * cols, name=f"{name}_arriving")
    m.d.comb += arriving.eq(able[-1].data)
    for arrival in able[:-1]:
        with m.If(arrival.flags[index, word]):
            m.d.comb += arriving.eq(arrival.data)
    operand = []
    for col in range(cols):
        register = Signal(32, name=f"{name}_{col}", reset_less=True)
        value = Signal(32, name=f"{name}_value_{col}")
        m.d.comb += value.eq(arriving.word_select(col, 32))
        if SOURCES[index] == "y":
            with m.Switch(shuffle):
                for bit in range(cols.bit_length() - 1):
                    with m.Case(bit + 1):
                        m.d.comb += value.eq(arriving.word_select(col ^ 1 << bit, 32))
        with m.If(Cat(arrival.flags[index, word] for arrival in able).any()):
            m.d.sync += register.eq(value)
        operand.append(register)
    return operand

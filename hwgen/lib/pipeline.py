"""Delay lines: plain registers in a row, and triangles of them that skew the columns of a word."""

from typing import Any

from amaranth.hdl import Cat, Module, Signal, ValueCastable, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out


def delay(m: Module, value: Any, cycles: int, name: str, *, reset: bool = False) -> Any:
    """Return `value` (a Signal, View or other value) `cycles` clock cycles later; `reset` clears it, for valid bits."""
    for step in range(cycles):
        if isinstance(value, ValueCastable):
            later = Signal(value.shape(), name=f"{name}_{step + 1}", reset_less=not reset)
        else:
            later = Signal(len(value), name=f"{name}_{step + 1}", reset_less=not reset)
        m.d.sync += later.eq(value)
        value = later
    return value


def select_part(m: Module, word: Any, part: Any, width: int) -> Signal:
    """Part number `part` of `word`, `width` bits each, as a case for each part.

    `word_select` with a variable would shift the whole word, which is slow to simulate when the word is wide.
    """
    result = Signal(width, name="selected")
    with m.Switch(part):
        for number in range(len(word) // width):
            with m.Case(number):
                m.d.comb += result.eq(word.word_select(number, width))
    return result


class Skew(wiring.Component):
    """Delays column c of a word by c cycles, or by `columns - 1 - c` if `reverse`, without flow control.

    Timing
    ------
    Column c takes as many cycles as said above; throughput is one word a cycle.

    Parameters
    ----------
    width : int      Bits of one column.
    columns : int    Columns of a word; column 0 is least significant.
    reverse : bool   Straighten what a plain `Skew` has skewed.

    Members
    -------
    i : In(width * columns)
    o : Out(width * columns)
    """

    def __init__(self, *, width: int, columns: int, reverse: bool = False) -> None:
        self.width, self.columns, self.reverse = width, columns, reverse
        super().__init__({"i": In(width * columns), "o": Out(width * columns)})

    def elaborate(self, platform: object) -> Module:
        """One delay line a column."""
        m = Module()
        parts = []
        for column in range(self.columns):
            cycles = self.columns - 1 - column if self.reverse else column
            part = Signal(self.width, name=f"column_{column}")
            m.d.comb += part.eq(self.i.word_select(column, self.width))
            parts.append(delay(m, part, cycles, f"column_{column}"))
        m.d.comb += self.o.eq(Cat(*parts))
        return m


class VariableDelay(wiring.Component):
    """Delays a word by `cycles`, 1 .. `limit`; a change of `cycles` drops the words inside.

    Timing
    ------
    `o` is `i` of `cycles` clock cycles ago, or 0 if `cycles` has changed since.

    Parameters
    ----------
    width : int   Bits of the word.
    limit : int   Largest delay.

    Members
    -------
    i : In(width)
    o : Out(width)
    cycles : In(range(limit + 1))
    """

    def __init__(self, *, width: int, limit: int) -> None:
        self.width, self.limit = width, limit
        self.depth = 1 << max(1, limit.bit_length())
        super().__init__({"i": In(width), "o": Out(width), "cycles": In(range(limit + 1))})

    def elaborate(self, platform: object) -> Module:
        """A ring memory whose read pointer trails the write pointer; a register beside it for a delay of one."""
        m = Module()
        m.submodules.ring = ring = Memory(shape=unsigned(self.width), depth=self.depth, init=[])
        write, read = ring.write_port(), ring.read_port(domain="comb")
        position = Signal(range(self.depth))
        o = Signal(self.width, name="o_register")
        previous, settling, old = Signal.like(self.cycles), Signal.like(self.cycles), Signal()
        changed = self.cycles != previous
        m.d.sync += previous.eq(self.cycles)
        with m.If(changed):
            m.d.sync += settling.eq(self.cycles - 1)
        with m.Elif(settling != 0):
            m.d.sync += settling.eq(settling - 1)
        m.d.comb += [
            old.eq(changed | (settling > 1)),
            write.en.eq(1),
            write.addr.eq(position),
            write.data.eq(self.i),
            read.addr.eq(position - self.cycles + 1),
            self.o.eq(o),
        ]
        m.d.sync += [position.eq(position + 1), o.eq(read.data)]
        with m.If(self.cycles == 1):
            m.d.sync += o.eq(self.i)
        with m.Elif(old):
            m.d.sync += o.eq(0)
        return m

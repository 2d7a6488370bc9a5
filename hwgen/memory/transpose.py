"""Transposes blocks of words: C words of C operands in, the C columns of them out."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

OPERAND_BITS = 16


class Transposer(wiring.Component):
    """A memory for each column of a block; row y is written rotated by y, so that a column has an operand in each.

    There are two blocks: one is written while the other is read.

    Timing
    ------
    One word a cycle. The first column is offered `latency` cycles after the first word, if words come without gaps.

    Parameters
    ----------
    shape : Layout   `data`: a word; `end`: of the last word of a block, given again with the last column.
    cols : int       Operands of a word, words of a block; a power of two.

    Members
    -------
    i : In(stream of shape), o : Out(stream of shape)
    busy : Out(1)    Something is inside.
    clear : In(1)    Forget it.
    """

    def __init__(self, *, shape: data.Layout, cols: int) -> None:
        self._cols, self._bits = cols, (cols - 1).bit_length()
        super().__init__(
            {
                "i": In(stream.Signature(shape)),
                "o": Out(stream.Signature(shape)),
                "busy": Out(1),
                "clear": In(1),
            }
        )

    @property
    def latency(self) -> int:
        """Cycles from the first word of a block to its first column: all of its words, and the output register."""
        return self._cols + 1

    def elaborate(self, platform: object) -> Module:
        """Two counters of words, a flag for each block that is full, an output register."""
        m = Module()
        full, ends = Signal(2), Signal(2)
        write, read = Signal(self._bits + 1), Signal(self._bits + 1)
        do_write, do_read = Signal(), Signal()
        write_last, read_last = write[:-1].all(), read[:-1].all()
        m.d.comb += [
            self.i.ready.eq(~full.bit_select(write[-1], 1)),
            do_write.eq(self.i.valid & self.i.ready),
            do_read.eq(full.bit_select(read[-1], 1) & (~self.o.valid | self.o.ready)),
            self.busy.eq(full.any() | write[:-1].any() | self.o.valid),
        ]
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(do_write):
            m.d.sync += write.eq(write + 1)
            with m.If(write_last):
                m.d.sync += [full.bit_select(write[-1], 1).eq(1), ends.bit_select(write[-1], 1).eq(self.i.payload.end)]
        word = self._words(m, write, read, do_write, do_read)
        with m.If(do_read):
            m.d.sync += [read.eq(read + 1), self.o.valid.eq(1), self.o.payload.data.eq(word)]
            m.d.sync += self.o.payload.end.eq(read_last & ends.bit_select(read[-1], 1))
            with m.If(read_last):
                m.d.sync += full.bit_select(read[-1], 1).eq(0)
        with m.If(self.clear):
            m.d.sync += [full.eq(0), write.eq(0), read.eq(0), self.o.valid.eq(0)]
        return m

    def _words(self, m: Module, write: Value, read: Value, do_write: Value, do_read: Value) -> Value:
        """The memories: operand c of row y is in memory (c + y) mod C, at address y of its block."""
        rotated = self._rotate(m, self.i.payload.data, write[:-1], do_write, "written", up=True)
        operands = []
        for number in range(self._cols):
            m.submodules[f"operands_{number}"] = part = memory.Memory(shape=OPERAND_BITS, depth=2 * self._cols, init=[])
            write_port, read_port = part.write_port(), part.read_port(domain="comb")
            m.d.comb += [
                write_port.en.eq(do_write),
                write_port.addr.eq(write),
                write_port.data.eq(rotated.word_select(number, OPERAND_BITS)),
                read_port.addr.eq(Cat((number - read[:-1])[: self._bits], read[-1])),
            ]
            operands.append(read_port.data)
        return self._rotate(m, Cat(operands), read[:-1], do_read, "read", up=False)

    def _rotate(self, m: Module, word: Value, distance: Value, enable: Value, name: str, *, up: bool) -> Value:
        """A word whose operands are `distance` columns higher (`up`) or lower, moved in steps of powers of two."""
        for step in range(self._bits):
            cut = OPERAND_BITS * (len(word) // OPERAND_BITS - (1 << step) if up else 1 << step)
            turned = Signal.like(word, name=f"{name}_{step}")
            with m.If(enable):
                m.d.comb += turned.eq(Mux(distance[step], Cat(word[cut:], word[:cut]), word))
            word = turned
        return word

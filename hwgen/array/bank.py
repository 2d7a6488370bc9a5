"""One activation bank: written beat by beat or chunk by chunk, read an activation word at a time."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.array.words import index_width
from hwgen.lib.pipeline import select_part
from hwgen.lib.ram import Ram


class ActivationBank(wiring.Component):
    """Activations of one array row: `depth` words of `cols` operands, one write and one read port.

    A whole beat goes to bank `bank`; of a chunked beat, banks `bank .. bank + cols/B - 1` take one chunk of B operands
    each, at operand `position` of the word (LoadBeat in hwgen/lib/shapes.py).

    Timing
    ------
    A beat is in memory two cycles after `write`. `o` is the word of `address` two cycles later, one word a cycle.

    Parameters
    ----------
    cols, depth, act_width, row_bits : int

    Members
    -------
    row : In(row_bits)   Number of this bank, a constant from outside so that all banks are one module.
    write, whole : In(1), chunk_log2 : In(3), bank : In(row_bits), position, word, data : as in LoadBeat
    address : In         Activation word: word address x (cols / act_width) + part.
    o : Out(16 * act_width)
    """

    def __init__(self, *, cols: int, depth: int, act_width: int, row_bits: int) -> None:
        self.cols, self.depth, self.act_width, self.row_bits = cols, depth, act_width, row_bits
        super().__init__(
            {
                "row": In(row_bits),
                "write": In(1),
                "whole": In(1),
                "chunk_log2": In(3),
                "bank": In(row_bits),
                "position": In(index_width(cols)),
                "word": In(range(depth)),
                "data": In(16 * cols),
                "address": In(index_width(depth * cols // act_width)),
                "o": Out(16 * act_width),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Write register, memory, part selection."""
        m = Module()
        m.submodules.memory = memory = Ram(width=16 * self.cols, depth=self.depth, parts=self.cols)
        enables, data = Signal(self.cols), Signal(16 * self.cols, reset_less=True)
        word = Signal(range(self.depth), reset_less=True)
        m.d.comb += [memory.write_enable.eq(enables), memory.write_address.eq(word), memory.write_data.eq(data)]
        m.d.sync += enables.eq(0)
        with m.If(self.write):
            m.d.sync += word.eq(self.word)
            self._take(m, enables, data)

        part_bits = (self.cols // self.act_width - 1).bit_length()
        part = Signal(max(1, part_bits), reset_less=True)
        o = Signal(16 * self.act_width, reset_less=True, name="o_register")
        m.d.comb += [memory.read_address.eq(self.address[part_bits:]), self.o.eq(o)]
        m.d.sync += [
            part.eq(self.address[:part_bits]),
            o.eq(select_part(m, memory.read_data, part, 16 * self.act_width)),
        ]
        return m

    def _take(self, m: Module, enables: Signal, data: Signal) -> None:
        """Choose what this bank takes of the beat: all of it, or its chunk repeated at every place of the word."""
        cols = self.cols
        offset = Signal(max(self.row_bits, index_width(cols)) + 1)
        m.d.comb += offset.eq(self.row - self.bank)
        with m.If(self.whole):
            m.d.sync += [data.eq(self.data), enables.eq(Mux(self.row == self.bank, Const(-1, cols), 0))]
        with m.Else(), m.Switch(self.chunk_log2):
            for log2 in range(index_width(cols)):
                chunk, count = 1 << log2, cols >> log2
                with m.Case(log2):
                    # Rows before `bank` wrap to offsets with the top bit set, which are no chunk's number.
                    with m.If(offset < count):
                        m.d.sync += enables.eq(Const((1 << chunk) - 1, cols) << self.position)
                    with m.Switch(offset):
                        for number in range(count):
                            with m.Case(number):
                                mine = self.data.word_select(number, 16 * chunk)
                                m.d.sync += data.eq(Cat(*[mine] * count))

"""Sequencers that take results out of the array: drain buffers to the south edge, south edge to the scratchpad."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch import Arch
from hwgen.array.beats import ResultLayout
from hwgen.array.words import ElementShape, index_width
from hwgen.lib.shapes import PC_BITS, WORD_BITS


class DrainSequencer(wiring.Component):
    """Sends the drain buffers of an output-stationary tile to the south, output row by output row.

    Timing
    ------
    Starts `write_stage + 1` cycles after `start`, when the first sum is in its buffer; then one word a cycle,
    rows x tile_cols words. `busy` from `start` until the last command.

    Members
    -------
    start : In(1), rows : In(16), tile_cols : In(5)
    busy : Out(1)
    drain : Out(1), row, drained : Out   Fields of the row command.
    """

    def __init__(self, *, arch: Arch) -> None:
        self.arch, self.shape = arch, ElementShape.of(arch)
        super().__init__(
            {
                "start": In(1),
                "rows": In(16),
                "tile_cols": In(5),
                "busy": Out(1),
                "drain": Out(1),
                "row": Out(arch.row_bits),
                "drained": Out(index_width(self.shape.sums)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Wait for the first sum, then column blocks within array rows within row blocks."""
        m = Module()
        wait = self.shape.write_stage + 1
        waited = Signal(range(wait + 1))
        rows_left, cols, column = Signal(16), Signal(5), Signal(5)
        first_sum = Signal(index_width(self.shape.sums))
        m.d.comb += [
            self.drain.eq(self.busy & (waited == wait)),
            self.drained.eq(first_sum + column),
        ]
        with m.If(self.start):
            m.d.sync += [self.busy.eq(1), waited.eq(1), rows_left.eq(self.rows), cols.eq(self.tile_cols)]
            m.d.sync += [self.row.eq(0), column.eq(0), first_sum.eq(0)]
        with m.Elif(self.busy & (waited != wait)):
            m.d.sync += waited.eq(waited + 1)
        with m.Elif(self.busy):
            m.d.sync += column.eq(column + 1)
            with m.If(column == cols - 1):
                m.d.sync += [column.eq(0), self.row.eq(self.row + 1), rows_left.eq(rows_left - 1)]
                with m.If(self.row == self.arch.array.rows - 1):
                    m.d.sync += [self.row.eq(0), first_sum.eq(first_sum + cols)]
                with m.If(rows_left == 1):
                    m.d.sync += self.busy.eq(0)
        return m


class ResultCollector(wiring.Component):
    """Writes the words that leave the array to the accumulator scratchpad and ends tiles in order.

    Timing
    ------
    Writes a word in the cycle of `valid`. A tile ends (`done`) in the cycle after its last word, a silent one in the
    cycle after its `flush`, but never before the tiles before it.

    Members
    -------
    results : In(stream of ResultLayout)
    valid : In(1)         A result word is on the south edge.
    flush : In(1)         The last beat of a silent tile has reached the last row.
    write : Out(1), address : Out(20)
    done : Out(1), pc : Out
    written : Out(21)     Words of the current tile that have been written.
    ended : Out(2)        Weight-stationary tiles that have ended, modulo 4.
    error : Out(1)        The word is outside the scratchpad (SCRATCHPAD_RANGE); it is not written.
    """

    def __init__(self, *, arch: Arch) -> None:
        self.arch = arch
        super().__init__(
            {
                "results": In(stream.Signature(ResultLayout())),
                "valid": In(1),
                "flush": In(1),
                "write": Out(1),
                "address": Out(WORD_BITS),
                "done": Out(1),
                "pc": Out(PC_BITS),
                "written": Out(21),
                "ended": Out(2),
                "error": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Count columns within rows; end the tile."""
        m = Module()
        result = self.results.payload
        row, column, running = Signal(16), Signal(5), Signal()
        row_address, base, address = Signal(WORD_BITS + 1), Signal(WORD_BITS + 1), Signal(WORD_BITS + 2)
        flushes, ends = Signal(4), Signal()
        m.d.comb += [
            base.eq(Mux(running, row_address, result.acc_addr)),
            address.eq(base + column),
            self.address.eq(address),
            self.error.eq(self.valid & (address >= self.arch.scratchpads.acc_depth)),
            self.write.eq(self.valid & ~self.error),
            self.pc.eq(result.pc),
            self.results.ready.eq(ends),
        ]
        m.d.sync += [self.done.eq(ends), flushes.eq(flushes + self.flush)]
        with m.If(self.valid):
            m.d.sync += [running.eq(1), column.eq(column + 1), row_address.eq(base), self.written.eq(self.written + 1)]
            with m.If(column == result.tile_cols - 1):
                m.d.sync += [column.eq(0), row.eq(row + 1), row_address.eq(base + result.acc_stride)]
                with m.If(row == result.rows - 1):
                    m.d.comb += ends.eq(1)
                    m.d.sync += [row.eq(0), running.eq(0), self.written.eq(0)]
                    m.d.sync += self.ended.eq(self.ended + result.stationary)
        with m.Elif(self.results.valid & result.silent & (flushes != 0)):
            m.d.comb += ends.eq(1)
            m.d.sync += flushes.eq(flushes - 1 + self.flush)
        return m

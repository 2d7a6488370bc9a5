"""Sequencers that take results out of the array: drain buffers to the south edge, south edge to the scratchpad."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch import Arch
from hwgen.array.beats import ResultLayout
from hwgen.array.words import CommandLayout, ElementShape, index_width
from hwgen.lib.pipeline import delay
from hwgen.lib.shapes import PC_BITS, WORD_BITS


def last_column(tile_cols: Value, swap: Value | int, alone: Value) -> Value:
    """Number of the last step in which rows that drain together send their `tile_cols` words.

    With `swap`, odd rows send word `step ^ 1` in each step, so that an odd number of words takes a step more.
    """
    return (tile_cols - 1) | (swap & ~alone)


class DrainSequencer(wiring.Component):
    """Sends the drain buffers of an output-stationary tile to the south, output row by output row.

    With two links, rows 2q and 2q + 1 drain together. If the stride between them is even, they send neighbouring
    words (`swap`), so that one of the two words always has an odd address.

    Timing
    ------
    One link: the first command `write_stage + 1` cycles after `start`, when the first sum is in its buffer; then one
    word a cycle, rows x tile_cols words. `busy` from the cycle after `start` until the last command.
    Two links: the first command `write_stage + 2` cycles after `start`, when the first two sums are there; then two
    words a cycle: tile_cols cycles for two rows, rounded up to an even number if `swap`, and tile_cols for an odd last
    row. `busy` for as many cycles from the cycle after `start`: the next sums reach their buffers after the last word.

    Members
    -------
    start : In(1), rows : In(16), tile_cols : In(5)
    swap : In(1)      The stride between output rows is even.
    busy : Out(1)
    drain : Out(links), row, drained : Out   Fields of the row command.
    """

    def __init__(self, *, arch: Arch) -> None:
        self.arch, self.shape = arch, ElementShape.of(arch)
        command = CommandLayout(arch)
        super().__init__(
            {
                "start": In(1),
                "rows": In(16),
                "tile_cols": In(5),
                "swap": In(1),
                "busy": Out(1),
                "drain": Out(command["drain"].shape),
                "row": Out(command["drain_row"].shape),
                "drained": Out(command["drained"].shape),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Column blocks within array rows within row blocks, begun at once; the commands follow later."""
        m = Module()
        links = self.shape.links
        rows_left, cols, column, swap = Signal(16), Signal(5), Signal(5), Signal()
        row, first_sum, ending = Signal.like(self.row), Signal(index_width(self.shape.sums)), Signal()
        active = Signal()
        with m.If(self.start):
            m.d.sync += [active.eq(1), rows_left.eq(self.rows), cols.eq(self.tile_cols)]
            m.d.sync += [row.eq(0), column.eq(0), first_sum.eq(0), swap.eq(self.swap if links == 2 else 0)]
        with m.Elif(active):
            m.d.sync += column.eq(column + 1)
            with m.If(column == last_column(cols, swap, rows_left == 1)):
                m.d.sync += [column.eq(0), row.eq(row + 1), rows_left.eq(rows_left - links)]
                with m.If(row == self.arch.array.rows // links - 1):
                    m.d.sync += [row.eq(0), first_sum.eq(first_sum + cols)]
                with m.If(rows_left <= links):
                    m.d.comb += ending.eq(1)
                    m.d.sync += active.eq(0)

        words = [column ^ (swap & link) for link in range(links)]
        drain = [active & (word < cols) & (rows_left > link) for link, word in enumerate(words)]
        wait = self.shape.write_stage + links - 1
        m.d.comb += [
            self.drain.eq(delay(m, Cat(*drain), wait, "drain", reset=True)),
            self.row.eq(delay(m, row, wait, "row")),
            Cat(self.drained).eq(delay(m, Cat(*(self._sum(first_sum, word) for word in words)), wait, "drained")),
        ]
        ended = ending if links == 2 else delay(m, ending, wait, "ended", reset=True)
        with m.If(self.start):
            m.d.sync += self.busy.eq(1)
        with m.Elif(ended):
            m.d.sync += self.busy.eq(0)
        return m

    @staticmethod
    def _sum(first_sum: Signal, word: Value) -> Value:
        return (first_sum + word)[: len(first_sum)]


class ResultCollector(wiring.Component):
    """Writes the words that leave the array to the accumulator scratchpad and ends tiles in order.

    Timing
    ------
    Writes words in the cycle of `valid`. A tile ends (`done`) in the cycle after its last word, a silent one in the
    cycle after its `flush`, but never before the tiles before it.

    Members
    -------
    results : In(stream of ResultLayout)
    valid : In(links)     A result word is on the south edge, of each link.
    flush : In(1)         The last beat of a silent tile has reached the last row.
    write : Out(links), address : Out(links x 20)
    done : Out(1), pc : Out
    written : Out(21)     Weight stationary: words of the current tile that have been written.
    ended : Out(2)        Weight-stationary tiles that have ended, modulo 4.
    error : Out(1)        A word is outside the scratchpad (SCRATCHPAD_RANGE); it is not written.
    """

    def __init__(self, *, arch: Arch) -> None:
        self.arch, self.links = arch, arch.array.drain
        super().__init__(
            {
                "results": In(stream.Signature(ResultLayout())),
                "valid": In(self.links),
                "flush": In(1),
                "write": Out(self.links),
                "address": Out(data.ArrayLayout(WORD_BITS, self.links)),
                "done": Out(1),
                "pc": Out(PC_BITS),
                "written": Out(21),
                "ended": Out(2),
                "error": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Count columns within rows, or within pairs of rows; end the tile."""
        m = Module()
        result = self.results.payload
        row, column, running = Signal(16), Signal(5), Signal()
        row_address, base = Signal(WORD_BITS + 1), Signal(WORD_BITS + 1)
        flushes, ends = Signal(4), Signal()
        swap, pair, alone = Signal(), Signal(), Signal()
        m.d.comb += [
            base.eq(Mux(running, row_address, result.acc_addr)),
            self.pc.eq(result.pc),
            self.results.ready.eq(ends),
            alone.eq(row == result.rows - 1),
        ]
        if self.links == 2:
            m.d.comb += [swap.eq(~result.stationary & ~result.acc_stride[0]), pair.eq(~result.stationary & ~alone)]
        self._write(m, base, column, swap)
        m.d.sync += [self.done.eq(ends), flushes.eq(flushes + self.flush)]
        with m.If(self.valid.any()):
            m.d.sync += [running.eq(1), column.eq(column + 1), row_address.eq(base), self.written.eq(self.written + 1)]
            with m.If(column == last_column(result.tile_cols, swap, alone)):
                following = base + Mux(pair, result.acc_stride << 1, result.acc_stride)
                m.d.sync += [column.eq(0), row.eq(row + 1 + pair), row_address.eq(following)]
                with m.If(alone | (pair & (row == result.rows - 2))):
                    m.d.comb += ends.eq(1)
                    m.d.sync += [row.eq(0), running.eq(0), self.written.eq(0)]
                    m.d.sync += self.ended.eq(self.ended + result.stationary)
        with m.Elif(self.results.valid & result.silent & (flushes != 0)):
            m.d.comb += ends.eq(1)
            m.d.sync += flushes.eq(flushes - 1 + self.flush)
        return m

    def _write(self, m: Module, base: Signal, column: Signal, swap: Signal) -> None:
        """Address of each link's word, and whether it exists."""
        outside = []
        for link in range(self.links):
            address = Signal(WORD_BITS + 2, name=f"address_{link}")
            stride = self.results.payload.acc_stride if link else 0
            m.d.comb += [
                address.eq(base + stride + (column ^ (swap & link))),
                self.address[link].eq(address),
                self.write[link].eq(self.valid[link] & (address < self.arch.scratchpads.acc_depth)),
            ]
            outside.append(self.valid[link] & (address >= self.arch.scratchpads.acc_depth))
        m.d.comb += self.error.eq(Cat(*outside).any())

"""Sequencers that bring operands into the array: activations into the rings, stationary weights into the buffers."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch import Arch
from hwgen.array.tile import TileLayout, part_bits
from hwgen.array.words import CommandLayout, ElementShape, index_width
from hwgen.lib.shapes import WORD_BITS


def position_bits(arch: Arch) -> int:
    """Bits of a position in the activation streams; positions count operands and wrap at twice the ring."""
    return index_width(arch.array.act_buffer) + 1


class ActivationFeeder(wiring.Component):
    """Fetches activation words into the rings ahead of the beats, across tile boundaries.

    All rings of a tile (one for each row block) advance together: word by word, row block by row block. After every
    `run` words, an ACT walk skips `jump` words.

    Timing
    ------
    One word a cycle while the rings have room. A beat may use a word in the cycle after `fetched` says so.

    Members
    -------
    tiles : In(stream of TileLayout)
    fetch : Out(1), act_addr : Out, act_word : Out   Fields of the row command.
    fetched : Out(position)    All operands before this position are in the rings.
    released : In(position)    Operands before this position are no longer needed.
    error : Out(1)             The word is outside the bank (SCRATCHPAD_RANGE); `pc` says whose. Stays until reset.
    """

    def __init__(self, *, arch: Arch) -> None:
        self.arch = arch
        command = CommandLayout(arch)
        bits = position_bits(arch)
        super().__init__(
            {
                "tiles": In(stream.Signature(TileLayout(arch))),
                "fetch": Out(1),
                "act_addr": Out(command["act_addr"].shape),
                "act_word": Out(command["act_word"].shape),
                "fetched": Out(bits),
                "released": In(bits),
                "error": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Two nested loops: words of the stream, row blocks."""
        m = Module()
        array, tile, parts = self.arch.array, self.tiles.payload, part_bits(self.arch)
        width_bits = array.act_width.bit_length() - 1
        started, words_left, block = Signal(), Signal(21), Signal(5)
        cursor, offset = Signal(WORD_BITS + parts + 1), Signal(WORD_BITS + parts + 1)
        base, address = Signal.like(cursor), Signal(len(cursor) + 1)
        in_run, run_ends = Signal.like(tile.run), Signal()
        room, step = Signal(), Signal()
        ring = Signal(len(self.fetched) + 1)
        used = (self.fetched - self.released)[: len(self.fetched)]
        m.d.comb += [
            base.eq(Mux(started, cursor, tile.act_addr)),
            address.eq(base + offset),
            run_ends.eq(in_run == tile.run - 1),
            ring.eq(1 << tile.ring_log2),
            room.eq(used + array.act_width <= ring),
            self.error.eq(self.tiles.valid & (address >> parts >= self.arch.scratchpads.act_depth)),
            step.eq(self.tiles.valid & room & ~self.error),
            self.fetch.eq(step),
            self.act_addr.eq(address),
            self.act_word.eq(((block << tile.ring_log2) | (self.fetched & (ring - 1))) >> width_bits),
        ]
        with m.If(step):
            m.d.sync += [block.eq(block + 1), offset.eq(offset + tile.act_stride)]
            with m.If(block == tile.tile_rows - 1):
                m.d.sync += [
                    block.eq(0),
                    offset.eq(0),
                    cursor.eq(base + Mux(run_ends, tile.act_jump, 0) + 1),
                    in_run.eq(Mux(run_ends, 0, in_run + 1)),
                    self.fetched.eq(self.fetched + array.act_width),
                    started.eq(1),
                    words_left.eq(Mux(started, words_left, tile.fetches) - 1),
                ]
                with m.If(Mux(started, words_left, tile.fetches) == 1):
                    m.d.comb += self.tiles.ready.eq(1)
                    m.d.sync += [started.eq(0), in_run.eq(0)]
        return m


class WeightPreloader(wiring.Component):
    """Loads the stationary weights of a tile into the free page of the weight buffers while the tile before computes.

    Timing
    ------
    One slot of one row a cycle, row 0 first: `rows` x K x tile_cols cycles. Beats use the slots in the same order, and
    row r starts `hop` cycles after row r - 1, so that they may start before the last row is loaded: a row loses
    tile_cols - chain latency cycles of its lead, if that is positive.

    Members
    -------
    tiles : In(stream of TileLayout)     Weight-stationary tiles only.
    read : Out(1), address : Out(20)     Weight scratchpad read.
    load, zero : Out(1), row, slot : Out Where the word goes, in the cycle of the read; `zero`: the row holds no group.
    loaded : Out(2)      Tiles loaded, modulo 4.
    safe : Out(1)        The beats of the tile being loaded may start: no row will overtake its weights.
    ended : In(2)        Weight-stationary tiles that have ended, modulo 4.
    error : Out(1)       The word is outside the scratchpad (SCRATCHPAD_RANGE). Stays until reset.
    """

    def __init__(self, *, arch: Arch) -> None:
        self.arch = arch
        shape = ElementShape.of(arch)
        super().__init__(
            {
                "tiles": In(stream.Signature(TileLayout(arch))),
                "read": Out(1),
                "address": Out(WORD_BITS),
                "load": Out(1),
                "zero": Out(1),
                "row": Out(arch.row_bits),
                "slot": Out(index_width(shape.weight_slots)),
                "loaded": Out(2),
                "safe": Out(1),
                "ended": In(2),
                "error": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Slots within rows; a tile may start when the last but one has ended, whose page it overwrites."""
        m = Module()
        tile, buffer = self.tiles.payload, self.arch.array.weight_buffer
        slots, slot, row = Signal(range(buffer + 1)), Signal(range(buffer)), Signal(self.arch.row_bits)
        offset, address = Signal(WORD_BITS), Signal(WORD_BITS + 1)
        step, excess, chain = Signal(), Signal(5), self.arch.array.chain_latency
        m.d.comb += [
            slots.eq(tile.words * tile.tile_cols),
            address.eq(tile.wgt_addr + offset),
            self.zero.eq(self.tiles.valid & (row >= tile.groups)),
            self.error.eq(self.tiles.valid & ~self.zero & (address >= self.arch.scratchpads.wgt_depth)),
            step.eq(self.tiles.valid & ((self.loaded - self.ended)[:2] <= 1) & ~self.error),
            self.read.eq(step & ~self.zero),
            self.address.eq(address),
            self.load.eq(step),
            self.row.eq(row),
            self.slot.eq(Mux(tile.page, buffer, 0) + slot),
            excess.eq(Mux(tile.tile_cols > chain, tile.tile_cols - chain, 0)),
            self.safe.eq(self.tiles.valid & (offset > excess * (self.arch.array.rows - 1))),
        ]
        with m.If(step):
            m.d.sync += [slot.eq(slot + 1), offset.eq(offset + 1)]
            with m.If(slot == slots - 1):
                m.d.sync += [slot.eq(0), row.eq(row + 1)]
                with m.If(row == self.arch.array.rows - 1):
                    m.d.comb += self.tiles.ready.eq(1)
                    m.d.sync += [row.eq(0), offset.eq(0), self.loaded.eq(self.loaded + 1)]
        return m

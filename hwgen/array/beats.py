"""The beat sequencer: decides every cycle whether the next beat of a tile may enter the array."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch import Arch
from hwgen.arch.registers import TensorState
from hwgen.array.feed import position_bits
from hwgen.array.tile import TileLayout
from hwgen.array.words import ElementShape, Source, beat_fields, index_width
from hwgen.lib.shapes import PC_BITS, WORD_BITS


class ResultLayout(data.StructLayout):
    """Where the results of a tile go. `silent`: the tile leaves none, its end is marked by `flush`."""

    def __init__(self) -> None:
        super().__init__(
            {
                "pc": PC_BITS,
                "silent": 1,
                "stationary": 1,
                "rows": 16,
                "tile_cols": 5,
                "acc_addr": WORD_BITS,
                "acc_stride": WORD_BITS,
            }
        )


class BeatLayout(data.StructLayout):
    """The beat fields of a row command."""

    def __init__(self, arch: Arch) -> None:
        super().__init__(beat_fields(ElementShape.of(arch)))


class BeatSequencer(wiring.Component):
    """Issues the beats of one tile after another: for each group, weight word, row block and column block.

    Weight words are contiguous, or those of a WGT walk: `step` further for each weight word, `leap` after the last one
    of each `run` groups, `col_step` for each column block, `col_jump` from the start of one run of blocks to the next.

    A beat waits until its activations are in the rings, its sum has left the adder chain, and: output stationary, at
    the last weight word, the drain buffers are free; weight stationary, the weights are loaded, and the earlier sum
    has been written where it will be read.

    Timing
    ------
    One beat a cycle, none lost between tiles. A tile takes steps x K x max(tile_rows x tile_cols, chain latency) beats
    and bubbles (weight stationary with K = 1: rows x tile_cols), if operands are there in time.

    Members
    -------
    tiles : In(stream of TileLayout), results : Out(stream of ResultLayout)
    fire : Out(1), beat : Out(BeatLayout)
    weight : Out(1), weight_address : Out(20)   Streamed weights (output stationary).
    sum : Out(1), sum_address : Out(20)         Earlier sums (weight stationary, not first).
    fetched, released : position                 See ActivationFeeder.
    loaded : In(2), safe : In(1)                 See WeightPreloader.
    ended : In(2)        Weight-stationary tiles that have ended, modulo 4.
    written : In(21)     Result words of the tile being collected that have been written.
    draining : In(1)     Drain buffers are not free.
    leaving : Out(1)     The first sum of the tile enters its drain buffer `write_stage` after this beat.
    state : Out(TensorState), error : Out(1)
    """

    def __init__(self, *, arch: Arch) -> None:
        self.arch, self.shape = arch, ElementShape.of(arch)
        bits = position_bits(arch)
        super().__init__(
            {
                "tiles": In(stream.Signature(TileLayout(arch))),
                "results": Out(stream.Signature(ResultLayout())),
                "fire": Out(1),
                "beat": Out(BeatLayout(arch)),
                "weight": Out(1),
                "weight_address": Out(WORD_BITS),
                "sum": Out(1),
                "sum_address": Out(WORD_BITS),
                "fetched": In(bits),
                "released": Out(bits),
                "loaded": In(2),
                "safe": In(1),
                "ended": In(2),
                "written": In(21),
                "draining": In(1),
                "leaving": Out(1),
                "state": Out(TensorState),
                "error": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Loop counters, conditions, beat fields."""
        m = Module()
        self._declare()
        self._loops(m)
        self._conditions(m)
        self._fields(m)
        return m

    def _declare(self) -> None:
        """Registers of the loops and signals that several parts use."""
        self.step, self.word = Signal(16), Signal(5)
        self.block, self.column, self.sum_index = Signal(5), Signal(5), Signal(index_width(self.shape.sums))
        self.slot = Signal(range(self.shape.weight_slots))
        self.running = Signal()
        self.weight_row, self.sum_row = Signal(WORD_BITS + 1), Signal(WORD_BITS + 1)
        self.issued = Signal(21)
        self.stationary_count = Signal(2)
        self.last_word, self.last_step, self.last_column, self.last_block = (Signal() for _ in range(4))
        self.weight_base, self.sum_base = Signal(WORD_BITS + 1), Signal(WORD_BITS + 1)
        # A WGT walk over the column blocks: weight words from block 0 to this one and to the first of its run.
        tile = self.tiles.payload
        offset_bits = len(tile.col_jump) + 4
        self.offset, self.run_offset = Signal(offset_bits), Signal(offset_bits)
        self.in_run, self.in_col_run = Signal.like(tile.run), Signal.like(tile.col_run)

    def _loops(self, m: Module) -> None:
        """Advance column, row block, weight word and group; the innermost is the column."""
        tile, pos, width = self.tiles.payload, self.released, self.arch.array.act_width
        run_ends = Signal()
        m.d.comb += [
            self.last_column.eq(self.column == tile.tile_cols - 1),
            self.last_block.eq(self.block == tile.tile_rows - 1),
            self.last_word.eq(self.word == tile.words - 1),
            self.last_step.eq(self.step == tile.steps - 1),
            run_ends.eq(self.in_run == tile.run - 1),
            self.weight_base.eq(Mux(self.running, self.weight_row, tile.wgt_addr)),
            self.sum_base.eq(Mux(self.running, self.sum_row, tile.acc_addr)),
        ]
        with m.If(self.fire):
            self._next_column(m)
            m.d.sync += [
                self.running.eq(1),
                self.weight_row.eq(self.weight_base),
                self.sum_row.eq(self.sum_base),
                self.sum_index.eq(self.sum_index + 1),
                self.slot.eq(self.slot + 1),
                self.issued.eq(self.issued + (self.word == 0)),
            ]
            with m.If(self.last_column):
                m.d.sync += self.block.eq(self.block + 1)
            with m.If(self.last_column & self.last_block):
                m.d.sync += [self.block.eq(0), self.sum_index.eq(0), self.word.eq(self.word + 1)]
                leap = self.last_word & run_ends
                m.d.sync += self.weight_row.eq(self.weight_base + Mux(leap, tile.leap, tile.step))
                with m.If(self.last_word):
                    following = (pos + tile.group)[: len(pos)]
                    m.d.sync += [self.word.eq(0), self.slot.eq(0), self.step.eq(self.step + 1), pos.eq(following)]
                    m.d.sync += self.sum_row.eq(self.sum_base + tile.acc_stride)
                    m.d.sync += self.in_run.eq(Mux(run_ends, 0, self.in_run + 1))
                    with m.If(self.last_step):
                        aligned = (following + width - 1)[: len(pos)] & ~(width - 1)
                        m.d.comb += self.tiles.ready.eq(1)
                        m.d.sync += [self.step.eq(0), self.running.eq(0), self.issued.eq(0), pos.eq(aligned)]
                        m.d.sync += self.in_run.eq(0)
                        m.d.sync += self.stationary_count.eq(self.stationary_count + tile.stationary)

    def _next_column(self, m: Module) -> None:
        """Advance the column block and its weight words; after the last one, start again."""
        tile, following = self.tiles.payload, Signal.like(self.run_offset)
        m.d.comb += following.eq(self.run_offset + tile.col_jump)
        m.d.sync += [
            self.column.eq(self.column + 1),
            self.in_col_run.eq(self.in_col_run + 1),
            self.offset.eq(self.offset + tile.col_step),
        ]
        with m.If(self.in_col_run == tile.col_run - 1):
            m.d.sync += [self.in_col_run.eq(0), self.offset.eq(following), self.run_offset.eq(following)]
        with m.If(self.last_column):
            m.d.sync += [self.column.eq(0), self.in_col_run.eq(0), self.offset.eq(0), self.run_offset.eq(0)]

    def _conditions(self, m: Module) -> None:
        """Find the first reason to wait, and fire if there is none."""
        tile, scratchpads = self.tiles.payload, self.arch.scratchpads
        starting, group_start = Signal(), Signal()
        weights, activations, bubble, sums, drain = (Signal() for _ in range(5))
        start_of_word = (self.column == 0) & (self.block == 0)
        available = (self.fetched - self.released)[: len(self.fetched)] >= tile.group
        # The preloader is at most two tiles ahead, and at most one behind, when a short tile has overtaken its weights.
        ahead = (self.loaded - self.stationary_count)[:2]
        loaded = (ahead == 1) | (ahead == 2) | ((ahead == 0) & self.safe)
        needs_sum = tile.stationary & ~tile.first & (self.word == 0)
        behind = (self.stationary_count - self.ended)[:2]
        earlier_written = (behind == 0) | ((behind == 1) & tile.same & (self.written > self.issued))
        last_word = self.last_word & self.last_step & tile.last & ~tile.stationary
        m.d.comb += [
            starting.eq(~self.running),
            group_start.eq(start_of_word & (self.word == 0)),
            weights.eq(starting & tile.stationary & ~loaded),
            activations.eq(group_start & ~available),
            bubble.eq(self._in_chain(m)),
            sums.eq(needs_sum & ~earlier_written),
            drain.eq((start_of_word & last_word & self.draining) | (starting & ~self.results.ready)),
            self.error.eq(self.tiles.valid & self._out_of_range(tile, scratchpads, needs_sum)),
            self.fire.eq(self.tiles.valid & ~Cat(weights, activations, bubble, sums, drain, self.error).any()),
            self.leaving.eq(self.fire & start_of_word & last_word),
            self.results.valid.eq(self.fire & starting),
        ]
        with m.If(~self.tiles.valid):
            m.d.comb += self.state.eq(TensorState.IDLE)
        with m.Elif(self.fire):
            m.d.comb += self.state.eq(TensorState.BUSY)
        with m.Elif(weights):
            m.d.comb += self.state.eq(TensorState.WEIGHTS)
        with m.Elif(activations | sums):
            m.d.comb += self.state.eq(TensorState.FILL)
        with m.Elif(bubble):
            m.d.comb += self.state.eq(TensorState.BUBBLE)
        with m.Else():
            m.d.comb += self.state.eq(TensorState.DRAIN)

    def _out_of_range(self, tile: data.View, scratchpads: object, needs_sum: object) -> object:
        """Whether this beat would read a weight or sum word outside its memory."""
        weight = ~tile.stationary & (self.weight_base + self.offset >= scratchpads.wgt_depth)
        return weight | (needs_sum & (self.sum_base + self.column >= scratchpads.acc_depth))

    def _in_chain(self, m: Module) -> object:
        """Whether the sum that this beat continues is still in the adder chain; sets `forward` if it just leaves it."""
        chain = self.shape.chain_latency
        valid = Signal(chain)
        indices = [Signal.like(self.sum_index, name=f"in_chain_{age}") for age in range(chain)]
        m.d.sync += valid.eq(Cat(self.fire & self.beat.keep, valid[:-1]))
        m.d.sync += [now.eq(before) for now, before in zip(indices, [self.sum_index, *indices[:-1]])]
        same = Cat(*(valid[age] & (indices[age] == self.sum_index) for age in range(chain)))
        self.continues, self.forward = Signal(), Signal()
        m.d.comb += self.forward.eq(same[-1])
        return self.continues & same[:-1].any()

    def _fields(self, m: Module) -> None:
        """What the beat tells the rows and the scratchpads."""
        tile, beat, buffer = self.tiles.payload, self.beat, self.arch.array.weight_buffer
        result = self.results.payload
        start_of_tile = (self.word == 0) & (self.step == 0)
        leaves = self.last_word & self.last_step & tile.last & ~tile.stationary
        north = tile.stationary & (self.word == 0)
        zero = ~tile.stationary & start_of_tile & tile.first
        mask = Array([(1 << log2) - 1 for log2 in range(index_width(self.shape.act_buffer) + 1)])[tile.ring_log2]
        m.d.comb += [
            beat.mask.eq(mask),
            beat.base.eq((self.block << tile.ring_log2) | (self.released & mask)),
            beat.dense.eq(tile.dense),
            beat.stationary.eq(tile.stationary),
            beat.slot.eq(Mux(tile.page, buffer, 0) + self.slot),
            self.continues.eq(~north & ~zero),
            beat.source.eq(
                Mux(zero, Source.ZERO, Mux(north, Source.NORTH, Mux(self.forward, Source.FORWARD, Source.HELD)))
            ),
            beat.sum.eq(self.sum_index),
            beat.keep.eq(Mux(tile.stationary, ~self.last_word, ~leaves)),
            beat.leave.eq(leaves),
            beat.emit.eq(tile.stationary & self.last_word),
            beat.flush.eq(self.tiles.ready & ~tile.last),
            self.weight.eq(self.fire & ~tile.stationary),
            self.weight_address.eq(self.weight_base + self.offset),
            self.sum.eq(self.fire & north & ~tile.first),
            self.sum_address.eq(self.sum_base + self.column),
            *(
                result[name].eq(tile[name])
                for name in ("pc", "stationary", "rows", "tile_cols", "acc_addr", "acc_stride")
            ),
            result.silent.eq(~tile.last),
        ]

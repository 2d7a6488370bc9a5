"""All sequencers of the tensor engine: from instructions to row commands, scratchpad accesses and result addresses."""

from amaranth.hdl import Cat, Elaboratable, Module, Mux, ResetInserter, Signal
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hwgen.arch import Arch
from hwgen.arch.isa import Cause
from hwgen.arch.registers import TensorState
from hwgen.array.beats import BeatSequencer, ResultLayout
from hwgen.array.collect import DrainSequencer, ResultCollector
from hwgen.array.feed import ActivationFeeder, WeightPreloader
from hwgen.array.tile import TileAdmission, TileLayout
from hwgen.array.words import CommandLayout, ElementShape, hop_limit, index_width
from hwgen.lib.shapes import WORD_BITS, ErrorLayout
from hwgen.lib.shapes import CommandLayout as InstructionLayout

TILE_QUEUE = 4
"""Tiles that wait in front of each sequencer."""


class Sequencer(wiring.Component):
    """Admits tiles and hands each to feeder, preloader and beat sequencer; the collector ends them.

    Members
    -------
    command : In(stream of hwgen.lib.shapes.CommandLayout)
    row_command : Out(CommandLayout), hop : Out
    weight_address : Out(20)        Read of the weight scratchpad, streamed or to be preloaded.
    load, zero : Out(1), row, slot  Preload of the word read in this cycle.
    sum : Out(1), sum_address : Out(20), north : Out(1)   Earlier sums; `north` = 0: the beat starts at +0.
    valid : In(links), flush : In(1)   See ResultCollector.
    write : Out(links), address : Out(links x 20), done : Out(1)
    error : Out(ErrorLayout), error_valid : Out(1)   Stays until reset.
    state : Out(TensorState), active : Out(1)
    clear : In(1)                   Forget all tiles.
    """

    def __init__(self, *, arch: Arch) -> None:
        self.arch = arch
        shape = ElementShape.of(arch)
        super().__init__(
            {
                "command": In(stream.Signature(InstructionLayout())),
                "row_command": Out(CommandLayout(arch)),
                "hop": Out(range(hop_limit(arch) + 1)),
                "weight_address": Out(WORD_BITS),
                "load": Out(1),
                "zero": Out(1),
                "row": Out(arch.row_bits),
                "slot": Out(index_width(shape.weight_slots)),
                "sum": Out(1),
                "sum_address": Out(WORD_BITS),
                "north": Out(1),
                "valid": In(shape.links),
                "flush": In(1),
                "write": Out(shape.links),
                "address": Out(data.ArrayLayout(WORD_BITS, shape.links)),
                "done": Out(1),
                "error": Out(ErrorLayout()),
                "error_valid": Out(1),
                "state": Out(TensorState),
                "active": Out(1),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Elaboratable:
        """Connect the sequencers; merge their parts of the row command."""
        m = Module()
        arch = self.arch
        m.submodules.admission = self._admission = admission = TileAdmission(arch=arch)
        m.submodules.feeder = self._feeder = feeder = ActivationFeeder(arch=arch)
        m.submodules.preloader = self._preloader = preloader = WeightPreloader(arch=arch)
        m.submodules.beats = self._beats = beats = BeatSequencer(arch=arch)
        m.submodules.drain = self._drain = drain = DrainSequencer(arch=arch)
        m.submodules.collector = self._collector = collector = ResultCollector(arch=arch)
        self._queues(m)
        m.d.comb += [
            beats.fetched.eq(feeder.fetched),
            feeder.released.eq(beats.released),
            beats.loaded.eq(preloader.loaded),
            beats.safe.eq(preloader.safe),
            beats.ended.eq(collector.ended),
            preloader.ended.eq(collector.ended),
            beats.written.eq(collector.written),
            beats.draining.eq(drain.busy),
            drain.start.eq(beats.leaving),
            drain.rows.eq(beats.tiles.payload.rows),
            drain.tile_cols.eq(beats.tiles.payload.tile_cols),
            drain.swap.eq(~beats.tiles.payload.acc_stride[0]),
            collector.valid.eq(self.valid),
            collector.flush.eq(self.flush),
            self.hop.eq(admission.hop),
            self.weight_address.eq(Mux(preloader.read, preloader.address, beats.weight_address)),
            *(getattr(self, name).eq(getattr(preloader, name)) for name in ("load", "zero", "row", "slot")),
            *(getattr(self, name).eq(getattr(beats, name)) for name in ("sum", "sum_address")),
            self.north.eq(beats.sum),
            *(getattr(self, name).eq(getattr(collector, name)) for name in ("write", "address", "done")),
        ]
        self._row_command(m)
        self._status(m)
        return ResetInserter(self.clear)(m)

    def _queues(self, m: Module) -> None:
        """Hand an admitted tile to all sequencers that work on it, in one cycle."""
        tiles = self._admission.tiles
        width = TileLayout(self.arch).size
        room, hand = [], Signal()
        for name, sink, wanted in (
            ("feeder", self._feeder.tiles, 1),
            ("preloader", self._preloader.tiles, tiles.payload.stationary),
            ("beats", self._beats.tiles, 1),
        ):
            m.submodules[f"{name}_queue"] = queue = fifo.SyncFIFO(width=width, depth=TILE_QUEUE)
            m.d.comb += [queue.w_data.eq(tiles.payload), queue.w_en.eq(hand & wanted)]
            m.d.comb += [sink.payload.eq(queue.r_data), sink.valid.eq(queue.r_rdy), queue.r_en.eq(sink.ready)]
            room.append(queue.w_rdy)
        m.d.comb += self._admission.issued.eq(~self._beats.tiles.valid)
        m.submodules.results_queue = results = fifo.SyncFIFO(width=ResultLayout().size, depth=2 * TILE_QUEUE)
        m.d.comb += [
            hand.eq(tiles.valid & Cat(*room).all()),
            tiles.ready.eq(Cat(*room).all()),
            results.w_data.eq(self._beats.results.payload),
            results.w_en.eq(self._beats.results.valid),
            self._beats.results.ready.eq(results.w_rdy),
            self._collector.results.payload.eq(results.r_data),
            self._collector.results.valid.eq(results.r_rdy),
            results.r_en.eq(self._collector.results.ready),
        ]
        connect(m, flipped(self).command, self._admission.command)
        under_way = Signal(range(4 * TILE_QUEUE))
        m.d.sync += under_way.eq(under_way + hand - self._collector.done)
        m.d.comb += [self._admission.ended.eq(under_way == 0), self.active.eq((under_way != 0) | self._admission.busy)]

    def _row_command(self, m: Module) -> None:
        """Fields of feeder, beats and drain, those of a beat only if it fires."""
        command, beat, fire = self.row_command, self._beats.beat, self._beats.fire
        feeder, drain = self._feeder, self._drain
        m.d.comb += [
            *(
                command[name].eq(beat[name])
                for name in ("base", "mask", "dense", "stationary", "slot", "source", "sum")
            ),
            *(command[name].eq(beat[name] & fire) for name in ("keep", "leave", "emit", "flush")),
            *(command[name].eq(getattr(feeder, name)) for name in ("fetch", "act_addr", "act_word")),
            command.drain.eq(drain.drain),
            command.drain_row.eq(drain.row),
            command.drained.eq(drain.drained),
        ]

    def _status(self, m: Module) -> None:
        """Errors, first of the oldest instruction, and what the engine is doing."""
        admission, beats, collector = self._admission, self._beats, self._collector
        sources = (
            (collector.error, Cause.SCRATCHPAD_RANGE, collector.pc),
            (beats.error, Cause.SCRATCHPAD_RANGE, beats.tiles.payload.pc),
            (self._preloader.error, Cause.SCRATCHPAD_RANGE, self._preloader.tiles.payload.pc),
            (self._feeder.error, Cause.SCRATCHPAD_RANGE, self._feeder.tiles.payload.pc),
            (admission.error, Cause.BAD_FIELD, admission.pc),
        )
        for error, cause, pc in reversed(sources):
            with m.If(error):
                m.d.comb += [self.error_valid.eq(1), self.error.cause.eq(cause), self.error.pc.eq(pc)]
        m.d.comb += self.state.eq(beats.state)
        with m.If(beats.state == TensorState.IDLE):
            with m.If(admission.changing):
                m.d.comb += self.state.eq(TensorState.DRAIN)
            with m.Elif(admission.busy):
                m.d.comb += self.state.eq(TensorState.FILL)
            with m.Elif(collector.results.valid):
                m.d.comb += self.state.eq(TensorState.DRAIN)

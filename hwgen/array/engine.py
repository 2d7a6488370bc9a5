"""The tensor engine (STCE): activation banks, weight scratchpad, array and sequencers behind one command stream."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch import INDEX_BITS, Arch
from hwgen.arch.isa import Target, engines
from hwgen.arch.registers import TensorState
from hwgen.array.mesh import Mesh
from hwgen.array.row import RowHead
from hwgen.array.sequencer import Sequencer
from hwgen.array.weights import WeightScratchpad
from hwgen.array.words import ElementShape, WeightLayout, hop_limit
from hwgen.lib.pipeline import delay
from hwgen.lib.shapes import AccRead, AccWrite, EngineSignature, LoadBeat, engine_places, waits_for_memory
from hwgen.lib.shared import Shared


class TensorEngine(wiring.Component):
    """Executes TENSOR instructions (ISA.md) back to back.

    Timing
    ------
    Output stationary: groups x K x max(tile_rows x tile_cols, chain latency) cycles a tile, or the drain of the tile
    before (rows x tile_cols + `write_stage` + 1; see DrainSequencer for two words a cycle) if that is longer; the first
    tile fills in about 8 cycles, the last drains in rows x tile_cols + rows + cols + `write_stage`.
    Weight stationary: rows x K x max(tile_cols, chain latency if K > 1) cycles a tile; the first tile waits
    until no row will overtake its weights, the last drains in array rows x hop + cols + `write_stage`, where
    hop = (K - 1) x max(tile_cols, chain latency) + chain latency + 1.
    Tiles follow one another without a gap unless dataflow, hop or ring size change.
    Walks change no cycle: feeder and beat sequencer only step by other strides.

    Members
    -------
    control : EngineSignature
    beats : In(stream of LoadBeat)     Beats for ACT, WGT and IDX, other targets ignored. One a cycle, but after one of
                                       indices the next one of indices waits for 4/lanes cycles.
    acc_read : Out(AccRead), acc_write : Out(AccWrite)   `ready` must always be 1.
    acc_write_odd : Out(AccWrite)   Only if array.drain is 2: odd rows of the array. Of two words written in a cycle,
                                    one has an even and one an odd address.
    waiting : In(E)     Engines that the next instruction waits for, for the account of idle cycles; E is what
                        `engine_places` says.
    state : Out(TensorState)
    """

    def __init__(self, *, arch: Arch) -> None:
        self.arch, self.shape = arch, ElementShape.of(arch)
        super().__init__(
            {
                "control": Out(EngineSignature()),
                "beats": In(stream.Signature(LoadBeat(arch))),
                "acc_read": Out(AccRead(arch)),
                "acc_write": Out(AccWrite(arch)),
                "waiting": In(engine_places(engines(arch))),
                "state": Out(TensorState),
            }
            | ({"acc_write_odd": Out(AccWrite(arch))} if arch.array.drain == 2 else {})
        )

    def elaborate(self, platform: object) -> Module:
        """Sequencers, scratchpads and mesh; stop and restart."""
        m = Module()
        clear = Signal()
        self._sequencer = sequencer = Shared(Sequencer, arch=self.arch)
        m.submodules.sequencer = sequencer
        m.submodules.weights = self._weights = Shared(WeightScratchpad, arch=self.arch)
        m.submodules.mesh = self._mesh = mesh = Shared(Mesh, arch=self.arch)
        load = delay(m, self.beats.payload, 1, "load")
        load_valid = delay(m, self.beats.valid & self.beats.ready, 1, "load_valid", reset=True)
        to_banks = (load.target == Target.ACT_ROWS) | (load.target == Target.ACT_CHUNKS)
        m.d.comb += [
            self._weights.load.eq(self.beats.payload),
            self._weights.load_valid.eq(self.beats.valid),
            self.beats.ready.eq(self._weights.load_ready),
            mesh.load.eq(load),
            mesh.load_valid.eq(load_valid & to_banks),
            mesh.command.eq(sequencer.row_command),
            mesh.hop.eq(sequencer.hop),
        ]
        self._operands(m)
        self._results(m)
        self._control(m, clear)
        return m

    def _operands(self, m: Module) -> None:
        """Weights and earlier sums, aligned with the row command at the north edge."""
        sequencer, weights, shape, cols = self._sequencer, self._weights, self.shape, self.arch.array.cols
        latency = RowHead.LATENCY
        load = delay(m, Cat(sequencer.load, sequencer.zero), latency, "preload", reset=True)
        place = delay(m, Cat(sequencer.row, sequencer.slot), latency, "place")
        layout = WeightLayout(shape)
        value_bits, index_bits = 16 * shape.lanes, INDEX_BITS * shape.lanes
        columns = []
        for column in range(cols):
            word = Signal(layout, name=f"weight_{column}")
            m.d.comb += [
                Cat(word.values).eq(Mux(load[1], 0, weights.values.word_select(column, value_bits))),
                Cat(word.indices).eq(Mux(load[1], 0, weights.indices.word_select(column, index_bits))),
                word.load.eq(load[0]),
                Cat(word.row, word.slot).eq(place),
            ]
            columns.append(word)
        early = delay(m, Cat(sequencer.sum, sequencer.sum_address), shape.read_stage, "sum")
        wanted = delay(m, sequencer.north, latency + shape.read_stage, "north")
        m.d.comb += [
            weights.address.eq(sequencer.weight_address),
            self._mesh.weight.eq(Cat(*columns)),
            self.acc_read.valid.eq(early[0]),
            self.acc_read.address.eq(early[1:]),
            self._mesh.north.eq(Mux(wanted, self.acc_read.data, 0)),
        ]

    def _results(self, m: Module) -> None:
        """Tell the collector when a result word is on the south edge, and write it."""
        sequencer, mesh, tail = self._sequencer, self._mesh, self._mesh.tail
        # A drained word is on the last row's south link one register after its control, an emitted one write_stage + 1.
        drained = delay(m, tail.drain, RowHead.LATENCY + mesh.component.south_latency, "drained", reset=True)
        emitted = delay(
            m, tail.emit, RowHead.LATENCY + self.shape.write_stage + mesh.component.south_latency, "emitted", reset=True
        )
        m.d.comb += [
            sequencer.valid.eq(drained | emitted),
            sequencer.flush.eq(delay(m, tail.flush, RowHead.LATENCY + 1, "flushed", reset=True)),
        ]
        ports = [self.acc_write, self.acc_write_odd] if self.shape.links == 2 else [self.acc_write]
        for link, port in enumerate(ports):
            m.d.comb += [
                port.valid.eq(sequencer.write[link]),
                port.address.eq(sequencer.address[link]),
                port.data.eq(mesh.south.word_select(link, 32 * self.arch.array.cols)),
                port.halves.eq(0b11),
            ]

    def _control(self, m: Module, clear: Signal) -> None:
        """Commands, end and error of instructions; after an error, wait until the pipelines are empty."""
        sequencer, control, arch = self._sequencer, self.control, self.arch
        longest = arch.array.rows * hop_limit(arch) + arch.array.cols + 64
        emptying, failed = Signal(range(longest + 1)), Signal()
        m.d.comb += clear.eq(failed | control.stop)
        with m.If((sequencer.error_valid | control.stop) & ~failed):
            m.d.sync += [failed.eq(1), emptying.eq(longest)]
        with m.Elif(emptying != 0):
            m.d.sync += emptying.eq(emptying - 1)
        with m.Elif(~control.stop):
            m.d.sync += failed.eq(0)
        m.d.comb += [
            sequencer.clear.eq(clear),
            sequencer.command.payload.eq(control.command.payload),
            sequencer.command.valid.eq(control.command.valid & ~clear),
            control.command.ready.eq(sequencer.command.ready & ~clear),
            control.done.eq(sequencer.done),
            control.busy.eq(sequencer.active | (emptying != 0)),
            control.error.eq(sequencer.error),
            control.error_valid.eq(sequencer.error_valid & ~failed),
            self.state.eq(sequencer.state),
        ]
        for_memory = waits_for_memory(self.waiting, engines(self.arch))
        with m.If(~sequencer.active & self.waiting.any()):
            m.d.comb += self.state.eq(Mux(for_memory, TensorState.MEMORY, TensorState.TOKENS))

"""What a STORE means for both sides of the engine: checks, block of external memory, words to read."""

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch import Arch
from hwgen.arch.isa import Cause, Format, Opcode
from hwgen.lib.shapes import CommandLayout
from hwgen.memory.bursts import Block, beat_log2, merge_runs
from hwgen.memory.faults import first_cause, operands_of
from hwgen.memory.length import PackedLength
from hwgen.memory.walk import COUNT_BITS
from hwgen.memory.words import WordJob


class StoreJob(data.StructLayout):
    """A checked STORE: what is wrong with it (`cause`), what to write, which words to read."""

    def __init__(self, arch: Arch) -> None:
        super().__init__({"cause": 4, "block": Block(), "words": WordJob(arch)})


class StoreSetup(wiring.Component):
    """Checks the rules of STORE that tie fields together, and works out what both sides of the engine need.

    The whole range of accumulator words is checked at once, so that no part of a bad STORE is written.
    That each field is in its range has been checked at dispatch.

    Timing
    ------
    Latency 1 cycle, one instruction a cycle; PACKED takes `packed_latency` cycles and holds off the next instruction.

    Parameters
    ----------
    arch : Arch

    Members
    -------
    i : In(stream of CommandLayout)
    o : Out(stream of StoreJob)
    busy : Out(1)   An instruction is inside.
    clear : In(1)   Forget it.
    """

    LATENCY = 1

    def __init__(self, arch: Arch) -> None:
        self._arch = arch
        self._cols_log2 = arch.array.cols.bit_length() - 1
        self._length_bits = COUNT_BITS + self._cols_log2
        super().__init__(
            {
                "i": In(stream.Signature(CommandLayout())),
                "o": Out(stream.Signature(StoreJob(arch))),
                "busy": Out(1),
                "clear": In(1),
            }
        )

    @property
    def packed_latency(self) -> int:
        """Latency of PACKED: that of `PackedLength`, and the output register."""
        return PackedLength.latency(self._length_bits) + 1

    def elaborate(self, platform: object) -> Module:
        """One register stage behind checks and products; it waits for the length of packed sequences."""
        m = Module()
        m.submodules.length = length = PackedLength(self._arch, width=self._length_bits)
        store = operands_of(Opcode.STORE, self.i.payload.operands)
        job = Signal(StoreJob(self._arch), reset_less=True)
        packed, dividing, take = store.format == Format.PACKED, Signal(), Signal()
        runs, beats = self._runs(m, store)
        m.d.comb += [
            self.i.ready.eq(~dividing & (~self.o.valid | self.o.ready)),
            self.o.payload.eq(job),
            self.busy.eq(dividing | self.o.valid),
            take.eq(self.i.ready & self.i.valid),
            length.start.eq(take & packed),
            length.length.eq(beats),
            length.n.eq(store.n),
            length.m.eq(store.m),
        ]
        with m.If(self.i.ready):
            m.d.sync += [self.o.valid.eq(self.i.valid & ~packed), dividing.eq(self.i.valid & packed)]
        with m.If(take):
            m.d.sync += job.cause.eq(self._cause(store))
            self._derive(m, store, job, runs, beats)
        with m.If(dividing & length.done):
            m.d.sync += [dividing.eq(0), self.o.valid.eq(1), job.block.beats.eq(length.beats)]
            with m.If(~length.exact):
                m.d.sync += job.cause.eq(Cause.BAD_FIELD)
        with m.If(self.clear):
            m.d.sync += [dividing.eq(0), self.o.valid.eq(0)]
        return m

    def _runs(self, m: Module, store: data.View) -> tuple[Value, Value]:
        """How many runs of beats a plane is and how long they are; of PACKED, before it is reduced."""
        cols_log2, runs, beats = self._cols_log2, Signal(self._length_bits), Signal(self._length_bits)
        with m.Switch(store.format):
            with m.Case(Format.FP32):
                m.d.comb += [runs.eq(store.rows), beats.eq(store.words << 1)]
            with m.Case(Format.OPERAND):
                m.d.comb += runs.eq(Mux(store.transpose, store.words << cols_log2, store.rows))
                m.d.comb += beats.eq(Mux(store.transpose, 1, store.words))
            with m.Default():
                m.d.comb += runs.eq(Mux(store.transpose, store.rows >> cols_log2, store.words))
                m.d.comb += beats.eq(Mux(store.transpose, store.words << cols_log2, store.rows))
        return runs, beats

    def _derive(self, m: Module, store: data.View, job: data.View, runs: Value, beats: Value) -> None:
        """Fill the job; sequences of PACKED are not merged, as their length is not known yet, nor are planes."""
        packed, wide = store.format == Format.PACKED, store.format == Format.FP32
        counts = merge_runs(
            self._arch,
            stride=store.row_stride,
            rows=runs,
            plane_stride=0,
            planes=Const(1),
            beats=beats,
            row_beats=beats,
            block_beats=(store.rows * store.words) << wide,
        )
        m.d.sync += [
            job.block.pc.eq(self.i.payload.pc),
            job.block.tag.eq(packed | store.transpose),
            job.block.address.eq(store.dram_addr),
            job.block.stride.eq(store.plane_stride),
            job.block.rows.eq(store.planes),
            job.block.plane_stride.eq(store.row_stride),
            job.block.planes.eq(Mux(packed, runs, counts["rows"])),
            job.block.beats.eq(counts["beats"]),
        ]
        self._derive_words(m, store, job.words)

    def _derive_words(self, m: Module, store: data.View, words: data.View) -> None:
        """What is read, and what becomes of it."""
        packed, wide = store.format == Format.PACKED, store.format == Format.FP32
        m.d.sync += [
            words.wide.eq(wide),
            words.by_rows.eq(wide | ((store.format == Format.OPERAND) & ~store.transpose)),
            words.transpose.eq(store.transpose),
            words.reduction.packed.eq(packed),
            words.reduction.n.eq(Mux(packed, store.n, 0)),
            words.reduction.m.eq(Mux(packed, store.m, 0)),
        ]
        m.d.sync += [words[name].eq(store[name]) for name in ("addr", "stride", "rows", "words", "planes")]
        m.d.sync += [words.mask[col].eq(store.lanes > col) for col in range(self._arch.array.cols)]

    def _cause(self, store: data.View) -> Value:
        """The rule that a STORE breaks, but for the length of packed sequences."""
        array = self._arch.array
        low = (1 << beat_log2(self._arch)) - 1
        end = store.addr + (store.rows - 1)[:16] * store.stride + store.planes * store.words
        cols = store.rows == array.cols
        whole = (store.rows & (array.cols - 1)) == 0
        odd = Mux(store.format == Format.OPERAND, ~cols, ~whole) | (store.format == Format.FP32)
        pattern = (store.n == 0) | (store.n > store.m) | (store.m > array.group_max)
        return first_cause(
            (Cause.BAD_FIELD, (store.lanes > array.cols) | (store.transpose & odd)),
            (Cause.BAD_FIELD, (store.format == Format.PACKED) & pattern),
            (Cause.SCRATCHPAD_RANGE, end > self._arch.scratchpads.acc_depth),
            (Cause.MEMORY_ALIGNMENT, ((store.dram_addr | store.row_stride | store.plane_stride) & low) != 0),
        )

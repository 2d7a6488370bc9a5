"""Data side of the store engine: accumulator words as beats of operands or of FP32."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch import Arch
from hwgen.fp.convert import FpNarrow
from hwgen.fp.formats import OPERAND_FORMATS
from hwgen.lib.shapes import WORD_BITS, AccRead
from hwgen.lib.shared import Shared
from hwgen.lib.streams import Queue
from hwgen.memory.nest import NestWalker
from hwgen.memory.path import BeatPath, Path
from hwgen.memory.walk import COUNT_BITS
from hwgen.reducer.reducer import Beat

NARROW_LATENCY = 1
"""Registers of the rounding units."""
BUFFER_BEATS = 8
"""Beats between accumulator and memory: covers `StoreReader.LATENCY` at one beat a cycle."""


class WordJob(data.StructLayout):
    """Words of a STORE and what becomes of them.

    addr, stride, rows, words : the block. mask : valid columns of the last word of a row. wide : FP32 goes out.
    by_rows : row by row, else column by column; transposed, in blocks of C rows. path : see `Path`.
    """

    def __init__(self, arch: Arch) -> None:
        super().__init__(
            {
                "addr": WORD_BITS,
                "stride": WORD_BITS,
                "rows": COUNT_BITS,
                "words": COUNT_BITS,
                "mask": arch.array.cols,
                "wide": 1,
                "by_rows": 1,
                "path": Path(),
            }
        )


class ReadFlags(data.StructLayout):
    """What goes with a word on its way from the accumulators."""

    def __init__(self, arch: Arch) -> None:
        super().__init__({"valid": 1, "wide": 1, "end": 1, "mask": arch.array.cols})


class StoreReader(wiring.Component):
    """Reads accumulator words, masks and narrows them, and gives out beats.

    Timing
    ------
    `LATENCY` cycles from an accepted read to its first beat, if it is not transposed or reduced; one beat a cycle. A
    word is read only when there is room for its beats, so `o` may stall at will. A job waits until all beats of the one
    before have left if its path is another; jobs of one path follow without a gap.

    Parameters
    ----------
    arch : Arch

    Members
    -------
    i : In(stream of WordJob)
    acc : Out(AccRead)
    o : Out(stream of beat)
    clear : In(1)     Forget jobs and beats.
    """

    LATENCY = AccRead.LATENCY + NARROW_LATENCY + Queue.LATENCY

    def __init__(self, arch: Arch) -> None:
        self._arch = arch
        super().__init__(
            {
                "i": In(stream.Signature(WordJob(arch))),
                "acc": Out(AccRead(arch)),
                "o": Out(stream.Signature(arch.memory.data_bits)),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Issue reads, then follow each word with its flags to the buffer, and on along the path of its job."""
        m = Module()
        m.submodules.walker = walker = NestWalker()
        m.submodules.buffer = buffer = Queue(shape=Beat(self._arch), depth=BUFFER_BEATS)
        m.submodules.path = path = BeatPath(self._arch)
        wiring.connect(m, buffer.o, path.i)
        wiring.connect(m, path.o, wiring.flipped(self.o))
        m.d.comb += [part.clear.eq(self.clear) for part in (walker, buffer, path)]
        used = Signal(range(BUFFER_BEATS + 1))
        """Beats in the buffer or on their way to it."""
        job = self._start(m, walker, path, used == 0)
        flags = self._issue(m, walker, job, used, buffer)
        self._collect(m, buffer, flags)
        return m

    def _start(self, m: Module, walker: NestWalker, path: BeatPath, empty: Value) -> data.View:
        """Begin a job as soon as its path is free; gives the job under way."""
        job, held = self.i.payload, Signal(WordJob(self._arch), reset_less=True)
        idle = empty & ~walker.o.valid & ~path.busy
        free = idle | (job.path.as_value() == held.path.as_value())
        cols = self._arch.array.cols
        nest = walker.i.payload
        inner, middle, outer = (nest.loops[number] for number in range(3))
        m.d.comb += [
            walker.i.valid.eq(self.i.valid & free),
            self.i.ready.eq(walker.i.ready & free),
            path.path.eq(held.path),
            nest.addr.eq(job.addr),
            inner.count.eq(Mux(job.by_rows, job.words, Mux(job.path.transpose, cols, job.rows))),
            inner.step.eq(Mux(job.by_rows, 1, job.stride)),
            middle.count.eq(Mux(job.by_rows, job.rows, job.words)),
            middle.step.eq(Mux(job.by_rows, job.stride, 1)),
            outer.count.eq(Mux(job.path.transpose, job.rows >> (cols.bit_length() - 1), 1)),
            outer.step.eq(job.stride << (cols.bit_length() - 1)),
        ]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += held.eq(job)
        return held

    def _issue(self, m: Module, walker: NestWalker, job: data.View, used: Signal, buffer: Queue) -> data.View:
        """Read the next word if the buffer has room and the word before has been split; gives its flags."""
        splitting, flags = Signal(), Signal(ReadFlags(self._arch))
        inner, middle, _ = walker.o.payload.last
        do_read = self.acc.valid & self.acc.ready
        beats = Mux(do_read, Mux(job.wide, 2, 1), 0)
        m.d.comb += [
            self.acc.valid.eq(walker.o.valid & (used <= BUFFER_BEATS - 2) & ~splitting),
            self.acc.address.eq(walker.o.payload.word),
            walker.o.ready.eq(do_read),
            flags.valid.eq(do_read),
            flags.wide.eq(job.wide),
            flags.end.eq(inner & (middle | ~job.path.transpose)),
            flags.mask.eq(Mux(Mux(job.by_rows, inner, middle), job.mask, ~0)),
        ]
        m.d.sync += [
            splitting.eq(do_read & job.wide),
            used.eq(used + beats - (buffer.o.valid & buffer.o.ready)),
        ]
        with m.If(self.clear):
            m.d.sync += used.eq(0)
        return flags

    def _collect(self, m: Module, buffer: Queue, flags: data.View) -> None:
        """Follow a word from its read to its beats, and put those into the buffer."""
        for stage in range(AccRead.LATENCY):
            register = Signal(ReadFlags(self._arch), name=f"read_{stage}")
            m.d.sync += register.eq(flags)
            with m.If(self.clear):
                m.d.sync += register.valid.eq(0)
            flags = register
        kept, narrowed = self._narrow(m, flags.mask)
        word = Signal(32 * self._arch.array.cols, reset_less=True)
        first, second, split, end = Signal(), Signal(), Signal(), Signal()
        with m.If(flags.valid & flags.wide):
            m.d.sync += word.eq(kept)
        m.d.sync += [first.eq(flags.valid), split.eq(flags.wide), second.eq(first & split), end.eq(flags.end)]
        with m.If(self.clear):
            m.d.sync += [first.eq(0), second.eq(0)]
        low, high = word[: len(word) // 2], word[len(word) // 2 :]
        m.d.comb += [
            buffer.i.valid.eq(first | second),
            buffer.i.payload.data.eq(Mux(second, high, Mux(split, low, narrowed))),
            buffer.i.payload.end.eq(end),
        ]

    def _narrow(self, m: Module, mask: Value) -> tuple[Value, Value]:
        """The word that a read returns, without the columns that are not valid; and a cycle later, rounded."""
        array, kept, narrowed = self._arch.array, [], []
        for col in range(array.cols):
            unit = Shared(FpNarrow, fmt=OPERAND_FORMATS[array.operand], latency=NARROW_LATENCY)
            m.submodules[f"narrow_{col}"] = unit
            value = self.acc.data.word_select(col, 32) & mask[col].replicate(32)
            m.d.comb += unit.i.eq(value)
            kept.append(value)
            narrowed.append(unit.o)
        return Cat(kept), Cat(narrowed)

"""Reading of the accumulator words of STORE, job by job, as far as there is room for their beats."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch import Arch
from hwgen.lib.shapes import WORD_BITS
from hwgen.memory.nest import NestWalker
from hwgen.memory.path import Reduction
from hwgen.memory.walk import COUNT_BITS

BUFFER_BEATS = 8
"""Beats behind a reader: covers the cycles from a read to its beat (`StoreReader.LATENCY`) at one beat a cycle."""


class WordJob(data.StructLayout):
    """Words of a STORE and what becomes of them.

    addr, stride, rows, words, planes : the block. mask : valid columns of the last word of a row. wide : FP32 goes out.
    by_rows : row by row, else column by column; with `transpose`, in blocks of C rows. reduction : see `Reduction`.
    """

    def __init__(self, arch: Arch) -> None:
        super().__init__(
            {
                "addr": WORD_BITS,
                "stride": WORD_BITS,
                "rows": COUNT_BITS,
                "words": COUNT_BITS,
                "planes": COUNT_BITS,
                "mask": arch.array.cols,
                "wide": 1,
                "by_rows": 1,
                "transpose": 1,
                "reduction": Reduction(),
            }
        )


class WordFlags(data.StructLayout):
    """What goes with a word: as in `WordJob`, and whether it is the last one of a sequence (`end`)."""

    def __init__(self, arch: Arch) -> None:
        super().__init__({"mask": arch.array.cols, "wide": 1, "transpose": 1, "end": 1})


class WordRead(data.StructLayout):
    """A word to be read, with its flags."""

    def __init__(self, arch: Arch) -> None:
        super().__init__({"address": WORD_BITS, "flags": WordFlags(arch)})


class WordReader(wiring.Component):
    """Asks for the words of one job after the other while the beats that have not left are fewer than `BUFFER_BEATS`.

    Timing
    ------
    The first word is offered 1 cycle after the job has been taken; one word a cycle, also from job to job, and one in 2
    cycles if it is wide.

    Parameters
    ----------
    arch : Arch

    Members
    -------
    i : In(stream of WordJob)
    o : Out(stream of WordRead)
    leaves : In(1)   A beat has left the buffer.
    busy : Out(1)    Words are to be read, or beats to leave.
    clear : In(1)    Forget jobs and beats.
    """

    def __init__(self, arch: Arch) -> None:
        self._arch = arch
        super().__init__(
            {
                "i": In(stream.Signature(WordJob(arch))),
                "o": Out(stream.Signature(WordRead(arch))),
                "leaves": In(1),
                "busy": Out(1),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """A walk over the words, a count of beats, and a pause behind a word of two beats."""
        m = Module()
        m.submodules.walker = walker = NestWalker()
        held, used, splitting = Signal(WordJob(self._arch), reset_less=True), Signal(range(BUFFER_BEATS + 1)), Signal()
        do_read, flags = self.o.valid & self.o.ready, self.o.payload.flags
        inner, middle, _, _ = walker.o.payload.last
        self._start(m, walker)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += held.eq(self.i.payload)
        m.d.comb += [
            self.o.valid.eq(walker.o.valid & (used <= BUFFER_BEATS - 2) & ~splitting),
            self.o.payload.address.eq(walker.o.payload.word),
            walker.o.ready.eq(do_read),
            walker.clear.eq(self.clear),
            self.busy.eq(walker.o.valid | (used != 0)),
            flags.wide.eq(held.wide),
            flags.transpose.eq(held.transpose),
            flags.end.eq(inner & (middle | ~held.transpose)),
            flags.mask.eq(Mux(Mux(held.by_rows, inner, middle), held.mask, ~0)),
        ]
        beats = Mux(do_read, Mux(held.wide, 2, 1), 0)
        m.d.sync += [splitting.eq(do_read & held.wide), used.eq(used + beats - self.leaves)]
        with m.If(self.clear):
            m.d.sync += used.eq(0)
        return m

    def _start(self, m: Module, walker: NestWalker) -> None:
        """The job as loops."""
        job, nest, cols = self.i.payload, walker.i.payload, self._arch.array.cols
        inner, middle, blocks, planes = (nest.loops[number] for number in range(4))
        m.d.comb += [
            walker.i.valid.eq(self.i.valid),
            self.i.ready.eq(walker.i.ready),
            nest.addr.eq(job.addr),
            inner.count.eq(Mux(job.by_rows, job.words, Mux(job.transpose, cols, job.rows))),
            inner.step.eq(Mux(job.by_rows, 1, job.stride)),
            middle.count.eq(Mux(job.by_rows, job.rows, job.words)),
            middle.step.eq(Mux(job.by_rows, job.stride, 1)),
            blocks.count.eq(Mux(job.transpose, job.rows >> (cols.bit_length() - 1), 1)),
            blocks.step.eq(job.stride << (cols.bit_length() - 1)),
            planes.count.eq(job.planes),
            planes.step.eq(job.words),
        ]

"""Data side of the store engine: accumulator words as beats of operands or of FP32, on one of two ways."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch import Arch
from hwgen.lib.shapes import AccRead
from hwgen.lib.streams import Queue
from hwgen.memory.narrow import Narrower
from hwgen.memory.path import BeatPath, PathBeat, Reduction
from hwgen.memory.words import BUFFER_BEATS, WordFlags, WordJob, WordReader


class StoreReader(wiring.Component):
    """Reads accumulator words, masks and narrows them, and gives out beats.

    Words that are transposed or reduced go by way of `shaped`, all others by way of `straight`. Jobs of one way are
    executed in order, whatever those of the other do: the straight way asks for its words first, and leaves every
    second read to the other one while they are FP32.

    Timing
    ------
    The first read is offered 2 cycles after the job was taken; `LATENCY` cycles from an accepted read to its beat on
    `straight`, and what `BeatPath` takes more to `shaped`; one beat a cycle on each. A word is read only when there is
    room for its beats, so that either way may stall at will. Jobs of one way follow without a gap; with another
    reduction, a job waits until the beats of the one before are at the end of the path.

    Parameters
    ----------
    arch : Arch

    Members
    -------
    i : In(stream of WordJob)
    acc : Out(AccRead)
    straight : Out(stream of beat), shaped : Out(stream of beat)
    clear : In(1)     Forget jobs and beats.
    """

    LATENCY = AccRead.LATENCY + Narrower.LATENCY + Queue.LATENCY

    def __init__(self, arch: Arch) -> None:
        self._arch = arch
        beats = Out(stream.Signature(arch.memory.data_bits))
        super().__init__(
            {
                "i": In(stream.Signature(WordJob(arch))),
                "acc": Out(AccRead(arch)),
                "straight": beats,
                "shaped": beats,
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """A reader and a buffer for each way; the accumulators and the rounding units are shared."""
        m = Module()
        arch = self._arch
        depth = max(2, arch.control.queue_depth)
        m.submodules.straight_jobs = straight_jobs = Queue(shape=WordJob(arch), depth=depth)
        m.submodules.shaped_jobs = shaped_jobs = Queue(shape=WordJob(arch), depth=depth)
        m.submodules.straight_words = straight_words = WordReader(arch)
        m.submodules.shaped_words = shaped_words = WordReader(arch)
        m.submodules.straight_buffer = straight_buffer = Queue(shape=arch.memory.data_bits, depth=BUFFER_BEATS)
        m.submodules.shaped_buffer = shaped_buffer = Queue(shape=PathBeat(arch), depth=BUFFER_BEATS)
        m.submodules.path = path = BeatPath(arch)
        wiring.connect(m, straight_buffer.o, wiring.flipped(self.straight))
        wiring.connect(m, shaped_buffer.o, path.i)
        wiring.connect(m, path.o, wiring.flipped(self.shaped))
        jobs = straight_jobs, shaped_jobs
        readers, buffers = (straight_words, shaped_words), (straight_buffer, shaped_buffer)
        m.d.comb += [part.clear.eq(self.clear) for part in (*jobs, *readers, *buffers, path)]
        m.d.comb += [
            reader.leaves.eq(buffer.o.valid & buffer.o.ready) for reader, buffer in zip(readers, buffers, strict=True)
        ]
        wiring.connect(m, straight_jobs.o, straight_words.i)
        self._start_shaped(m, shaped_jobs, shaped_words, path)
        to_path = self.i.payload.transpose | self.i.payload.reduction.packed
        m.d.comb += [
            straight_jobs.i.payload.eq(self.i.payload),
            straight_jobs.i.valid.eq(self.i.valid & ~to_path),
            shaped_jobs.i.payload.eq(self.i.payload),
            shaped_jobs.i.valid.eq(self.i.valid & to_path),
            self.i.ready.eq(Mux(to_path, shaped_jobs.i.ready, straight_jobs.i.ready)),
        ]
        self._collect(m, *self._read(m, straight_words, shaped_words), straight_buffer, shaped_buffer)
        return m

    def _start_shaped(self, m: Module, jobs: Queue, words: WordReader, path: BeatPath) -> None:
        """Begin the next job of the path when its reduction is that of the beats in it."""
        job, reduction = jobs.o.payload, Signal(Reduction(), reset_less=True)
        free = (~words.busy & ~path.busy) | (job.reduction.as_value() == reduction.as_value())
        m.d.comb += [
            words.i.payload.eq(job),
            words.i.valid.eq(jobs.o.valid & free),
            jobs.o.ready.eq(words.i.ready & free),
            path.reduction.eq(reduction),
        ]
        with m.If(words.i.valid & words.i.ready):
            m.d.sync += reduction.eq(job.reduction)

    def _read(self, m: Module, straight: WordReader, shaped: WordReader) -> tuple[data.View, Value, Value]:
        """Read a word; gives the flags of the word that comes, and for which of the ways it is."""
        acc, read = self.acc, Mux(straight.o.valid, straight.o.payload.as_value(), shaped.o.payload.as_value())
        flags = data.View(straight.o.payload.shape(), read).flags
        m.d.comb += [
            acc.valid.eq(straight.o.valid | shaped.o.valid),
            acc.address.eq(data.View(straight.o.payload.shape(), read).address),
            straight.o.ready.eq(acc.ready),
            shaped.o.ready.eq(acc.ready & ~straight.o.valid),
        ]
        for_straight, for_shaped = straight.o.valid & acc.ready, shaped.o.valid & shaped.o.ready
        for stage in range(AccRead.LATENCY):
            later = Signal(WordFlags(self._arch), name=f"flags_{stage}", reset_less=True)
            ways = Signal(2, name=f"ways_{stage}")
            m.d.sync += [later.eq(flags), ways.eq(Mux(self.clear, 0, for_straight | for_shaped << 1))]
            flags, (for_straight, for_shaped) = later, ways
        return flags, for_straight, for_shaped

    def _collect(
        self, m: Module, flags: data.View, for_straight: Value, for_shaped: Value, straight: Queue, shaped: Queue
    ) -> None:
        """Put the beats of the word that comes into the buffer of its way."""
        m.submodules.narrower = narrower = Narrower(self._arch)
        wide, second, transpose, end = Signal(), Signal(), Signal(), Signal()
        first, to_path = Signal(), Signal()
        m.d.comb += [
            narrower.word.eq(self.acc.data),
            narrower.mask.eq(flags.mask),
            narrower.wide.eq(for_straight & flags.wide),
            straight.i.valid.eq(first | second),
            straight.i.payload.eq(Mux(wide | second, narrower.half, narrower.narrow)),
            shaped.i.valid.eq(to_path),
            shaped.i.payload.beat.data.eq(narrower.narrow),
            shaped.i.payload.beat.end.eq(end),
            shaped.i.payload.transpose.eq(transpose),
        ]
        m.d.sync += [
            first.eq(for_straight & ~self.clear),
            to_path.eq(for_shaped & ~self.clear),
            wide.eq(narrower.wide),
            second.eq(first & wide & ~self.clear),
            end.eq(flags.end),
            transpose.eq(flags.transpose),
        ]

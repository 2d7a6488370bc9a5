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
from hwgen.memory.walk import COUNT_BITS, BlockWalker

NARROW_LATENCY = 1
"""Registers of the rounding units."""
BUFFER_BEATS = 8
"""Beats between accumulator and memory: covers `StoreReader.LATENCY` at one beat a cycle."""


class WordJob(data.StructLayout):
    """Words of a STORE: block, valid columns of the last word of a row (`mask`), and whether FP32 goes out (`wide`)."""

    def __init__(self, arch: Arch) -> None:
        super().__init__(
            {
                "addr": WORD_BITS,
                "stride": WORD_BITS,
                "rows": COUNT_BITS,
                "words": COUNT_BITS,
                "mask": arch.array.cols,
                "wide": 1,
            }
        )


class StoreReader(wiring.Component):
    """Reads accumulator words, masks and narrows them, and gives out beats.

    It reads no word before the first of its beats has been announced; the second beat may come unannounced.

    Timing
    ------
    `LATENCY` cycles from an accepted read to its first beat; one beat a cycle. A word is read only when there is room
    for its beats, so `o` may stall at will.

    Parameters
    ----------
    arch : Arch

    Members
    -------
    i : In(stream of WordJob)
    announce : In(1), announced : In(8)   Bursts of `announced + 1` more beats have an address.
    acc : Out(AccRead)
    o : Out(stream of beat)
    clear : In(1)     Forget jobs, announcements and beats; no read may be under way.
    """

    LATENCY = AccRead.LATENCY + NARROW_LATENCY + Queue.LATENCY

    def __init__(self, arch: Arch) -> None:
        self._arch = arch
        super().__init__(
            {
                "i": In(stream.Signature(WordJob(arch))),
                "announce": In(1),
                "announced": In(8),
                "acc": Out(AccRead(arch)),
                "o": Out(stream.Signature(arch.memory.data_bits)),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Issue reads, then follow each word with its mask and format to the buffer."""
        m = Module()
        m.submodules.walker = walker = BlockWalker(blocks=1)
        m.submodules.buffer = buffer = Queue(shape=self._arch.memory.data_bits, depth=BUFFER_BEATS)
        wiring.connect(m, wiring.flipped(self.o), buffer.o)
        job, step = self.i.payload, walker.o.payload
        mask = Signal.like(job.mask, reset_less=True)
        wide = Signal(reset_less=True)
        m.d.comb += [
            walker.i.valid.eq(self.i.valid),
            self.i.ready.eq(walker.i.ready),
            walker.i.payload.rows.eq(job.rows),
            walker.i.payload.words.eq(job.words),
            walker.i.payload.corners[0].addr.eq(job.addr),
            walker.i.payload.corners[0].stride.eq(job.stride),
            walker.clear.eq(self.clear),
            buffer.clear.eq(self.clear),
        ]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [mask.eq(job.mask), wide.eq(job.wide)]
        self._issue(m, walker, wide)
        self._collect(m, buffer, wide, Mux(step.row_end, mask, ~0))
        return m

    def _issue(self, m: Module, walker: BlockWalker, wide: Value) -> None:
        """Read the next word if it has been announced, the buffer has room, and the word before has been split."""
        memory = self._arch.memory
        ahead = Signal(range(-1, memory.outstanding * memory.burst_beats + 1))
        """Beats announced and not read; -1 if the second beat of a word is not announced yet."""
        used = Signal(range(BUFFER_BEATS + 1))
        splitting = Signal()
        do_read = self.acc.valid & self.acc.ready
        beats = Mux(do_read, Mux(wide, 2, 1), 0)
        m.d.comb += [
            self.acc.valid.eq(walker.o.valid & (ahead > 0) & (used <= BUFFER_BEATS - 2) & ~splitting),
            self.acc.address.eq(walker.o.payload.words[0]),
            walker.o.ready.eq(do_read),
        ]
        m.d.sync += [
            splitting.eq(do_read & wide),
            ahead.eq(ahead + Mux(self.announce, self.announced + 1, 0) - beats),
            used.eq(used + beats - (self.o.valid & self.o.ready)),
        ]
        with m.If(self.clear):
            m.d.sync += [ahead.eq(0), used.eq(0)]

    def _collect(self, m: Module, buffer: Queue, wide: Value, mask: Value) -> None:
        """Mask and round the word that a read returns; put its beats into the buffer."""
        array = self._arch.array
        valid = self.acc.valid & self.acc.ready
        for stage in range(AccRead.LATENCY):
            flags = Signal(data.StructLayout({"valid": 1, "wide": 1, "mask": array.cols}), name=f"read_{stage}")
            m.d.sync += [flags.valid.eq(valid), flags.wide.eq(wide), flags.mask.eq(mask)]
            valid, wide, mask = flags.valid, flags.wide, flags.mask

        narrowed, kept = [], []
        for col in range(array.cols):
            m.submodules[f"narrow_{col}"] = unit = Shared(
                FpNarrow, fmt=OPERAND_FORMATS[array.operand], latency=NARROW_LATENCY
            )
            value = self.acc.data.word_select(col, 32) & mask[col].replicate(32)
            m.d.comb += unit.i.eq(value)
            narrowed.append(unit.o)
            kept.append(value)
        word = Signal(32 * array.cols, reset_less=True)
        first, second, split = Signal(), Signal(), Signal()
        with m.If(valid & wide):
            m.d.sync += word.eq(Cat(kept))
        m.d.sync += [first.eq(valid), split.eq(wide), second.eq(first & split)]
        low, high = word[: len(word) // 2], word[len(word) // 2 :]
        m.d.comb += [
            buffer.i.valid.eq(first | second),
            buffer.i.payload.eq(Mux(second, high, Mux(split, low, Cat(narrowed)))),
        ]

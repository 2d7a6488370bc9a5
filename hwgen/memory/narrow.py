"""Accumulator words as beats: masked, then rounded to operands or split in two."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch import Arch
from hwgen.fp.convert import FpNarrow
from hwgen.fp.formats import OPERAND_FORMATS
from hwgen.lib.shared import Shared


class Narrower(wiring.Component):
    """Rounds the columns of a word, or shows its two halves one after the other.

    Timing
    ------
    `narrow` follows `word` by `LATENCY` cycles. `half` is the low half of the word of `LATENCY` cycles ago if `wide`
    came with it, and its high half in the cycle after that, in which `word` may be another one that is not wide.

    Parameters
    ----------
    arch : Arch

    Members
    -------
    word : In(C x FP32), mask : In(C)   A word, and its columns that are valid; the others are +0.
    wide : In(1)      It is to be split.
    narrow : Out(C operands)
    half : Out(C / 2 x FP32)
    """

    LATENCY = 1

    def __init__(self, arch: Arch) -> None:
        self._arch = arch
        beat, cols = arch.memory.data_bits, arch.array.cols
        super().__init__(
            {"word": In(32 * cols), "mask": In(cols), "wide": In(1), "narrow": Out(beat), "half": Out(beat)}
        )

    def elaborate(self, platform: object) -> Module:
        """A rounding unit for each column, and a register that moves by half a word."""
        m = Module()
        array, kept, narrowed = self._arch.array, [], []
        for col in range(array.cols):
            unit = Shared(FpNarrow, fmt=OPERAND_FORMATS[array.operand], latency=self.LATENCY)
            m.submodules[f"narrow_{col}"] = unit
            value = self.word.word_select(col, 32) & self.mask[col].replicate(32)
            m.d.comb += unit.i.eq(value)
            kept.append(value)
            narrowed.append(unit.o)
        held = Signal(32 * array.cols, reset_less=True)
        m.d.sync += held.eq(held >> len(self.half))
        with m.If(self.wide):
            m.d.sync += held.eq(Cat(kept))
        m.d.comb += [self.narrow.eq(Cat(narrowed)), self.half.eq(held)]
        return m

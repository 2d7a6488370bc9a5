"""Rows of FP32 in, packed planes of integers out."""

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.arch.attention import LOW_BITS
from hwgen.fp.formats import FP32
from hwgen.fp.integer import BITS_WIDTH, INTEGER_BITS, FpToInteger
from hwgen.fp.multiply import FpMultiply
from hwgen.lib.pipeline import delay
from hwgen.lib.shared import Shared
from hwgen.lib.streams import Queue
from hwgen.quantization.packer import PlaneBeat, PlanePacker


class QuantizerSettings(data.StructLayout):
    """How a word is quantised and where its segment goes.

    inverse : FP32, 1 over the step. bits : of the integers, with LSBs. low : they are split in two planes. offset,
    low_offset : byte of a beat in which the segment starts in each plane.
    """

    def __init__(self, beat_bytes: int) -> None:
        byte = (beat_bytes - 1).bit_length()
        super().__init__({"inverse": 32, "bits": BITS_WIDTH, "low": 1, "offset": byte, "low_offset": byte})


class FloatWord(data.StructLayout):
    """`lanes` FP32 values. half : of 32 lanes only the lower 16 count. last : ends a segment."""

    def __init__(self, lanes: int) -> None:
        super().__init__({"values": data.ArrayLayout(32, lanes), "half": 1, "last": 1})


class Quantizer(wiring.Component):
    """Integers value x inverse, split in planes and packed, as the contract page of the attention engine defines them.

    A segment is any number of words that become consecutive bits of a plane: a row of a head, or many rows.

    Timing
    ------
    A word a cycle while both planes are taken. From a word to the beat that it fills `latency` cycles.

    Parameters
    ----------
    lanes : int         Values in a word: 4, 8, 16 or 32.
    beat_bytes : int
    mul_latency : int   Registers of the multipliers.

    Members
    -------
    settings : In(QuantizerSettings)   Of the word that is offered.
    i : In(stream of FloatWord)
    msb, low : Out(stream of PlaneBeat)   Nothing comes from `low` for segments of one plane.
    busy : Out(1)       Something is inside.
    """

    def __init__(self, *, lanes: int, beat_bytes: int, mul_latency: int = 3) -> None:
        self._lanes, self._beat_bytes, self._mul_latency = lanes, beat_bytes, mul_latency
        super().__init__(
            {
                "settings": In(QuantizerSettings(beat_bytes)),
                "i": In(stream.Signature(FloatWord(lanes))),
                "msb": Out(stream.Signature(PlaneBeat(beat_bytes))),
                "low": Out(stream.Signature(PlaneBeat(beat_bytes))),
                "busy": Out(1),
            }
        )

    @property
    def integer_latency(self) -> int:
        """Cycles from a value to its integer."""
        return self._mul_latency + FpToInteger.LATENCY

    @property
    def latency(self) -> int:
        """Cycles from a word to the beat that it fills: integers, queue, packer."""
        return self.integer_latency + Queue.LATENCY + 2

    def elaborate(self, platform: object) -> Module:
        """Words enter when the queue has room for all that are under way; both packers take from it together."""
        m = Module()
        settings = self.settings
        fields = {"integers": INTEGER_BITS * self._lanes, "bits": BITS_WIDTH, "low": 1, "half": 1, "last": 1}
        byte = len(settings.offset)
        shape = data.StructLayout(fields | {"offset": byte, "low_offset": byte})
        m.submodules.queue = queue = Queue(shape=shape, depth=self.integer_latency + 2)
        under_way, enter = Signal(range(queue.depth + 1)), Signal()
        m.d.comb += [
            self.i.ready.eq(under_way != queue.depth),
            enter.eq(self.i.valid & self.i.ready),
            queue.i.valid.eq(delay(m, enter, self.integer_latency, "valid", reset=True)),
        ]
        m.d.sync += under_way.eq(under_way + enter - (queue.o.valid & queue.o.ready))
        bits = delay(m, settings.bits, self._mul_latency, "bits")
        integers = [self._integer(m, lane, bits) for lane in range(self._lanes)]
        word = self.i.payload
        beside = Cat(settings.bits, settings.low, word.half, word.last, settings.offset, settings.low_offset)
        beside = delay(m, beside, self.integer_latency, "beside")
        m.d.comb += queue.i.payload.eq(Cat(*integers, beside))

        msb, low = self._pack(m, queue.o)
        m.d.comb += self.busy.eq((under_way != 0) | msb.busy | low.busy)
        return m

    def _integer(self, m: Module, lane: int, bits: Value) -> Value:
        """The integer of a lane; `bits` are those of the word that leaves the multipliers."""
        multiplier = Shared(FpMultiply, fmt=FP32, latency=self._mul_latency)
        convert = Shared(FpToInteger)
        m.submodules[f"multiplier_{lane}"], m.submodules[f"convert_{lane}"] = multiplier, convert
        m.d.comb += [
            multiplier.a.eq(self.i.payload.values[lane]),
            multiplier.b.eq(self.settings.inverse),
            convert.i.eq(multiplier.o),
            convert.bits.eq(bits),
        ]
        return convert.o

    def _pack(self, m: Module, source: stream.Interface) -> tuple[PlanePacker, PlanePacker]:
        """Split the integers; a word leaves the queue when every plane that it belongs to takes it. Gives packers."""
        word = source.payload
        msb, low = (PlanePacker(lanes=self._lanes, beat_bytes=self._beat_bytes) for _ in range(2))
        m.submodules.msb_packer, m.submodules.low_packer = msb, low
        wiring.connect(m, msb.o, wiring.flipped(self.msb))
        wiring.connect(m, low.o, wiring.flipped(self.low))
        m.d.comb += [
            msb.i.valid.eq(source.valid & (low.i.ready | ~word.low)),
            low.i.valid.eq(source.valid & msb.i.ready & word.low),
            source.ready.eq(msb.i.ready & (low.i.ready | ~word.low)),
            msb.i.payload.bits.eq(word.bits - word.low * LOW_BITS),
            msb.i.payload.offset.eq(word.offset),
            msb.i.payload.half.eq(word.half),
            msb.i.payload.last.eq(word.last),
            low.i.payload.bits.eq(LOW_BITS),
            low.i.payload.offset.eq(word.low_offset),
            low.i.payload.half.eq(word.half),
            low.i.payload.last.eq(word.last),
        ]
        for lane in range(self._lanes):
            integer = word.integers.word_select(lane, INTEGER_BITS)
            # LSBs less 8 are the LSBs with the top bit turned over.
            m.d.comb += low.i.payload.elements[lane].eq(integer[:LOW_BITS] ^ (1 << LOW_BITS - 1))
            with m.If(word.low):
                m.d.comb += msb.i.payload.elements[lane].eq(integer[LOW_BITS:])
            with m.Else():
                m.d.comb += msb.i.payload.elements[lane].eq(integer)
        return msb, low

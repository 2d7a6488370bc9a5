# amaranth: UnusedElaboratable=no
"""Quantiser and plane packer on RTL against the golden model: every bit width, offset, segment length and stall."""

import random
from functools import cache

import numpy as np
import pytest

from hwgen.arch.attention import LOW_BITS, PLANE_BITS, QUERY_BITS
from hwgen.fp.integer import FpToInteger
from hwgen.quantization.packer import PackerWord, PlaneBeat, PlanePacker
from hwgen.quantization.quantizer import FloatWord, Quantizer, QuantizerSettings
from models.attention_engine.planes import quantize, split
from models.formats import CORNERS_FP32, fp32_values
from tests.hwgen.cycle_support import CycleBlock
from tests.hwgen.stream_support import StreamBlock
from tests.support import at_random, every_fourth, long, never

pytestmark = pytest.mark.verilator

SIZES = [(4, 8), (4, 16), (16, 64), (32, 64)]
STALLS = {"never": never, "every_fourth": every_fourth, "long": long(30)}


@cache
def converter() -> CycleBlock:
    return CycleBlock(FpToInteger(), "to_integer")


@cache
def packer(lanes: int, beat_bytes: int) -> StreamBlock:
    return StreamBlock(PlanePacker(lanes=lanes, beat_bytes=beat_bytes), f"packer_{lanes}_{beat_bytes}")


@cache
def quantizer(lanes: int, beat_bytes: int) -> StreamBlock:
    return StreamBlock(Quantizer(lanes=lanes, beat_bytes=beat_bytes), f"quantizer_{lanes}_{beat_bytes}")


@pytest.mark.parametrize("bits", range(2, 17))
def test_integers(bits, seed):
    """Halves and their neighbours, values around the limit, corner values, random bits."""
    rng, limit = np.random.default_rng(seed + bits), (1 << bits - 1) - 1
    halves = np.arange(-limit - 3, limit + 3.5, 0.5)[:4000].astype(np.float32)
    near = [np.nextafter(halves, np.float32(side)) for side in (-np.inf, np.inf)]
    drawn = rng.integers(0, 1 << 32, 5000, dtype=np.uint32).view(np.float32)
    values = np.concatenate(
        [halves, *near, fp32_values(CORNERS_FP32), drawn, rng.normal(0, limit, 2000)], dtype=np.float32
    )
    cycles = [{"i": value, "bits": bits} for value in values.view(np.uint32).tolist()]
    out = converter().run(cycles + [{}] * FpToInteger.LATENCY)[FpToInteger.LATENCY :]
    wanted = quantize(values, np.float32(1), bits)
    assert [(row["o"] ^ 0x8000) - 0x8000 for row in out] == wanted.tolist()


def beats_of(elements: list[int], bits: int, offset: int, beat_bytes: int) -> list[tuple[int, int, int]]:
    """Data of the marked bytes, strobes and last of the beats of a segment."""
    number = sum((value % (1 << bits)) << bits * place for place, value in enumerate(elements)) << 8 * offset
    size = offset + len(elements) * bits // 8
    strobes = (1 << size) - (1 << offset)
    count = -(-size // beat_bytes)
    return [
        (
            number >> 8 * beat_bytes * place & (1 << 8 * beat_bytes) - 1,
            strobes >> beat_bytes * place & (1 << beat_bytes) - 1,
            int(place == count - 1),
        )
        for place in range(count)
    ]


def unpacked(item: int, beat_bytes: int) -> tuple[int, int, int]:
    beat = PlaneBeat(beat_bytes).from_bits(item)
    return beat.data, beat.strobes, beat.last


def packer_items(segment: list[list[int]], bits: int, offset: int, lanes: int, beat_bytes: int, noise: int):
    """Words of a segment, halves where there are fewer elements; the offset of all but the first, bits above the
    elements and what is behind a half are rubbish."""
    for place, word in enumerate(segment):
        elements = [value % (1 << bits) | noise << bits & 0xFFFF for value in word]
        elements += [noise] * (lanes - len(word))
        shape = PackerWord(lanes, beat_bytes)
        fields = {"elements": elements, "bits": bits, "offset": 0 if place else offset, "last": word is segment[-1]}
        fields["half"] = len(word) < lanes
        yield shape.const(fields).as_bits()


@pytest.mark.parametrize(("lanes", "beat_bytes"), SIZES)
@pytest.mark.parametrize("stall", STALLS)
def test_packer(lanes, beat_bytes, stall, seed):
    """Segments of every width that follow one another, from every offset."""
    source, block = random.Random(seed), packer(lanes, beat_bytes)
    items, wanted, unit = [], [], block.component.unit
    for number in range(300):
        bits = QUERY_BITS[number % len(QUERY_BITS)]
        offset = unit * source.randrange(beat_bytes // unit)
        words = source.choice([1, 1, 2, 4, source.randrange(1, 40)])
        sizes = [16 if lanes == 32 and source.random() < 0.4 else lanes for _ in range(words)]
        segment = [[source.randrange(-(1 << bits - 1), 1 << bits - 1) for _ in range(size)] for size in sizes]
        items += packer_items(segment, bits, offset, lanes, beat_bytes, source.getrandbits(12))
        wanted += beats_of([value for word in segment for value in word], bits, offset, beat_bytes)
    run = block.transfer(items, stalls=at_random(seed, 0.3), sink=STALLS[stall])
    assert [unpacked(item, beat_bytes) for item in run.items] == wanted


def test_packer_takes_a_word_a_cycle(seed):
    """All but the cycle that the last beat of a segment may need; the beat comes 2 cycles after its word."""
    source = random.Random(seed)
    segment = [[source.randrange(-32, 32) for _ in range(16)] for _ in range(160)]
    run = packer(16, 64).transfer(packer_items(segment, 6, 0, 16, 64, 0))
    assert run.entered == list(range(run.entered[0], run.entered[0] + 160))
    assert run.left[-1] == run.entered[-1] + 2
    assert len(run.left) == 160 * 12 // 64


class Segment:
    """Random values with their settings, and the beats that both planes should be."""

    def __init__(self, source: random.Random, rng: np.random.Generator, lanes: int, beat_bytes: int) -> None:
        self.low = source.randrange(2)
        bits = source.choice(PLANE_BITS) + LOW_BITS if self.low else source.choice(QUERY_BITS)
        values = rng.normal(0, 100, (source.choice([1, 2, 4, 9, 20]), lanes)).astype(np.float32)
        values[rng.random(values.shape) < 0.02] = source.choice([np.nan, np.inf, -np.inf, 0, -0.0, 1e38, 1e-40])
        inverse = np.float32(((1 << bits - 1) - 1) / source.choice([90, 300, 1000]))
        offset, low_offset = (4 * source.randrange(beat_bytes // 4) for _ in range(2))
        settings = {"inverse": int(inverse.view(np.uint32)), "bits": bits, "low": self.low}
        settings |= {"offset": offset, "low_offset": low_offset}
        self.settings = QuantizerSettings(beat_bytes).const(settings).as_bits()
        words = [{"values": word.view(np.uint32).tolist(), "last": 0, "half": 0} for word in values]
        words[-1]["last"] = 1
        count = values.size
        if lanes == 32 and source.random() < 0.5:
            words[-1]["half"], count = 1, count - 16
        self.words = [FloatWord(lanes).const(word).as_bits() for word in words]
        integers = quantize(values.ravel()[:count], inverse, bits)
        msb, low = split(integers) if self.low else (integers, None)
        msb_bits = bits - LOW_BITS * self.low
        self.msb_beats = beats_of(msb.ravel().tolist(), msb_bits, offset, beat_bytes)
        self.low_beats = beats_of(low.ravel().tolist(), LOW_BITS, low_offset, beat_bytes) if self.low else []


def run_quantizer(block: StreamBlock, segments: list[Segment], stalls, msb_sink, low_sink, beat_bytes: int):
    """Beats of both planes, and the cycles in which words entered and beats of the first plane left."""
    waiting = [(segment.settings, word) for segment in segments for word in segment.words][::-1]
    patterns, showing = [pattern() for pattern in (stalls, msb_sink, low_sink)], False
    msb, low, entered, left = [], [], [], []
    for cycle in range(40_000):
        showing = bool(waiting) and (showing or not next(patterns[0]))
        settings, word = waiting[-1] if showing else (0, 0)
        ready = {"msb_ready": int(not next(patterns[1])), "low_ready": int(not next(patterns[2]))}
        out = block.step(settings=settings, i=word, i_valid=int(showing), **ready)
        for name, beats in (("msb", msb), ("low", low)):
            if out[f"{name}_valid"] and ready[f"{name}_ready"]:
                beats.append(unpacked(out[name], beat_bytes))
                left += [cycle] if name == "msb" else []
        if showing and out["i_ready"]:
            waiting.pop()
            entered.append(cycle)
            showing = False
        if not waiting and not showing and not out["busy"]:
            return msb, low, entered, left
    raise AssertionError(f"{len(waiting)} words are left")


@pytest.mark.parametrize(("lanes", "beat_bytes"), SIZES)
@pytest.mark.parametrize(
    ("probability", "msb_sink", "low_sink"), [(0, "never", "never"), (0.3, "long", "every_fourth")]
)
def test_quantizer(lanes, beat_bytes, probability, msb_sink, low_sink, seed):
    source, rng = random.Random(seed), np.random.default_rng(seed)
    segments = [Segment(source, rng, lanes, beat_bytes) for _ in range(120)]
    stalls = (at_random(seed, probability), STALLS[msb_sink], STALLS[low_sink])
    msb, low, _, _ = run_quantizer(quantizer(lanes, beat_bytes), segments, *stalls, beat_bytes)
    assert msb == [beat for segment in segments for beat in segment.msb_beats]
    assert low == [beat for segment in segments for beat in segment.low_beats]


def test_quantizer_rate_and_latency(seed):
    """A long segment enters without a gap, and its last beat leaves `latency` cycles after its last word."""
    source, rng = random.Random(seed), np.random.default_rng(seed)
    segments = [Segment(source, rng, 16, 64)]
    segments[0].words = segments[0].words[:-1] * 40 + segments[0].words[-1:]
    _, _, entered, left = run_quantizer(quantizer(16, 64), segments, never, never, never, 64)
    assert entered == list(range(entered[0], entered[0] + len(entered)))
    assert left[-1] in (entered[-1] + quantizer(16, 64).component.latency + spill for spill in (0, 1))
    assert quantizer(16, 64).component.latency == 8


@pytest.mark.parametrize(
    ("lanes", "beat_bytes", "text"), [(3, 8, "lanes must be one of 4, 8, 16, 32, not 3"), (16, 16, "beat_bytes")]
)
def test_sizes_that_do_not_work(lanes, beat_bytes, text):
    with pytest.raises(ValueError, match=text):
        PlanePacker(lanes=lanes, beat_bytes=beat_bytes)
